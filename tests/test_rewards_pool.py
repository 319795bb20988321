"""Worker processes: what rewards do wrong stays with the item, is counted, and never stops or corrupts the rest."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmcredit.answers.item import RewardItem
from mmcredit.components import build_all, load_plugin, lookup, register
from mmcredit.rewards.base import Reward
from mmcredit.rewards.pool import RewardPool, RewardResult, part_names
from mmcredit.rewards.process import wait, worker_environment

FUNCTIONS = '''
import os, random, re, signal, subprocess, sys, time

def score(item):
    return float(item.response)

def by_name(item):
    """Runs the action that the response names."""
    return ACTIONS[item.response](item) if item.response in ACTIONS else float(item.response)

def raises(item):
    raise KeyError("no such thing")

def recurses(item):
    return recurses(item)

def sleeps(item):
    time.sleep(600)

def spins_in_c(item):
    return 9 ** 9 ** 9  # holds the interpreter lock for hours

def catastrophic(item):
    return re.fullmatch(r"(a+)+b", "a" * 64)

def ignores_signals(item):
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

def leaves(item):
    os._exit(3)

def exits(item):
    sys.exit(4)

def crashes(item):
    os.kill(os.getpid(), signal.SIGSEGV)

def hogs(item):
    return len(bytearray(8 << 30))

def prints(item):
    print('[0,[1.0]]')
    print('{"ready":1}', flush=True)
    sys.stdout.write("no newline")
    os.write(1, b"[0,[5.0]]\\n")
    os.system("echo '[0,[6.0]]'")
    return 2.0

def reads(item):
    return len(sys.stdin.read())

def too_many(item):
    return [1.0, 2.0]

ACTIONS = {
    "raise": raises, "recurse": recurses, "sleep": sleeps, "spin": spins_in_c, "regex": catastrophic,
    "stubborn": ignores_signals, "leave": leaves, "exit": exits, "crash": crashes, "hog": hogs, "print": prints,
    "read": reads, "list": too_many, "nan": lambda item: float("nan"), "inf": lambda item: float("-inf"),
    "none": lambda item: None, "text": lambda item: "1.0", "complex": lambda item: 1j, "true": lambda item: True,
    "huge": lambda item: 10 ** 400, "half": lambda item: __import__("fractions").Fraction(1, 2),
}

def halves(items):
    return [float(item.response) for item in items][: len(items) // 2]

def share(items):
    total = sum(float(item.response) for item in items)
    return [float(item.response) / total for item in items]

def batch_raises(items):
    raise ValueError("whole batch")

def no_torch(item):
    return float(not {"torch", "transformers", "numpy"} & set(sys.modules))

def noise(item):
    return random.random() + len({"a", "b", "c"}) * 0

def hash_of(item):
    return float(hash("text") % 1000003)

def secret(item):
    return float(item.response in os.environ)

def pid(item):
    return float(os.getpid())

def starts_a_child(item):
    child = subprocess.Popen(["sleep", "600"])
    open(item.meta["file"], "w").write(f"{os.getpid()} {child.pid}")
    time.sleep(600)

def limits(item):
    import resource
    return float(resource.getrlimit(resource.RLIMIT_AS)[0])

def meta_sum(item):
    return float(sum(item.meta["array"]) + item.meta["number"])
'''


@pytest.fixture
def functions(tmp_path: Path) -> Callable[..., list[Any]]:
    """Rewards from the functions above, each `name` or (name, fields)."""
    file = tmp_path / "reward_file.py"
    file.write_text(FUNCTIONS)

    def rewards(*wanted: Any) -> list[Any]:
        entries = []
        for each in wanted:
            name, fields = (each, {}) if isinstance(each, str) else each
            entries.append({"function": {"path": f"{file}:{name}", "label": name, **fields}})
        return build_all("reward", entries)

    return rewards


def items(*responses: Any) -> list[RewardItem]:
    return [RewardItem(str(r), None, sample_id=f"s{i}") for i, r in enumerate(responses)]


def run(rewards: Sequence[Reward], batch: Sequence[RewardItem], **settings: Any) -> RewardResult:
    with RewardPool(rewards, **{"max_error_share": 1.0, **settings}) as pool:
        return pool.score(batch)


def gone(pid: int) -> bool:
    """Wait until a process is not there any more (a zombie that nobody reaps counts as gone)."""
    for _ in range(3000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def test_values_weights_and_order(functions: Any) -> None:
    rewards = functions(("score", {"weight": 2.0}), ("pid", {"weight": 0.0}), ("score", {"weight": -0.5}))
    result = run(rewards, items(3, 1, 2))
    assert list(result.parts) == ["score", "pid", "score_2"]
    assert result.parts["score"] == [3.0, 1.0, 2.0]
    assert result.parts["score_2"] == [3.0, 1.0, 2.0]  # before the weight
    assert result.total == [4.5, 1.5, 3.0]
    assert result.parts["pid"][0] != os.getpid()
    assert set(result.counts.values()) == {0}
    assert result.first_errors == []
    assert result.applies["score"] == [True] * 3


def test_part_names_are_distinct(functions: Any) -> None:
    entries = [
        "format",
        "exact_answer",
        {"exact_answer": {"tag": "b"}},
        {"format": {"label": "exact_answer_2"}},
        "format",
    ]
    assert part_names(build_all("reward", entries)) == [
        "format",
        "exact_answer",
        "exact_answer_2",
        "exact_answer_2_2",
        "format_2",
    ]


@pytest.mark.parametrize(
    ("action", "kind", "words"),
    [
        ("raise", "raised", "KeyError: 'no such thing' (reward_file.py:12)"),
        ("recurse", "raised", "RecursionError"),
        ("exit", "raised", "SystemExit: 4"),
        ("leave", "died", "exit code 3"),
        ("crash", "died", "SIGSEGV"),
        ("hog", "raised", "MemoryError"),
        ("nan", "not_finite", "nan"),
        ("inf", "not_finite", "-inf"),
        ("huge", "wrong_type", "int"),
        ("text", "wrong_type", "got str '1.0'"),
        ("list", "wrong_type", "got list [1.0, 2.0]"),
        ("complex", "wrong_type", "got complex 1j"),
    ],
)
def test_an_error_costs_its_item_only_and_is_counted(functions: Any, action: str, kind: str, words: str) -> None:
    rewards = functions(("by_name", {"on_error": -1.0, "on_timeout": -2.0, "weight": 3.0}), "secret")
    result = run(rewards, items(1, action, 2, action), memory_limit_mb=1024)
    assert result.parts["by_name"] == [1.0, -1.0, 2.0, -1.0]
    assert result.total == [3.0, -3.0, 6.0, -3.0]
    assert {name: n for name, n in result.counts.items() if n} == {"by_name/error": 2, f"by_name/error/{kind}": 2}
    assert len(result.first_errors) == 2
    assert result.first_errors[0].startswith("by_name on sample 's1': ")
    assert words in result.first_errors[0]


@pytest.mark.parametrize("action", ["sleep", "spin", "regex", "stubborn"])
def test_a_hang_is_killed_and_costs_its_item_only(functions: Any, action: str) -> None:
    rewards = functions(("by_name", {"on_error": -1.0, "on_timeout": -2.0, "timeout": 0.5}), "secret")
    result = run(rewards, items(1, action, 2))
    assert result.parts["by_name"] == [1.0, -2.0, 2.0]
    assert {name: n for name, n in result.counts.items() if n} == {"by_name/timeout": 1}
    assert "'s1'" in result.first_errors[0]
    assert "timeout=0.5 s" in result.first_errors[0]


def test_every_kind_of_trouble_in_one_batch_is_counted_exactly(functions: Any) -> None:
    rewards = functions(("by_name", {"on_error": -1.0, "on_timeout": -2.0, "timeout": 0.5}))
    actions = ["leave", 5, "sleep", "none", "spin", "nan", "raise", 6, "crash", "true", "half", "list"]
    expected = [-1.0, 5.0, -2.0, 0.0, -2.0, -1.0, -1.0, 6.0, -1.0, 1.0, 0.5, -1.0]
    with RewardPool(rewards, max_error_share=1.0) as pool:
        for _ in range(2):  # the pool is as good as new afterwards
            result = pool.score(items(*actions))
            assert result.total == expected
            assert result.counts == {
                "by_name/error": 5,
                "by_name/error/died": 2,
                "by_name/error/not_finite": 1,
                "by_name/error/raised": 1,
                "by_name/error/wrong_type": 1,
                "by_name/timeout": 2,
                "by_name/not_applicable": 1,
            }
            assert result.applies["by_name"] == [a != "none" for a in actions]
            assert len(result.first_errors) == 5


def test_prints_and_reads_do_not_touch_the_protocol(functions: Any, tmp_path: Path) -> None:
    log = tmp_path / "rewards.log"
    result = run(functions("by_name"), items(1, "print", "read", 3), log=log)
    assert result.total == [1.0, 2.0, 0.0, 3.0]
    assert result.counts["by_name/error"] == 0
    assert all(text in log.read_text() for text in ('{"ready":1}', "no newline", "[0,[5.0]]", "[0,[6.0]]"))


def test_whole_batch_functions(functions: Any) -> None:
    rewards = functions(
        ("share", {"call": "batch"}),
        ("halves", {"call": "batch", "on_error": 7.0}),
        ("batch_raises", {"call": "batch"}),
        "score",
    )
    result = run(rewards, items(*range(1, 41)), workers=2)
    assert result.parts["share"] == [i / 820 for i in range(1, 41)]
    assert result.parts["halves"] == [7.0] * 40
    assert result.counts["halves/error/wrong_length"] == 40
    assert result.counts["batch_raises/error/raised"] == 40
    assert "20 values for 40 items" in next(e for e in result.first_errors if e.startswith("halves"))
    assert result.parts["score"] == [float(i) for i in range(1, 41)]


def test_two_workers_give_the_same_as_one(functions: Any) -> None:
    rewards = functions(("by_name", {"timeout": 0.5, "on_timeout": 9.0}), "noise", "hash_of")
    batch = items(*[{7: "sleep", 40: "leave", 41: "raise"}.get(i, i) for i in range(90)])
    one, two = run(rewards, batch, seed=3), run(rewards, batch, seed=3, workers=2)
    assert one == two
    assert len(set(one.parts["noise"])) == 90
    assert not set(run(rewards[1:], batch, seed=4).parts["noise"]) & set(one.parts["noise"])
    order = list(range(90))
    random.Random(0).shuffle(order)
    shuffled = run(rewards[1:], [batch[i] for i in order], seed=3)
    assert shuffled.parts["noise"] == [one.parts["noise"][i] for i in order]
    with RewardPool(rewards[1:], seed=3) as pool:
        first, again = pool.score(batch), pool.score(batch)
    assert first == again


def test_workers_live_over_batches_and_start_lazily(functions: Any) -> None:
    with RewardPool(functions("pid"), workers=2) as pool:
        assert [w.pid for w in pool._workers] == [None, None]
        assert pool.score([]).total == []
        assert [w.pid for w in pool._workers] == [None, None]
        first = pool.score(items(1, 2))
        assert pool.score(items(3)).total[0] in first.total
        pool.start()
        pids = [w.pid for w in pool._workers]
        assert all(pid is not None for pid in pids)
    assert all(gone(pid) for pid in pids)
    assert pool.score(items(1)).total[0] not in pids  # closed is not broken
    pool.close()


def test_a_worker_killed_between_batches_costs_nothing(functions: Any) -> None:
    with RewardPool(functions("pid")) as pool:
        (first,) = pool.score(items(1)).total
        os.kill(int(first), signal.SIGKILL)
        assert gone(int(first))
        result = pool.score(items(1))
        assert result.counts["pid/error"] == 0
        assert result.total[0] != first


def test_a_worker_that_dies_before_it_has_begun_is_no_item_s_fault(functions: Any) -> None:
    with RewardPool(functions("pid")) as pool:
        (first,) = pool.score(items(1)).total
        os.kill(int(first), signal.SIGSTOP)  # it cannot read, so it is certain to die with the chunk unread
        pool._workers[0].give(pool._chunks(['{"response":"1","answer":null}'])[0])
        os.kill(int(first), signal.SIGKILL)
        done: list[Any] = []
        while not done:
            done = wait(pool._workers)
        assert len(done) == 1
        assert done[0].outcomes == [float(pool._workers[0].pid or 0)]


def test_items_too_large_to_read_stop_the_run(functions: Any) -> None:
    batch = [RewardItem("1", None, prompt="x" * 200_000_000)]
    with pytest.raises(RuntimeError, match=r"on reading its items .* raise memory_limit_mb"):
        run(functions("score"), batch, memory_limit_mb=256)


def test_large_messages_pass(functions: Any) -> None:
    batch = [RewardItem(str(i), None, prompt="x\n\u2028" * 10_000) for i in range(64)]
    assert run(functions("score"), batch).total == [float(i) for i in range(64)]


def test_odd_text_and_common_types_in_meta_pass(functions: Any) -> None:
    meta = {"array": np.arange(4), "number": np.float32(0.5), "path": Path("a"), "nan": float("nan"), "pair": (1, 2)}
    batch = [RewardItem("1\ud800\x00\n\u2028", "ä", meta=meta)]
    assert run(functions("meta_sum"), batch).total == [6.5]
    with pytest.raises(ValueError, match="sample 'x' cannot be handed to a reward worker: a value of type bytes"):
        run(functions("score"), [RewardItem("1", None, sample_id="x", meta={"image": b"..."})])


def test_error_share_stops_the_run(functions: Any) -> None:
    rewards = functions("by_name")
    good, bad = [1] * 16, ["raise"] * 4
    with RewardPool(rewards) as pool:
        pool.score(items(*good, *bad))  # 4 of 20 is 0.2: not above
        with pytest.raises(RuntimeError) as caught:
            pool.score(items(*good, *bad, "nan"))
        text = str(caught.value)
        assert "'by_name' failed on 5 of 21 items" in text
        assert "max_error_share=0.2" in text
        assert "by_name on sample 's16': KeyError" in text
        assert pool.score(items(*good)).total == [1.0] * 16  # usable, if somebody wants to go on


def test_error_share_is_judged_on_enough_items(functions: Any) -> None:
    with RewardPool(functions("by_name"), max_error_share=0.2, min_items=20) as pool:
        assert pool.score(items("raise", "raise")).counts["by_name/error"] == 2
        assert pool.score(items("nan", "raise")).counts["by_name/error"] == 2
        with pytest.raises(RuntimeError, match="failed on 5 of 6 items"):
            pool.score(items("nan", 1))


def test_error_share_stops_before_every_item_has_hung(functions: Any) -> None:
    rewards = functions(("by_name", {"timeout": 0.3}))
    with (
        RewardPool(rewards, max_error_share=0.02) as pool,
        pytest.raises(RuntimeError, match="failed on 3 of 100 items"),
    ):
        pool.score(items(*["sleep"] * 100))  # at 0.3 s each the whole batch would take half a minute


def test_not_applicable_is_no_error(functions: Any) -> None:
    result = run(functions("by_name"), items(*["none"] * 50), max_error_share=0.0)
    assert result.total == [0.0] * 50
    assert result.counts == {"by_name/error": 0, "by_name/timeout": 0, "by_name/not_applicable": 50}


def test_worker_is_light_limited_and_without_credentials(functions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MY_SECRET", "DB_PASSWORD", "KEEP_TOKEN", "PLAIN"):
        monkeypatch.setenv(name, "x")
    names = ["HF_TOKEN", "WANDB_API_KEY", "MY_SECRET", "DB_PASSWORD", "KEEP_TOKEN", "PLAIN", "PATH"]
    result = run(functions("secret"), items(*names), keep_env=["KEEP_TOKEN"], memory_limit_mb=1000)
    assert result.total == [0, 0, 0, 0, 1, 1, 1]
    assert "torch" in sys.modules  # here, but not there
    assert run([*build_all("reward", ["exact_answer", "format"]), *functions("no_torch")], items(1)).parts[
        "no_torch"
    ] == [1.0]
    assert run(functions("limits"), items(1), memory_limit_mb=1000).total == [1000 * 2**20]
    assert worker_environment({"A": "1"}, 7, frozenset())["PYTHONHASHSEED"] == "7"


def test_killing_a_worker_takes_along_what_it_started(functions: Any, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    rewards = functions(("starts_a_child", {"timeout": 1.0}))
    batch = [RewardItem("", None, meta={"file": str(file)})]
    assert run(rewards, batch).counts["starts_a_child/timeout"] == 1
    assert all(gone(int(pid)) for pid in file.read_text().split())


@pytest.mark.parametrize("action", ["idle", "starts_a_child", "spin"])
def test_a_killed_parent_leaves_no_orphan(functions: Any, tmp_path: Path, action: str) -> None:
    file = tmp_path / "pids"
    name = {"idle": "pid", "starts_a_child": "starts_a_child", "spin": "by_name"}[action]
    timeout = {"starts_a_child": 600.0}.get(action, 1.0)
    script = f"""
        import sys, time
        from mmcredit.components import build_all
        from mmcredit.rewards.base import RewardItem
        from mmcredit.rewards.pool import RewardPool
        path, file = {str(tmp_path / "reward_file.py")!r}, {str(file)!r}
        name, timeout, action = {name!r}, {timeout}, {action!r}
        pool = RewardPool(build_all("reward", [{{"function": {{"path": path + ":" + name, "timeout": timeout}}}}]))
        pool.start()
        print(pool._workers[0].pid, flush=True)
        if action == "spin":
            pool._workers[0].timeouts = [600.0]  # the parent would not kill it
        if action != "idle":
            pool.score([RewardItem("spin", None, meta={{"file": file}})])
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline())]
    if action == "starts_a_child":
        while not file.exists() or len(file.read_text().split()) < 2:
            time.sleep(0.05)
        pids = [int(pid) for pid in file.read_text().split()]
    elif action == "spin":
        time.sleep(1.0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert all(gone(pid) for pid in pids)


def test_an_interrupted_score_leaves_a_clean_pool(functions: Any) -> None:
    with RewardPool(functions("by_name")) as pool:
        pool.start()

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                pool.score(items(1, "sleep", 2))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert pool.score(items(4, 5)).total == [4.0, 5.0]


@register("reward", "test_shout")
class Shout(Reward):
    """A reward of a module that is not mmcredit's: counts exclamation marks.

    Found in the worker by importing its module.
    """

    factor: float = 1.0

    def __call__(self, items: Sequence[RewardItem]) -> list[float]:
        return [item.response.count("!") * self.factor for item in items]


@register("reward", "test_unprepared")
class Unprepared(Reward):
    """A reward that cannot be prepared."""

    seconds: float = 0.0

    def prepare(self) -> None:
        time.sleep(self.seconds)
        raise OSError("model file not found")


def test_rewards_of_other_packages_and_of_plugin_files(tmp_path: Path) -> None:
    assert run(build_all("reward", [{"test_shout": {"factor": 2}}]), items("a!!")).total == [4.0]
    plugin = tmp_path / "whisper_plugin.py"
    plugin.write_text(
        "from mmcredit.components import register\n"
        "from mmcredit.rewards.base import Reward\n"
        '@register("reward", "test_whisper")\n'
        "class Whisper(Reward):\n"
        '    """Counts dots."""\n'
        "    def __call__(self, items):\n"
        '        return [item.response.count(".") for item in items]\n'
    )
    load_plugin(plugin)
    assert lookup("reward", "test_whisper").__module__ == "mmcredit_plugin_whisper_plugin"
    assert run(build_all("reward", ["test_whisper"]), items("a..")).total == [2.0]


def test_a_reward_that_cannot_be_prepared_stops_at_the_start(functions: Any) -> None:
    with RewardPool(build_all("reward", ["test_unprepared"])) as pool:
        with pytest.raises(RuntimeError, match=r"cannot be prepared .* OSError: model file not found"):
            pool.start()
        with pytest.raises(RuntimeError, match="cannot be prepared"):
            pool.score(items(1))
    slow = build_all("reward", [{"test_unprepared": {"seconds": 600}}])
    with RewardPool(slow, start_timeout=1.0) as pool, pytest.raises(RuntimeError, match="start_timeout=1 s"):
        pool.start()
    with RewardPool(functions("absent")) as pool, pytest.raises(RuntimeError, match="has no function 'absent'"):
        pool.start()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"memory_limit_mb": 10}, "memory_limit_mb must be"),
        ({"max_error_share": 1.5}, "max_error_share must be within 0 and 1, got 1.5"),
        ({"min_items": 0}, "min_items must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardPool(build_all("reward", ["format"]), **settings)


def test_rewards_that_no_worker_could_import_are_refused() -> None:
    with pytest.raises(ValueError, match="no rewards"):
        RewardPool([])

    class Local(Reward):
        """Defined inside a function."""

    with pytest.raises(ValueError, match="put it at the top level of a module"):
        RewardPool([Local()])


def test_hostile_mathematics_costs_that_answer_only() -> None:
    rewards = build_all("reward", [{"math": {"timeout": 2.0, "on_timeout": 0.0}}])
    answers = [r"\boxed{\frac{1}{2}}", r"\boxed{9^{9^{9^9}}}", r"\boxed{0.5}"]
    result = run(rewards, [RewardItem(a, "1/2") for a in answers])
    assert result.total == [1.0, 0.0, 1.0]
    assert json.loads(json.dumps(result.counts)) == result.counts
