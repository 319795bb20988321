"""The engine `hf`: its log-probs, its independence of batching, what it runs and when it stops."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import tiny_png, tiny_text, tiny_vl

from mmcredit.components import build
from mmcredit.data.sample import Media, Sample
from mmcredit.policy.config import LoRAConfig, ModelConfig
from mmcredit.policy.load import prepare
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.policy import Policy
from mmcredit.policy.prompt import Prompt
from mmcredit.rollout.collate import collate
from mmcredit.rollout.engine import Request, Response, Sampling
from mmcredit.rollout.engines.hf.engine import HFEngine

FAMILIES = ["qwen2", "qwen3", "qwen2_5_vl", "qwen3_vl"]


def make_policy(family: str, **options: Any) -> Policy:
    if "vl" in family:
        model, processor = tiny_vl(family, **options)  # type: ignore[arg-type]
        return Policy(model, processor.tokenizer, processor)
    model, tokenizer = tiny_text(family, **options)  # type: ignore[arg-type]
    return Policy(model, tokenizer)


def sample(name: str, text: str, images: Sequence[tuple[int | tuple[int, int], int]] = ()) -> Sample:
    parts: list[dict[str, str]] = [{"type": "image"} for _ in images]
    media = tuple(Media("image", data=tiny_png(side, seed)) for side, seed in images)
    return Sample(name, ({"role": "user", "content": [*parts, {"type": "text", "text": text}]},), media)


def make_prompts(policy: Policy) -> list[Prompt]:
    """Three prompts of different lengths; with a vision model one has two images and one has none."""
    vision = policy.processor is not None
    samples = [
        sample("a", "what is red", [(112, 0)] if vision else ()),
        sample("b", "how many squares are there in the image", [((140, 56), 1), (56, 2)] if vision else ()),
        sample("c", "blue"),
    ]
    return [policy.encode(s) for s in samples]


def engine(policy: Policy, **options: Any) -> HFEngine:
    opened = build("engine", {"hf": options}).open(policy)  # type: ignore[attr-defined]
    assert isinstance(opened, HFEngine)
    return opened


def requests(prompts: Sequence[Prompt], group: int = 4) -> list[Request]:
    return [Request(p, range(100 * i, 100 * i + group), tag=i) for i, p in enumerate(prompts)]


@torch.no_grad()
def reference_logits(policy: Policy, prompt: Prompt, tokens: Sequence[int]) -> torch.Tensor:
    """[len(tokens), V] logits that predict `tokens`, by one plain forward of the whole model, pixels and all."""
    ids = torch.cat([prompt.tokens, torch.tensor(list(tokens), dtype=torch.int64)])[None]
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if policy.processor is not None:
        inputs |= prompt.media
        types = torch.zeros_like(ids)
        types[0, : len(prompt)] = prompt.visual
        inputs["mm_token_type_ids"] = types
    return policy.model(**inputs).logits[0, len(prompt) - 1 : -1].float()


def reference_logprobs(policy: Policy, prompt: Prompt, tokens: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    logits = reference_logits(policy, prompt, tokens) / temperature
    logits[:, list(policy.suppressed_ids)] = -torch.inf
    return logits.log_softmax(-1).gather(1, torch.tensor(list(tokens))[:, None])[:, 0]


def same(a: Response, b: Response) -> bool:
    close = torch.allclose(torch.tensor(a.logprobs), torch.tensor(b.logprobs), atol=1e-5)
    return a.tokens == b.tokens and a.finish == b.finish and close


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_a_plain_forward(family: str) -> None:
    policy = make_policy(family, hidden=128)  # 4 query heads, 2 key-value heads
    prompts = make_prompts(policy)
    for sampling in (
        Sampling(max_new_tokens=24),
        Sampling(max_new_tokens=24, temperature=0.7, top_p=0.9, top_k=50, min_new_tokens=8),
    ):
        responses = engine(policy).generate(requests(prompts), sampling)
        assert len(responses) == 12
        for response in responses:
            expected = reference_logprobs(policy, prompts[response.tag], response.tokens, sampling.temperature)
            torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_generate(family: str) -> None:
    policy = make_policy(family)
    prompts = make_prompts(policy)
    responses = engine(policy).generate(
        [Request(p, [0], tag=i) for i, p in enumerate(prompts)], Sampling(temperature=0, max_new_tokens=24)
    )
    for prompt, response in zip(prompts, responses, strict=True):
        inputs: dict[str, Any] = dict(prompt.media)
        if policy.processor is not None:
            inputs["mm_token_type_ids"] = prompt.visual.long()[None]
        if policy.suppressed_ids:
            inputs["suppress_tokens"] = list(policy.suppressed_ids)
        ids = prompt.tokens[None]
        out = policy.model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, **inputs
        )
        assert response.tokens == out[0, len(prompt) :].tolist()
        assert response.finish == ("stop" if response.tokens[-1] in policy.eos_token_ids else "length")


def test_a_response_depends_on_prompt_and_seed_alone() -> None:
    policy = make_policy("qwen2_5_vl")
    prompts = make_prompts(policy)
    sampling = Sampling(max_new_tokens=16, top_p=0.95)
    reference = engine(policy).generate(requests(prompts), sampling)
    assert len({tuple(r.tokens) for r in reference}) == len(reference)

    again = engine(policy).generate(requests(prompts), sampling)
    assert [r.tokens for r in again] == [r.tokens for r in reference]
    assert [r.logprobs for r in again] == [r.logprobs for r in reference]

    turned = engine(policy).generate(list(reversed(requests(prompts))), sampling)
    assert [r.tag for r in turned] == [2] * 4 + [1] * 4 + [0] * 4
    for response in turned:
        assert same(response, reference[4 * response.tag + response.member])
    for request in requests(prompts):
        for member, seed in list(enumerate(request.seeds))[1:3]:
            alone = engine(policy).generate([Request(request.prompt, [seed])], sampling)[0]
            assert same(alone, reference[4 * request.tag + member])
    for options in ({"max_concurrent": 3}, {"max_cache_tokens": 120}, {"prefill_tokens": 1}):
        for got, expected in zip(
            engine(policy, **options).generate(requests(prompts), sampling), reference, strict=True
        ):
            assert (got.tag, got.member) == (expected.tag, expected.member)
            assert same(got, expected)


def test_a_longer_limit_extends_the_response() -> None:
    policy = make_policy("qwen2")
    prompts = make_prompts(policy)
    short = engine(policy).generate(requests(prompts), Sampling(max_new_tokens=7))
    long = engine(policy).generate(requests(prompts), Sampling(max_new_tokens=30))
    assert all(a.tokens == b.tokens[: len(a.tokens)] for a, b in zip(short, long, strict=True))
    assert any(len(b.tokens) > 7 for b in long)


def test_seeds_that_differ_above_32_bits_differ() -> None:
    policy = make_policy("qwen2")
    prompt = make_prompts(policy)[0]
    responses = engine(policy).generate([Request(prompt, [5, 5 + 2**32, 5 + 2**64])], Sampling(max_new_tokens=16))
    assert len({tuple(r.tokens) for r in responses}) == 3
    with pytest.raises(ValueError, match=r"seed must lie in .*got -1"):
        engine(policy).generate([Request(prompt, [-1])], Sampling())


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_tower_sees_each_image_once(family: str) -> None:
    policy = make_policy(family)
    assert policy.tower is not None
    patches: list[int] = []

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        patches.append((args[0] if args else kwargs["hidden_states"]).shape[0])

    policy.tower.register_forward_pre_hook(count, with_kwargs=True)
    same_image = policy.encode(sample("d", "how many", [(112, 0)]))
    prompts = [*make_prompts(policy), same_image]
    distinct = sum(len(p.media["pixel_values"]) for p in prompts[:2])
    engine(policy).generate(requests(prompts, group=8), Sampling(max_new_tokens=4))
    assert sum(patches) == distinct


def test_prompts_are_read_once_and_finished_rows_leave() -> None:
    policy = make_policy("qwen2_5_vl", spread=0.1, hidden=128)
    prompts = make_prompts(policy)
    shapes: list[tuple[int, int]] = []

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shapes.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    handle = policy.body.language_model.register_forward_pre_hook(count, with_kwargs=True)
    group, limit = 16, 64
    # More ends than one, so that lengths spread over the whole range.
    ends = tuple(range(200, 212))
    responses = engine(policy).generate(requests(prompts, group), Sampling(max_new_tokens=limit, stop_token_ids=ends))
    handle.remove()
    lengths = torch.tensor([len(r.tokens) for r in responses])
    assert len(lengths.unique()) > 10, "the test needs lengths that differ"

    prefill = [shape for shape in shapes if shape[1] > 1]
    assert sum(rows for rows, _ in prefill) == len(prompts)
    decode = [rows for rows, width in shapes if width == 1]
    assert len(decode) == int(lengths.max()) - 1
    # After token t is drawn, rows longer than t go on; at most an eighth of the batch rides along.
    for step, rows in enumerate(decode, start=1):
        needed = int((lengths > step).sum())
        assert needed <= rows <= max(needed, needed * 8 / 7 + 1)
    assert decode[-1] < len(responses) // 2
    for response in responses:
        expected = reference_logprobs(policy, prompts[response.tag], response.tokens)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=1e-5, rtol=0)


def test_suppressed_ids_are_never_sampled() -> None:
    policy = make_policy("qwen2_5_vl")
    assert policy.suppressed_ids
    with torch.no_grad():  # large weights: at half of the positions they would be the likeliest by far
        policy.body.head.weight[list(policy.suppressed_ids)] *= 10
    prompts = make_prompts(policy)
    responses = engine(policy).generate(requests(prompts, group=16), Sampling(max_new_tokens=64, min_new_tokens=64))
    tokens = [t for r in responses for t in r.tokens]
    assert len(tokens) == 48 * 64
    assert not set(tokens) & set(policy.suppressed_ids)
    likeliest = reference_logits(policy, prompts[0], responses[0].tokens).argmax(-1)
    assert int(torch.isin(likeliest, torch.tensor(policy.suppressed_ids)).sum()) > 16, "the test could not fail"


def test_end_tokens_are_withheld_and_kept() -> None:
    policy = make_policy("qwen3")
    ends = tuple(range(20, 200))  # nearly half of the vocabulary ends a response
    prompts = make_prompts(policy)
    responses = engine(policy).generate(
        requests(prompts, 8), Sampling(max_new_tokens=40, min_new_tokens=5, stop_token_ids=ends)
    )
    for response in responses:
        assert response.finish == "stop"
        assert len(response.tokens) >= 6
        assert response.tokens[-1] in {*ends, *policy.eos_token_ids}
        assert not set(response.tokens[:-1]) & {*ends, *policy.eos_token_ids}
        # Withholding narrows the draw, not the log-prob.
        expected = reference_logprobs(policy, prompts[response.tag], response.tokens)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=1e-5, rtol=0)


def test_stop_strings_end_a_response_where_they_are_completed() -> None:
    policy = make_policy("qwen2")
    prompts = make_prompts(policy)
    free = engine(policy).generate(requests(prompts, 8), Sampling(max_new_tokens=48))
    decode = policy.tokenizer.decode
    stops = (decode(free[0].tokens)[20:23], decode(free[9].tokens)[11:12], "never to be seen")
    stopped = engine(policy).generate(requests(prompts, 8), Sampling(max_new_tokens=48, stop=stops))
    cut = 0
    for before, after in zip(free, stopped, strict=True):
        length = next(
            (n for n in range(1, len(before.tokens) + 1) if any(s in decode(before.tokens[:n]) for s in stops)),
            None,
        )
        assert after.tokens == before.tokens[:length]
        assert after.finish == (before.finish if length is None else "stop")
        cut += length is not None
    assert cut > 4
    late = engine(policy).generate(requests(prompts, 8), Sampling(max_new_tokens=48, stop=stops, min_new_tokens=30))
    assert all(len(r.tokens) >= 30 for r in late)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_vl"])
def test_prefixes_continue(family: str) -> None:
    policy = make_policy(family, hidden=128)
    prompts = make_prompts(policy)
    greedy = Sampling(max_new_tokens=20, temperature=0)
    whole = engine(policy).generate([Request(p, [0]) for p in prompts], greedy)
    cuts = [3, 0, 7]
    parts = [Request(p, [0], prefix=r.tokens[:cut], tag=cut) for p, r, cut in zip(prompts, whole, cuts, strict=True)]
    for budget in (8192, 8):  # prefixes in one forward, and in blocks
        rest = engine(policy, prefill_tokens=budget).generate(parts, greedy)
        for response, full, cut in zip(rest, whole, cuts, strict=True):
            count = min(len(full.tokens) - cut, len(response.tokens))
            assert response.tokens[:count] == full.tokens[cut : cut + count]
            assert response.logprobs[:count] == pytest.approx(full.logprobs[cut : cut + count], abs=1e-5)

    # Equal prefixes of one prompt are read once.
    widths: list[tuple[int, int]] = []
    hook = policy.body.language_model.register_forward_pre_hook(
        lambda m, a, k: widths.append(tuple(k["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    many = [Request(prompts[0], range(6), prefix=(30, 31, 32)), Request(prompts[0], range(6, 12), prefix=[30, 31, 32])]
    sampled = engine(policy).generate(many, Sampling(max_new_tokens=12))
    hook.remove()
    assert widths[:3] == [(1, len(prompts[0])), (1, 3), (12, 1)]
    for response in sampled:
        expected = reference_logprobs(policy, prompts[0], [30, 31, 32, *response.tokens])[3:]
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=1e-5, rtol=0)


def test_the_hook_sets_temperatures_row_by_row() -> None:
    policy = make_policy("qwen2")
    prompts = make_prompts(policy)
    hooked = engine(policy)
    seen: list[int] = []

    def cool(step: int, logits: torch.Tensor, rows: Any) -> torch.Tensor:
        seen.append(step)
        assert rows.tokens.shape[1] == logits.shape[0] == len(rows.responses)
        return torch.where(rows.responses >= 4, 0.5, 1.0)

    hooked.hook = cool
    responses = hooked.generate(requests(prompts[:2]), Sampling(max_new_tokens=10))
    assert seen == list(range(10))
    # The rows at 0.5 drew what a run at 0.5 draws; log-probs stay those of the configured temperature.
    plain = engine(policy).generate(requests(prompts[:2]), Sampling(max_new_tokens=10))
    cold = engine(policy).generate(requests(prompts[:2]), Sampling(max_new_tokens=10, temperature=0.5))
    assert [r.tokens for r in responses] == [r.tokens for r in (*plain[:4], *cold[4:])]
    assert [r.tokens for r in responses] != [r.tokens for r in plain]
    for response in responses:
        expected = reference_logprobs(policy, prompts[response.tag], response.tokens)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=1e-5, rtol=0)


def test_the_config_of_the_engine_needs_no_torch() -> None:
    code = (
        "import sys; from mmcredit.deferred import defer, loaded; defer('torch'); "  # as the command line does
        "from mmcredit.components import build; "
        "build('engine', {'hf': {'max_concurrent': 8}}); sys.exit(loaded('torch'))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_progress_counts_finished_responses() -> None:
    policy = make_policy("qwen2")
    told: list[int] = []
    engine(policy, max_concurrent=5).generate(requests(make_prompts(policy)), Sampling(max_new_tokens=20), told.append)
    assert sum(told) == 12
    assert min(told) > 0
    assert len(told) >= 3


def test_the_model_is_left_as_it_was() -> None:
    policy = make_policy("qwen2_5_vl")
    config = policy.body.language_model.config
    before = config._attn_implementation
    policy.model.train()
    prompts = make_prompts(policy)
    first = engine(policy).generate(requests(prompts), Sampling(max_new_tokens=4))

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine(policy).generate(requests(prompts), Sampling(max_new_tokens=4), interrupt)
    assert config._attn_implementation == before
    assert all(m.training for m in policy.body.language_model.modules())
    assert [r.tokens for r in engine(policy).generate(requests(prompts), Sampling(max_new_tokens=4))] == [
        r.tokens for r in first
    ]


def test_features_kept_by_sampling_can_be_trained_on() -> None:
    policy = make_policy("qwen3_vl")
    assert policy.tower is not None
    policy.tower.requires_grad_(False)
    prompts = make_prompts(policy)
    opened = engine(policy)
    rollouts = collate(
        prompts, requests(prompts), opened.generate(requests(prompts), Sampling(max_new_tokens=4)), pad_token_id=0
    )
    assert rollouts.sampler_logprobs is not None
    scores = policy.forward(prompts, rollouts, range(12), [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)
    torch.testing.assert_close(scores[CLEAN]["logprobs"].detach(), rollouts.sampler_logprobs, atol=1e-5, rtol=0)
    scores[CLEAN]["logprobs"].sum().backward()


def test_lora_and_bfloat16() -> None:
    pytest.importorskip("peft")
    model, tokenizer = tiny_text("qwen2", hidden=128)
    model = prepare(model, ModelConfig(path="in memory", lora=LoRAConfig(rank=4)))  # type: ignore[assignment]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    policy = Policy(model, tokenizer)
    prompts = make_prompts(policy)
    for tolerance in (1e-5, 0.06):
        for response in engine(policy).generate(requests(prompts), Sampling(max_new_tokens=12)):
            expected = reference_logprobs(policy, prompts[response.tag], response.tokens)
            torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=tolerance, rtol=0)
        model.to(torch.bfloat16)


def test_sync_takes_over_changed_weights() -> None:
    policy = make_policy("qwen2_5_vl")
    prompts = make_prompts(policy)
    opened = engine(policy)
    opened.generate(requests(prompts), Sampling(max_new_tokens=4))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.1)
    opened.sync()
    for response in opened.generate(requests(prompts), Sampling(max_new_tokens=8)):
        expected = reference_logprobs(policy, prompts[response.tag], response.tokens)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=1e-5, rtol=0)
    opened.close()


def test_bad_requests_are_refused_with_the_setting() -> None:
    policy = make_policy("qwen2")
    prompts = make_prompts(policy)
    assert engine(policy).generate([], Sampling()) == []
    assert engine(policy).generate([Request(prompts[0], [])], Sampling()) == []
    with pytest.raises(ValueError, match=r"sample a: .*max_new_tokens 9000 .*8192 positions"):
        engine(policy).generate(requests(prompts), Sampling(max_new_tokens=9000))
    with pytest.raises(ValueError, match=r"stop string must not be empty"):
        engine(policy).generate(requests(prompts), Sampling(stop=("",)))
    with torch.no_grad():
        policy.body.head.weight[3, 0] = torch.nan
    with pytest.raises(RuntimeError, match=r"sample [abc]: the model's logits are not finite"):
        engine(policy).generate(requests(prompts), Sampling(max_new_tokens=3))
