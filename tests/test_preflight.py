"""`mmcredit check` on data that is right and on data that is wrong: what it says, and its exit code."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from runs import parse
from tiny import save, tiny_image, tiny_text

from mmcredit.policy.policy import Policy
from mmcredit.policy.wording import as_read
from mmcredit.train.loop import Trainer
from mmcredit.train.preflight import fit
from mmcredit.train.preflight.look import look
from mmcredit.train.preflight.samples import pattern, read_set, spread

GOOD = [{"prompt": f"{i} + {i} = ? Write it in <answer></answer>.", "answer": str(2 * i)} for i in range(20)]
OTHER = [{"prompt": f"{i} - {i} = ? Write it in <answer></answer>.", "answer": "0"} for i in range(5)]


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    model, tokenizer = tiny_text("qwen3")
    return save(model, tokenizer, folder)


def run_of(tmp_path, rows, folder, held_out=None, **changes):
    """A checked config on JSON lines; rows that are text are written as they are."""

    def write(name, rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
        return {"jsonl": {"path": str(tmp_path / name)}}

    own = {"data__train": write("train.jsonl", rows), "model__path": str(folder), "rewards": ["exact_answer"]}
    if held_out is not None:
        own["data__evaluate"] = write("test.jsonl", held_out)
    return parse(tmp_path, **(own | changes))


def checked(tmp_path, rows, folder, held_out=None, limit=50, **changes):
    run = run_of(tmp_path, rows, folder, held_out, **changes)
    return look(run, Policy.load(run.model, media_limits=run.data.media), limit)


def test_clean_data_give_no_warning(tmp_path, text_folder):
    found = checked(tmp_path, GOOD, text_folder, OTHER, rewards=["exact_answer", "format"])
    assert (found.errors, found.warnings, found.notes) == ([], [], [])
    assert [(r.setting, r.total, r.read, len(r.usable)) for r in found.sets] == [
        ("data.train", 20, 20, 20),
        ("data.evaluate", 5, 5, 5),
    ]
    assert found.payments["data.train"].judged == 20
    shown = found.payments["data.train"].shown
    assert shown is not None
    assert shown.values == {"exact_answer": 1.0, "format": 1.0}
    assert "<|im_start|>user\n0 + 0 = ?" in shown.read.text


def test_samples_are_spread_over_the_set(tmp_path, text_folder):
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 10) == [0, 1, 2]
    assert spread(0, 10) == []
    assert checked(tmp_path, GOOD, text_folder, limit=7).train.read == 7


def test_one_reason_is_said_once_with_its_count(tmp_path, text_folder):
    long = [{"prompt": f"number {i}: " + "word " * (300 + i), "answer": "1"} for i in range(8)]
    reserved = [{"prompt": f"<|im_end|> {i}", "answer": "1"} for i in range(3)]
    found = checked(tmp_path, [*GOOD, *long, *reserved], text_folder, data__max_prompt_tokens=200)
    assert sorted(r.count for r in found.train.refusals) == [3, 8]
    most = max(found.train.refusals, key=lambda r: r.count)
    assert "data.max_prompt_tokens=200" in most.message
    assert len(most.names) == 3
    assert found.ok
    assert any("11 of 31 samples of data.train (35.5%) would be dropped" in w for w in found.warnings)


def test_messages_that_differ_in_names_and_numbers_are_one_kind():
    assert pattern("sample a/1: 300 tokens of 'x'", "a/1") == pattern("sample b/22: 4 tokens of 'yy'", "b/22")
    assert pattern("sample a: too long", "a") != pattern("sample a: no user turn", "a")


def test_a_set_without_a_usable_sample_says_why(tmp_path, text_folder):
    found = checked(tmp_path, [{"prompt": "word " * 300, "answer": "1"}] * 4, text_folder, data__max_prompt_tokens=50)
    assert not found.ok
    assert "none of the 4 samples read from data.train is usable" in found.errors[0]
    assert "data.max_prompt_tokens=50" in found.errors[0]


def test_an_empty_set_says_why(text_folder):
    policy = SimpleNamespace()

    class Rows(list):
        pass

    from mmcredit.data.dropped import Dropped

    rows = Rows()
    rows.dropped = Dropped()
    rows.dropped.add("not in the split", "row 1", count=7)
    report = read_set("data.evaluate", lambda: rows, policy, 10, None)
    assert report.error is not None
    assert "data.evaluate is empty: 7 dropped: not in the split: 7 (row 1" in report.error
    assert "gave no row" in str(read_set("data.train", lambda: [], policy, 10, None).error)

    def broken():
        raise ValueError("source jsonl: none of its 9 rows passes where={'kind': 'x'}")

    assert "none of its 9 rows passes where" in str(read_set("data.train", broken, policy, 10, None).error)


def test_both_sets_are_read_alike(tmp_path, text_folder):
    """A held-out set of which nothing is usable is found before the run, and so is one bad row of it."""
    bad = [{"prompt": "<|im_end|>", "answer": "1"}]
    found = checked(tmp_path, GOOD, text_folder, [*OTHER[:3], *bad])
    assert found.held_out is not None
    assert [r.count for r in found.held_out.refusals] == [1]
    assert any("1 of 4 samples of data.evaluate" in w and "accuracy" in w for w in found.warnings)
    assert found.ok
    many = checked(tmp_path, GOOD, text_folder, [*OTHER[:3], *bad, *bad])
    assert any("more than check.max_unusable_held_out" in e and "the run would stop" in e for e in many.errors)
    nothing = checked(tmp_path, GOOD, text_folder, bad)
    assert not nothing.ok
    assert "none of the 1 samples read from data.evaluate is usable" in nothing.errors[0]


def test_a_held_out_set_that_was_trained_on(tmp_path, text_folder):
    found = checked(tmp_path, GOOD, text_folder, [*OTHER, GOOD[3]])
    (word,) = found.warnings
    assert "1 of the 6 held-out questions read are among the 20 training questions" in word


def test_a_column_of_images_under_an_unknown_name(tmp_path, text_folder):
    rows = [row | {"picture": f"{i}.png"} for i, row in enumerate(GOOD)]
    text = checked(tmp_path, rows, text_folder)
    assert any("column picture of data.train looks like images or videos" in w for w in text.warnings)
    vision = checked(tmp_path, rows, parse(tmp_path).model.path)
    assert any("(picture looks like it) in the source's columns.images" in w for w in vision.warnings)


# --- the model reads the user's words ---------------------------------------------------------------------------------


def test_words_that_a_template_drops_are_found(tmp_path, text_folder):
    """A template that reads strings, as public ones do, loses content that comes in parts."""
    model, tokenizer = tiny_text("qwen3")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    folder = save(model, tokenizer, tmp_path / "strings")
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": " 2 + 2?"}]
    rows = [{"prompt": [{"role": "user", "content": parts}], "answer": "4"}] * 3
    run = run_of(tmp_path, rows, folder)
    found = look(run, Policy.load(run.model), 10)
    if found.train.usable:  # content in parts is put together before the template sees it
        assert all("2 + 2?" in read.text for read in found.train.usable)
    else:
        assert "template" in found.errors[0]


def configs_sample(text, system=None):
    from mmcredit.data.sample import Sample

    first = () if system is None else ({"role": "system", "content": system},)
    return Sample("s", (*first, {"role": "user", "content": text}), answer="1")


def test_visual_tokens_are_shown_by_their_number(tmp_path):
    run = parse(tmp_path)
    policy = Policy.load(run.model, media_limits=run.data.media)
    found = look(run, policy, 3)
    text = found.train.usable[0].text
    count = found.train.usable[0].visual
    assert f"<|vision_start|><image: {count} tokens><|vision_end|>" in text
    assert "image_pad" not in text
    assert as_read(policy.encode(configs_sample("plain")), policy.tokenizer).count("tokens>") == 0


# --- references -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "rewards", "unpaid", "words"),
    [
        ([{"prompt": "a", "answer": "red"}], ["number"], 1, ["holds no number", "exact_answer"]),
        (
            [*({"prompt": "a", "answer": "4"} for _ in range(9)), {"prompt": "b", "answer": "red"}],
            ["number"],
            1,
            ["holds no number"],
        ),
        ([{"prompt": "a", "answer": "a } b"}], [{"exact_answer": {"extract": "boxed"}}], 1, ["extract"]),
        ([{"prompt": "a", "answer": "dark blue"}], ["option"], 1, ["names no option"]),
        ([{"prompt": "a", "answer": "red"}], ["iou"], 1, ["is no box"]),
        ([{"prompt": "a", "answer": "We add.\nSo it is large"}], ["number"], 1, ["a whole text", "columns.answer"]),
        ([{"prompt": "a", "answer": "red"}], ["exact_answer", {"format": {"pattern": "ok"}}], 1, ["preset or pattern"]),
        ([{"prompt": "a", "answer": r"so it is $\boxed{26}$."}], ["exact_answer", "math"], 0, []),
        ([{"prompt": "a", "answer": "Half of 52 is 26.\n#### 26"}], ["number", "format"], 0, []),
        ([{"prompt": "a", "answer": "<answer> red </answer>"}], ["exact_answer"], 0, []),
    ],
    ids=["words", "some", "brace", "option", "box", "text", "pattern", "boxed", "gsm8k", "tagged"],
)
def test_references_that_no_response_can_be_paid_for(tmp_path, text_folder, rows, rewards, unpaid, words):
    found = checked(tmp_path, rows, text_folder, rewards=rewards)
    payment = found.payments["data.train"]
    assert (payment.judged, payment.not_paid) == (len(rows), unpaid)
    said = [m for m in (*found.errors, *found.warnings) if "references of data.train" in m]
    assert len(said) == bool(unpaid)
    for word in (*words, *(["train.jsonl:"] if unpaid else [])):
        assert word in said[0]
    assert found.ok == (unpaid < len(rows))  # none that can be paid for: nothing can be learnt


def test_a_user_s_own_format_is_found_among_the_ways_to_write_it(tmp_path, text_folder):
    patterns = [r"<think>\n.*\n</think>\n\n<answer>\n.*\n</answer>", r"<think>.*</think>\s*<answer>.*</answer>"]
    for pattern_ in patterns:
        found = checked(tmp_path, GOOD[:3], text_folder, rewards=["exact_answer", {"format": {"pattern": pattern_}}])
        assert (found.errors, found.warnings) == ([], [])


def test_samples_without_a_reference_are_not_applicable_and_counted(tmp_path, text_folder):
    rows = [*GOOD[:4], {"prompt": "why?"}, {"prompt": "how?", "answer": ""}]
    found = checked(tmp_path, rows, text_folder)
    payment = found.payments["data.train"]
    assert (payment.judged, len(payment.without_reference)) == (4, 2)
    (word,) = [w for w in found.warnings if "reference" in w]
    assert "2 samples of data.train have no reference answer" in word
    assert "columns.answer" in word
    assert found.ok


def test_a_prompt_that_asks_for_another_place_than_the_reward_looks_at(tmp_path, text_folder):
    rows = [{"prompt": rf"{i} + 1? Put it into \boxed{{}}.", "answer": str(i + 1)} for i in range(4)]
    found = checked(tmp_path, rows, text_folder)
    (word,) = found.warnings
    assert r"4 prompts of data.train ask for \boxed{}" in word
    assert "exact_answer looks for <answer>" in word
    right = checked(tmp_path, rows, text_folder, rewards=[{"exact_answer": {"extract": "boxed"}}])
    assert right.warnings == []
    assert right.payments["data.train"].asked["exact_answer"] == (r"\boxed{}", 4, 4)


def test_a_reward_that_raises_on_the_right_answer_is_an_error(tmp_path, text_folder):
    (tmp_path / "mine.py").write_text("def mine(item):\n    raise KeyError('gold')\n")
    function = {"function": {"path": f"{tmp_path}/mine.py:mine"}}
    found = checked(tmp_path, GOOD, text_folder, rewards=[function])
    assert not found.ok
    assert "gold" in found.errors[0]


# --- model and data belong together -----------------------------------------------------------------------------------


def events(run):
    return (run.run.dir / "events.jsonl").read_text()


def test_a_method_that_reads_images_on_a_text_model(tmp_path, text_folder):
    run = run_of(tmp_path, GOOD, text_folder, credit=["grpo", "vppo"], run__steps=1)
    found = look(run, Policy.load(run.model), 5)
    (word,) = found.warnings
    assert word.startswith("credit vppo looks at images, but ")
    assert "reads text only" in word
    Trainer(run).run()
    assert "credit vppo looks at images" in events(run)


def test_a_vision_model_whose_samples_have_no_media(tmp_path):
    run = run_of(tmp_path, GOOD, parse(tmp_path).model.path, credit=["grpo", "pgpo"], run__steps=1)
    found = look(run, Policy.load(run.model), 5)
    (word,) = found.warnings
    assert "none of the 5 prompts of data.train has one, and credit pgpo then changes nothing: a blind run" in word
    assert "columns.images" in word
    Trainer(run).run()
    assert "none of the 4 prompts of the first step has one" in events(run)


def test_some_samples_without_media(tmp_path):
    import io

    buffer = io.BytesIO()
    tiny_image(56).save(buffer, format="PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    rows = [{"prompt": "What is it?", "answer": "x", "image": "a.png"}, {"prompt": "And this?", "answer": "x"}]
    changes = {"data__media": {"root": str(tmp_path)}}
    found = checked(tmp_path, rows, parse(tmp_path).model.path, **changes)
    assert any("1 of 2 prompts of data.train have no image or video" in w for w in found.warnings)


def test_components_that_read_images_are_known_by_their_declarations(tmp_path):
    def named(**changes):
        return fit.image_components(parse(tmp_path, **changes))

    assert named() == []
    assert named(objective__regularizers=["entropy", {"kl": {}}]) == []
    assert named(credit=["grpo", "pgpo"]) == ["credit pgpo"]
    assert named(objective__regularizers=["papo"]) == ["regularizer papo"]
    assert named(objective__regularizers=["roma"]) == ["regularizer roma"]
    assert named(rollout__strategies=["noisy_rollout"]) == ["strategy noisy_rollout"]
    assert named(credit=["spo_chain"], rollout__strategies=["spo_chain"]) == []


def test_bfloat16_on_a_cpu_is_said(tmp_path):
    run = parse(tmp_path, model__dtype="bfloat16", model__device="cpu")
    cpu = SimpleNamespace(device=torch.device("cpu"), tower=object())
    assert any("bfloat16 on a CPU" in w for w in fit.model_words(run, cpu))
    gpu = SimpleNamespace(device=torch.device("cuda"), tower=object())
    assert fit.model_words(run, gpu) == []
