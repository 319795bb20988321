"""Memory: what is kept per token, what a micro-batch holds, what is free, and what lowers it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from runs import parse
from tiny import tiny_text

from mmcredit.policy.batching import micro_batches
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.costs import ViewCost
from mmcredit.policy.layout import Row
from mmcredit.policy.policy import Policy
from mmcredit.policy.prompt import Prompt
from mmcredit.train.preflight import activations, memory
from mmcredit.train.preflight.look import look
from mmcredit.train.preflight.machine import MIB, Free, free_memory, held_memory


def text_policy(**changes):
    model, tokenizer = tiny_text("qwen3", layers=4)
    return Policy(model, tokenizer, None, ModelConfig(path="tiny", **changes))


@pytest.mark.parametrize("layout", ["shared", "padded"])
@pytest.mark.parametrize(("prompt", "rows", "length"), [(30, 4, 20), (60, 8, 30), (100, 2, 64)])
def test_bytes_per_token_foretell_a_larger_batch(layout, prompt, rows, length):
    """Measured on about 130 tokens, right within 15 % for batches of other shapes."""
    policy = text_policy(layout=layout)
    kept = activations.measure(policy, None)
    assert kept.shared == (layout == "shared")
    real = activations._prompt(policy, prompt)
    packed = [Row(real, torch.full((length,), 5), 0) for _ in range(rows)]
    found = activations._saved(
        policy, lambda: policy.body.hidden(packed, blind=False, layout=layout, weights="policy", cost=ViewCost())
    )
    expected = kept.body(1, prompt, rows, length)
    assert 0.85 * found < expected < 1.15 * found


def test_frozen_weights_keep_less_and_gradient_checkpointing_is_seen_through():
    policy = text_policy()
    whole = activations.measure(policy, None)
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_("layers.3" in name)
    assert activations.measure(policy, None).response_token < 0.6 * whole.response_token
    checkpointed = text_policy()
    checkpointed.model.gradient_checkpointing_enable()
    assert activations.measure(checkpointed, None).response_token == pytest.approx(whole.response_token)


def test_patches_of_a_trained_tower_are_measured_and_those_of_a_frozen_one_are_free(tmp_path):
    found = look(parse(tmp_path), policy := Policy.load(parse(tmp_path).model), 4)
    assert found.train.patches > 0
    kept = activations.measure(policy, found.train.richest)
    assert kept.patch > 0
    policy.tower.requires_grad_(False)
    assert activations.measure(policy, found.train.richest).patch == 0


def shape(**changes):
    base = memory.Shape(
        parameters=10**6, trainable=10**6, weight_bytes=4, reference=False, prompts=4, sampled_rows=16, batch_prompts=4,
        batch_rows=16, longest=40, new_tokens=20, patches=0, pixel_bytes=0.0, feature_bytes=0.0, token_budget=16384,
        score_tokens=16384, graphs=1, checkpointing=False, lora=False, shared=True,
    )  # fmt: skip
    return replace(base, **changes)


def model(**changes):
    kept = activations.Kept(1000.0, 1000.0, 0.0, 0.0, 4, 1, True)
    base = memory.Model(
        width=64, layers=4, key_values=64, vocabulary=400, linear=1000, tower=0, kept=kept, base_mib=300.0
    )
    return replace(base, **changes)


@pytest.mark.parametrize("budget", [60, 100, 119, 120, 121, 200, 240, 241, 480, 16384])
@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_the_largest_micro_batch_is_that_of_the_update(budget, layout):
    """4 prompts of 40 tokens with 4 responses of 20 each, cut as the update cuts them."""
    prompts = [Prompt(str(i), torch.zeros(40), torch.arange(40), 40, torch.zeros(40).bool()) for i in range(4)]
    batches = micro_batches(prompts, [i // 4 for i in range(16)], [20] * 16, budget=budget, layout=layout)
    own = shape(token_budget=budget, shared=layout == "shared")
    held, rows = memory.micro_batch(own)
    assert rows == max(len(b.rows) for b in batches)
    if layout == "shared":
        assert held * 40 + rows * 20 == max(b.tokens for b in batches)


def test_the_budget_counts_only_as_far_as_the_batch_fills_it():
    """A batch of 480 tokens takes the same under any budget above that."""
    small, large = (memory.estimate(shape(token_budget=b), model()).total for b in (480, 10**6))
    assert small == large
    assert memory.estimate(shape(token_budget=120), model()).total < small


def test_rows_add_up_to_the_largest_moment():
    heavy = replace(model(), kept=replace(model().kept, prompt_token=1e5, response_token=1e5))
    found = memory.estimate(shape(), heavy)
    assert found.phase == "update"
    assert found.total == pytest.approx(sum(found.rows.values()))
    # 4 x 40 prompt and 16 x 19 response tokens of 1e5 bytes, and one of 4 layers once more
    assert found.rows["activations of a micro-batch"] == pytest.approx((160 + 304) * 1e5 * 1.25 / MIB)
    sampling = memory.estimate(shape(sampled_rows=4096, new_tokens=4096, batch_rows=4), model(key_values=4096))
    assert sampling.phase == "rollout"
    assert "gradients" not in sampling.rows


def test_gaps_of_the_heap_are_a_cpu_s():
    gpu, cpu = (memory.estimate(shape(cpu=where), replace(model(), kept=replace(model().kept, response_token=1e6)))
                for where in (False, True))  # fmt: skip
    lost = cpu.total - gpu.total
    own = cpu.rows["activations of a micro-batch"] + cpu.rows["one chunk of the vocabulary"]
    assert lost == pytest.approx(memory.HEAP_GAPS * own) == pytest.approx(cpu.rows["gaps in the heap"])


def test_bfloat16_weights_need_masters_and_a_reference_its_own_copy():
    million = shape(parameters=50 * MIB, trainable=50 * MIB)
    full = memory.estimate(million, model()).rows
    assert full["optimizer state"] == 400
    assert full["gradients"] == 200
    half = memory.estimate(replace(million, weight_bytes=2), model()).rows
    assert half["optimizer state"] == 600
    assert half["gradients"] == 300  # two bytes each, and the float32 copy that the step takes
    assert memory.estimate(replace(million, reference=True), model()).rows["reference weights"] == 200


def test_what_lowers_it_is_told_with_its_saving():
    big = shape(parameters=50 * MIB, trainable=50 * MIB, new_tokens=200, longest=200)
    heavy = replace(model(), kept=replace(model().kept, prompt_token=1e5, response_token=1e5), tower=10 * MIB)
    run = SimpleNamespace(model=SimpleNamespace(device="auto"))
    ways = {way.setting.partition("=")[0]: way for way in memory.remedies(big, heavy, run)}
    assert {"train.token_budget", "model.gradient_checkpointing", "model.lora", "model.dtype"} <= set(ways)
    for way in ways.values():
        assert way.saves > 0
    budget = next(way for way in memory.remedies(big, heavy, run) if way.setting.startswith("train.token_budget"))
    wanted = replace(big, token_budget=int(budget.setting.partition("=")[2]))
    assert memory.estimate(big, heavy).total - memory.estimate(wanted, heavy).total == pytest.approx(budget.saves)


def test_what_does_not_fit_is_said_with_the_ways_out():
    found = memory.Estimate({"weights": 9000.0}, 9000.0, "update", 1000.0)
    ways = [memory.Remedy("train.token_budget=512", 2500.0)]
    assert memory.verdict(found, Free(20000.0, "RAM"), ways) is None
    assert memory.verdict(found, None, ways) is None
    tight = memory.verdict(found, Free(8500.0, "RAM of this machine"), ways)
    assert tight is not None
    assert "hardly fits into the 8,500 MiB that are free (RAM of this machine)" in tight
    over = memory.verdict(found, Free(4000.0, "memory limit of this container"), ways)
    assert over is not None
    assert "8,000 of them not held yet; that is more than the 4,000 MiB" in over
    assert "train.token_budget=512 (-2,500 MiB)" in over


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_free_memory_is_what_the_tightest_limit_leaves(tmp_path):
    cpu = torch.device("cpu")
    assert free_memory(cpu, tmp_path / "nothing") is None or free_memory(cpu, tmp_path / "nothing").mib > 0
    write(tmp_path, "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:   8388608 kB\n")
    assert free_memory(cpu, tmp_path) == Free(8192.0, "RAM of this machine")
    # version 2: a limit on the parent of this process's group; page cache that can go counts as free
    write(tmp_path, "proc/self/cgroup", "0::/pod/job\n")
    write(tmp_path, "sys/fs/cgroup/pod/job/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/pod/memory.max", f"{4096 * MIB}\n")
    write(tmp_path, "sys/fs/cgroup/pod/memory.current", f"{3072 * MIB}\n")
    write(tmp_path, "sys/fs/cgroup/pod/memory.stat", f"anon 5\ninactive_file {512 * MIB}\n")
    assert free_memory(cpu, tmp_path) == Free(1536.0, "memory limit of this container")
    # version 1, inside a container that sees its own group at the top and the host's path in /proc
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/abc\n3:cpuset:/\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2048 * MIB}\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{1024 * MIB}\n")
    assert free_memory(cpu, tmp_path) == Free(1024.0, "memory limit of this container")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert free_memory(cpu, tmp_path) == Free(8192.0, "RAM of this machine")


def test_this_process_holds_something():
    assert held_memory(torch.device("cpu")) > 50


def test_components_say_how_many_graphs_and_whether_a_reference(tmp_path):
    assert memory.planned(parse(tmp_path)) == (1, False)
    kl = parse(tmp_path, objective__regularizers=[{"kl": {"coef": 0.1}}])
    assert memory.planned(kl) == (1, True)
    assert memory.planned(parse(tmp_path, objective__regularizers=[{"kl": {"coef": 0.1}}], model__lora={})) == (
        1,
        False,
    )
    graphs, _ = memory.planned(parse(tmp_path, objective__regularizers=["papo"]))
    assert graphs == 2  # the masked view is trained through


def test_an_estimate_of_a_run_is_near_what_it_holds(tmp_path):
    """Without a step of its own to compare: the rows are those of the model, and a small batch is not a full budget."""
    run = parse(tmp_path, data__train={"easy_vqa": {"split": "train", "limit": 40}}, train__token_budget=16384)
    found = look(run, Policy.load(run.model), 8)
    assert found.memory is not None
    assert found.memory.rows["libraries, model and data"] > 50
    rest = found.memory.total - found.memory.rows["libraries, model and data"]
    assert rest < 150  # a tiny model and 16 responses of 8 tokens; the full budget would be gigabytes
