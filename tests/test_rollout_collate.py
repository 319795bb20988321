"""From responses to Rollouts; waves; stop strings."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_tokenizer

from mmcredit.policy.prompt import Prompt
from mmcredit.rollout.collate import collate
from mmcredit.rollout.drawing.stop import StopCondition, StopStrings
from mmcredit.rollout.engine import Request, Response
from mmcredit.rollout.engines.hf.waves import Wave, plan_waves

CPU = torch.device("cpu")


def prompt(length: int, name: str = "s") -> Prompt:
    nothing = torch.zeros(length, dtype=torch.bool)
    return Prompt(name, torch.arange(length), torch.arange(length), length, nothing)


def test_collate() -> None:
    first, second = prompt(3, "a"), prompt(5, "b")
    requests = [Request(second, [1, 2], tag=7), Request(first, [3], prefix=[40, 41], tag=8)]
    responses = [
        Response(7, 0, [10, 11, 12], [-0.5, -1.0, -1.5], "stop"),
        Response(7, 1, [13], [-2.0], "length"),
        Response(8, 0, [14, 15], [-2.5, -3.0], "length"),
    ]
    rollouts = collate([first, second], requests, responses, pad_token_id=99, samples=("x", "y"))
    assert rollouts.tokens.tolist() == [[10, 11, 12, 99], [13, 99, 99, 99], [40, 41, 14, 15]]
    assert rollouts.mask.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 1]]
    assert rollouts.valid.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert rollouts.group.tolist() == [1, 1, 0]
    assert rollouts.truncated.tolist() == [False, True, True]
    assert rollouts.sampler_logprobs is not None
    assert rollouts.sampler_logprobs.tolist() == [[-0.5, -1, -1.5, 0], [-2, 0, 0, 0], [0, 0, -2.5, -3]]
    assert rollouts.rewards.tolist() == [0, 0, 0]
    assert rollouts.samples == ("x", "y")


def test_collate_of_nothing() -> None:
    rollouts = collate([], [], [], pad_token_id=0)
    assert len(rollouts) == 0
    assert rollouts.tokens.shape == (0, 0)


def test_collate_refuses_what_does_not_belong_together() -> None:
    one, other = prompt(3, "a"), prompt(3, "b")
    request, response = Request(one, [1, 2]), Response(0, 0, [1], [-1.0], "stop")
    second = Response(0, 1, [1], [-1.0], "stop")
    with pytest.raises(ValueError, match="2 responses, but there are 1"):
        collate([one], [request], [response], 0)
    with pytest.raises(ValueError, match="out of request order"):
        collate([one], [request], [second, response], 0)
    with pytest.raises(ValueError, match="sample a: the request's prompt is not among"):
        collate([other], [request], [response, second], 0)
    with pytest.raises(ValueError, match="2 for 1 prompts"):
        collate([one], [request], [response, second], 0, samples=(1, 2))
    with pytest.raises(ValueError, match="1 tokens, but 2 logprobs"):
        collate([one], [request], [response, Response(0, 1, [1], [-1.0, -2.0], "stop")], 0)


def held(wave: Wave, new_tokens: int) -> int:
    width = max(len(p) for p in wave.prompts)
    prefix = max(len(x) for _, x in wave.stems)
    return width * len(wave.prompts) + len(wave.rows) * (prefix + new_tokens)


@pytest.mark.parametrize(("rows", "tokens"), [(1000, 10_000), (5, 10_000), (1000, 130), (3, 60), (1, 1)])
def test_waves_hold_every_response_once_and_keep_their_limits(rows: int, tokens: int) -> None:
    prompts = [prompt(n) for n in (4, 30, 9, 17)]
    requests = [Request(p, range(6)) for p in prompts]
    requests += [Request(prompts[1], range(3), prefix=[5, 6]), Request(prompts[1], range(2), prefix=(5, 6))]
    waves = list(plan_waves(requests, rows, tokens, new_tokens=10))
    owners = [r.prompt for r in requests for _ in r.seeds]
    prefixes = [tuple(r.prefix) for r in requests for _ in r.seeds]
    seen = []
    for wave in waves:
        assert len(wave.rows) <= rows
        assert len(wave.rows) == 1 or held(wave, 10) <= tokens
        assert len(set(wave.stems)) == len(wave.stems)
        assert len({id(p) for p in wave.prompts}) == len(wave.prompts)
        for stem, response in wave.rows:
            index, prefix = wave.stems[stem]
            assert wave.prompts[index] is owners[response]
            assert prefix == prefixes[response]
            seen.append(response)
        order = [wave.stems[stem][0] for stem, _ in wave.rows]
        assert order == sorted(order)
        assert [s for s, _ in wave.rows] == sorted(s for s, _ in wave.rows)
    assert sorted(seen) == list(range(len(owners)))
    longest = [max(len(p) for p in wave.prompts) for wave in waves]
    assert longest == sorted(longest, reverse=True)


def test_waves_are_filled() -> None:
    waves = list(plan_waves([Request(prompt(5), range(8)), Request(prompt(4), range(8))], 6, 10_000, 10))
    assert [len(w.rows) for w in waves] == [6, 6, 4]


def ids(text: str) -> list[int]:
    return tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]


def stops_at(stop: tuple[str, ...], tokens: list[int], prefix: list[int] | None = None, min_new: int = 0) -> int | None:
    """Step at which the condition first holds."""
    tokenizer = tiny_tokenizer()
    vocabulary = len(tokenizer) + 8
    condition = StopCondition([], StopStrings(stop, tokenizer, vocabulary, CPU), min_new, vocabulary, CPU)
    column = torch.tensor(tokens)[:, None]
    return next((t for t in range(len(tokens)) if bool(condition(column, t, [prefix or []])[0])), None)


def test_stop_strings_across_tokens() -> None:
    tokens = ids("the answer </answer> is é red 日本 circle")
    text = tiny_tokenizer().decode
    for stop in ("</answer>", "é", "日本", "r", "wer </ans", " circle", "本 c"):
        step = stops_at((stop,), tokens)
        first = next(n for n in range(len(tokens)) if stop in text(tokens[: n + 1]))
        assert step == first, stop
        assert stops_at(("nowhere", stop), tokens) == first
    assert stops_at(("nowhere",), tokens) is None
    assert stops_at(("e",), tokens, min_new=6) == next(
        n for n in range(5, len(tokens)) if "e" in text(tokens[n : n + 1])
    )


def test_a_stop_string_in_the_prefix_does_not_count_but_may_begin_there() -> None:
    whole = ids("red </answer> blue </answer>")
    first = next(n for n in range(len(whole)) if "</answer>" in tiny_tokenizer().decode(whole[: n + 1]))
    assert stops_at(("</answer>",), whole[first:], prefix=whole[:first]) == 0
    done = first + 1
    assert stops_at(("</answer>",), whole[done:], prefix=whole[:done]) == len(whole) - 1 - done


def test_only_few_tokens_are_looked_at() -> None:
    tokenizer = tiny_tokenizer()
    strings = StopStrings(("</answer>",), tokenizer, len(tokenizer), CPU)
    assert 0 < int(strings.may_complete.sum()) < 0.6 * len(tokenizer)
