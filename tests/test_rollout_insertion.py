"""Engine `hf` with reactions: insertion on the keys and values that it has, the same as reading everything anew."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Thread

import pytest
import torch
from policy_cases import gradients, make_policy
from video_cases import FAMILIES, question, video_policy, window

from mmcredit.components import build
from mmcredit.data.sample import Sample
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.rollout.collate import collate
from mmcredit.rollout.engine import Request, Response, Sampling
from mmcredit.rollout.reaction import Reply, Said

CLEAN_ONLY = [Pass(CLEAN, frozenset({"logprobs"}))]
STOPS = tuple(range(60, 120))  # of some 400 ids: a random model says one of them every few tokens


class Scripted:
    """Gives the pieces in turn, by what was said; then nothing more. Keeps what it was asked."""

    stops = STOPS

    def __init__(self, choose: Callable[[Said], Reply | Future[Reply]], room: int = 200) -> None:
        self.choose, self.room = choose, room
        self.asked: list[Said] = []

    def __call__(self, said: Said) -> Reply | Future[Reply]:
        self.asked.append(said)
        return self.choose(said)


def engine(policy, **options):
    return build("engine", {"hf": options}).open(policy)  # type: ignore[attr-defined]


def case(family: str):
    """Policy, prompts, and a choice: up to two pieces a response, which differ inside a group."""
    policy = video_policy(family)
    prompts = [
        policy.encode(question("a")),
        policy.encode(question("b", b"other", "how many red squares are there in the video")),
        policy.encode(Sample("t", ({"role": "user", "content": "what is left"},))),
    ]
    pieces = [
        window(policy, 1),
        window(policy, 2, side=(96, 64)),
        window(policy, 3, frames=8, label="late"),
        policy.encoder.piece("w", "no frames here"),
    ]

    def choose(said: Said) -> Reply:
        if len(said.inserted) == 2 or said.tokens[-1] % 7 == 0:
            return Reply()
        return Reply(pieces[(said.tokens[-1] + len(said.inserted)) % 4])

    return policy, prompts, choose


def run(policy, prompts, choose, group: int = 4, tokens: int = 12, **options):
    opened = engine(policy, **options)
    reactions = [Scripted(choose) for _ in prompts]
    requests = [
        Request(p, range(100 * i, 100 * i + group), tag=i, reaction=r)
        for i, (p, r) in enumerate(zip(prompts, reactions, strict=True))
    ]
    told: list[int] = []
    responses = opened.generate(requests, Sampling(max_new_tokens=tokens), told.append)
    assert sum(told) == len(responses)
    return opened, requests, responses


def rollouts_of(policy, prompts, requests, responses):
    return collate(prompts, requests, responses, policy.tokenizer.pad_token_id)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampler_logprobs_are_those_of_the_score_passes(family: str) -> None:
    policy, prompts, choose = case(family)
    _, requests, responses = run(policy, prompts, choose)
    rollouts = rollouts_of(policy, prompts, requests, responses)
    counts = [len(own) for own in rollouts.inserted]
    assert {0, 1, 2} <= set(counts), counts
    inside = [tuple(id(one.piece) for one in own) for own in rollouts.inserted[:4]]
    assert len(set(inside)) > 1, "windows of one group are to differ"
    for layout in ("shared", "padded"):
        policy._layout = layout
        scored = policy.score(prompts, rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
        torch.testing.assert_close(scored, rollouts.sampler_logprobs, atol=1e-5, rtol=0)
    assert bool((rollouts.sampler_logprobs[~rollouts.mask] == 0).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_everything_anew_gives_the_same_tokens(family: str) -> None:
    """Re-prefill: the response so far, pieces and all, as the prompt of a request that goes on from it."""
    from mmcredit.policy.prompt import Prompt

    policy, prompts, choose = case(family)
    _, requests, responses = run(policy, prompts, choose)
    plain = engine(policy)
    todo: list[Request] = []
    cut: list[tuple[int, list[float]]] = []
    for number, response in enumerate(responses):
        if not response.inserted:
            continue
        prompt = prompts[response.tag]
        last = response.inserted[-1]
        rows = rollouts_of(policy, [prompt], [Request(prompt, [0], tag=response.tag)], [_alone(response)])
        (row,) = policy._runner.rows([prompt], rows, [0])
        whole = Prompt(
            "again",
            torch.cat([prompt.tokens, row.tokens[: last.end]]),
            torch.cat([prompt.positions, row.positions[..., : last.end]], -1),
            int(row.positions[0, last.end]),
            torch.cat([prompt.visual, row.visual[: last.end]]),
            _media([prompt, *row.shown]),
            tuple(key for piece in (prompt, *row.shown) for key in piece.media_keys),
        )
        seeds = requests[response.tag].seeds
        todo.append(Request(whole, [seeds[response.member]], tag=number))
        cut.append((last.end, response.logprobs[last.end :]))
    assert len(todo) > 3
    # The uniform numbers go on where the response stopped, so only log-probs of the same tokens can be compared.
    for request, (start, logprobs) in zip(todo, cut, strict=True):
        tokens = responses[request.tag].tokens[start:]
        again = Response(0, 0, tokens, logprobs, "stop")
        one = Request(request.prompt, [0])
        rollouts = collate([request.prompt], [one], [again], policy.tokenizer.pad_token_id)
        scored = policy.score([request.prompt], rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
        torch.testing.assert_close(scored[0], torch.tensor(logprobs), atol=1e-5, rtol=0)
        greedy = plain.generate([one], Sampling(max_new_tokens=1, temperature=0))[0]
        assert greedy.tokens[0] == int(_next_logits(policy, request.prompt).argmax())


def _alone(response: Response) -> Response:
    from dataclasses import replace

    return replace(response, member=0)


def _media(pieces):
    names = {name for piece in pieces for name in piece.media}
    return {name: torch.cat([torch.as_tensor(p.media[name]) for p in pieces if name in p.media]) for name in names}


@torch.no_grad()
def _next_logits(policy, prompt) -> torch.Tensor:
    names = [n for n in prompt.media if n != "second_per_grid_ts"]
    types = 2 * prompt.visual.long()[None]
    positions = prompt.positions[:, None]
    out = policy.model(
        prompt.tokens[None], mm_token_type_ids=types, position_ids=positions, **{n: prompt.media[n] for n in names}
    )
    logits = out.logits[0, -1].float()
    logits[list(policy.suppressed_ids)] = -torch.inf
    return logits


def test_nothing_of_the_prompt_is_read_again() -> None:
    policy, prompts, choose = case("qwen3_vl")
    _, _, several = run(policy, prompts[:1], choose, group=12, tokens=20)
    seed = next(r.member for r in several if len(r.inserted) == 2)
    policy.costs.reset()
    read: list[int] = []

    def count(module, args, kwargs) -> None:
        read.append(kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1])

    policy.body.language_model.register_forward_pre_hook(count, with_kwargs=True)
    opened = engine(policy)
    request = Request(prompts[0], [seed], reaction=Scripted(choose))
    (response,) = opened.generate([request], Sampling(max_new_tokens=20))
    assert len(response.inserted) == 2
    assert opened.counts["prompt_tokens"] == len(prompts[0])
    assert opened.counts["inserted_tokens"] == sum(len(one.piece) for one in response.inserted)
    # The prompt once, every piece once, and each token but the last once.
    assert sum(read) == len(prompts[0]) + len(response.tokens) - 1
    assert policy.costs.sampling().tokens == sum(read)


def test_seeds_are_exact_whatever_is_sampled_beside() -> None:
    policy, prompts, choose = case("qwen3_vl")
    _, _, together = run(policy, prompts, choose, group=4)
    for options in ({"max_concurrent": 3}, {"max_concurrent": 1, "prefill_tokens": 16}):
        _, _, apart = run(policy, prompts, choose, group=4, **options)
        for one, two in zip(together, apart, strict=True):
            assert one.tokens == two.tokens
            assert [i.at for i in one.inserted] == [i.at for i in two.inserted]
            torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(two.logprobs), atol=1e-5, rtol=0)
    # A longer limit extends a response, and does not change it.
    _, _, longer = run(policy, prompts, choose, group=4, tokens=16)
    for one, two in zip(together, longer, strict=True):
        assert two.tokens[: len(one.tokens)] == one.tokens


def test_without_a_reaction_numbers_do_not_change() -> None:
    policy, prompts, _ = case("qwen3_vl")
    plain = engine(policy).generate([Request(prompts[0], range(4))], Sampling(max_new_tokens=10))
    _, _, idle = run(policy, prompts[:1], lambda said: Reply(), tokens=10)
    assert [(r.tokens, r.logprobs, r.finish) for r in plain] == [(r.tokens, r.logprobs, r.finish) for r in idle]


def test_promises_are_kept_while_others_are_sampled() -> None:
    """Rows that wait leave the batch; the others go on. Every promise is asked for when nobody else is left."""
    policy, prompts, choose = case("qwen3_vl")
    steps: list[int] = []
    policy.body.head.register_forward_pre_hook(lambda module, args: steps.append(len(args[0])))
    promised: list[tuple[int, int]] = []
    release = Event()

    def later(said: Said) -> Future[Reply]:
        found: Future[Reply] = Future()
        promised.append((len(steps), said.member))
        reply = choose(said)

        def work() -> None:
            release.wait(20)
            found.set_result(reply)

        Thread(target=work).start()
        if len(steps) > promised[0][0]:  # somebody was sampled while the first promise was open
            release.set()
        return found

    _, _, slow = run(policy, prompts, later)
    assert release.is_set()
    _, _, fast = run(policy, prompts, choose)
    assert [r.tokens for r in slow] == [r.tokens for r in fast]


def test_budgets_ends_and_notes() -> None:
    policy, prompts, _ = case("qwen3_vl")
    piece = window(policy, 1)

    def once(said: Said) -> Reply:
        assert said.tokens[-1] in STOPS
        assert said.left >= 1
        if said.inserted:
            return Reply(end=True, notes={"ended": 1.0})
        assert said.room == 200
        return Reply(piece, notes={"given": 1.0})

    _, _, responses = run(policy, prompts[:2], once, tokens=30)
    for response in responses:
        assert response.sampled <= 30
        if response.notes.get("ended"):
            assert response.finish == "stop"
            assert response.tokens[-1] in STOPS
            assert response.notes == {"given": 1.0, "ended": 1.0}
    assert any(r.notes.get("ended") for r in responses)

    _, _, cut = run(policy, prompts[:1], lambda said: Reply(piece), group=6, tokens=3)
    for response in cut:  # a token of `stops` in the last place is no call: nothing could follow
        assert response.sampled == 3 or response.finish == "stop"
        assert not response.inserted or response.inserted[-1].end < len(response.tokens)

    reaction = Scripted(lambda said: Reply(piece), room=len(piece) - 1)
    request = Request(prompts[0], [1, 2, 3], reaction=reaction)
    with pytest.raises(ValueError, match=r"sample a: \d+ tokens are to be inserted where there is room for"):
        engine(policy).generate([request], Sampling(max_new_tokens=20))
    with pytest.raises(ValueError, match="set rollout.sampling.min_new_tokens to 0"):
        engine(policy).generate([request], Sampling(max_new_tokens=20, min_new_tokens=2))
    huge = Request(prompts[0], [1], reaction=Scripted(lambda said: Reply(), room=9000))
    with pytest.raises(ValueError, match=r"\+ inserted tokens 9000 = \d+ exceed the model's 8192 positions"):
        engine(policy).generate([huge], Sampling(max_new_tokens=4))


def test_a_frozen_tower_is_trained_beside_after_sampling() -> None:
    """Features remembered while sampling are used with gradient later: none may come from inference mode."""
    policy = video_policy("qwen3_vl", freeze_vision=True)
    prompts = [policy.encode(question("a"))]
    piece = window(policy, 1)
    _, requests, responses = run(policy, prompts, lambda said: Reply() if said.inserted else Reply(piece))
    rollouts = rollouts_of(policy, prompts, requests, responses)
    assert any(rollouts.inserted)
    found = gradients(policy, prompts, rollouts, CLEAN_ONLY)
    assert any(float(g.abs().max()) > 0 for g in found.values())


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_text_models_take_words(family: str) -> None:
    """What a tool says, in the middle of a turn."""
    policy = make_policy(family)
    prompts = [policy.encode(Sample(n, ({"role": "user", "content": n * 3},))) for n in ("what is left", "how many")]
    pieces = [policy.encoder.piece("w", f" = {n} red squares\n") for n in (3, 12345)]
    assert pieces[0].positions.ndim == 1

    def choose(said: Said) -> Reply:
        return Reply() if len(said.inserted) == 2 else Reply(pieces[said.tokens[-1] % 2])

    _, requests, responses = run(policy, prompts, choose)
    rollouts = rollouts_of(policy, prompts, requests, responses)
    assert max(len(own) for own in rollouts.inserted) == 2
    for layout in ("shared", "padded"):
        policy._layout = layout
        scored = policy.score(prompts, rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
        torch.testing.assert_close(scored, rollouts.sampler_logprobs, atol=1e-5, rtol=0)


def test_half_precision_and_prefixes() -> None:
    """bfloat16 weights; and responses that go on from ids of before."""
    policy, prompts, choose = case("qwen3_vl")
    prefix = (70, 71, 72)
    requests = [Request(prompts[0], range(6), prefix, reaction=Scripted(choose))]
    responses = engine(policy).generate(requests, Sampling(max_new_tokens=10))
    rollouts = rollouts_of(policy, prompts[:1], requests, responses)
    assert any(rollouts.inserted)
    policy._layout = "shared"
    scored = policy.score(prompts[:1], rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
    close = (scored - rollouts.sampler_logprobs)[rollouts.mask].abs().max()
    assert float(close) < 1e-5

    policy.model.to(torch.bfloat16)
    responses = engine(policy).generate(
        [Request(prompts[0], range(6), reaction=Scripted(choose))], Sampling(max_new_tokens=10)
    )
    rollouts = rollouts_of(policy, prompts[:1], [Request(prompts[0], range(6))], responses)
    assert any(rollouts.inserted)
    scored = policy.score(prompts[:1], rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
    assert float((scored - rollouts.sampler_logprobs)[rollouts.mask].abs().max()) < 0.1


def test_a_long_response_does_not_hold_up_the_others() -> None:
    policy, prompts, _ = case("qwen3_vl")
    piece = window(policy, 1)
    told: dict[int, int] = {}

    def force(step, logits, rows):
        """Response 0 never says a token of `STOPS`, the others say one as their third."""
        forced = torch.full_like(logits, -torch.inf)
        for row, response in enumerate(rows.responses.tolist()):
            told[response] = told.get(response, 0) + 1
            forced[row, 70 if response and told[response] == 3 else 200] = 0
        return forced

    opened = engine(policy)
    opened.hook = force
    steps: list[int] = []
    policy.body.head.register_forward_pre_hook(lambda module, args: steps.append(len(args[0])))
    reaction = Scripted(lambda said: Reply(piece))
    responses = opened.generate([Request(prompts[0], range(8), reaction=reaction)], Sampling(max_new_tokens=40))
    assert [len(r.inserted) for r in responses] == [0, *[1] * 7]
    assert all(r.sampled == 40 for r in responses)
    assert len(steps) == 40, "all go on side by side behind the third token"
    for response in responses[1:]:
        assert response.inserted[0].at == 3
