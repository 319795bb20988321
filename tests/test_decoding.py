"""Ways of decoding on tiny models: against the engine `hf` and each model alone, routers, refusals, the command."""

import json
import math

import pytest
import torch
import yaml
from tiny import save, tiny_png, tiny_text, tiny_vl

from mmcredit import cli, config
from mmcredit.components import build
from mmcredit.data.sample import Media, Sample
from mmcredit.decoding.base import same_vocabulary
from mmcredit.decoding.kv_select import Selector
from mmcredit.decoding.labels import follow, same_words, train_head
from mmcredit.decoding.routers import RouterHead, entropy_router, head_router
from mmcredit.decoding.selecting import SelectingEngine
from mmcredit.decoding.speculation import ConfidenceRouter, ScriptedRouter, StepSpeculator
from mmcredit.decoding.two_models import ALWAYS, NEVER, TwoModelGenerator
from mmcredit.policy.policy import Policy
from mmcredit.rollout.engine import Request, Sampling


def text_policy(**fields):
    return Policy(*tiny_text(**fields))


def requests(policy, count=3, **fields):
    asked = [Sample(f"s{i}", ({"role": "user", "content": f"what is {i} + {i}"},)) for i in range(count)]
    return [Request(policy.encode(s), (11 + i,), tag=i, **fields) for i, s in enumerate(asked)]


def tokens(engine, asked, **fields):
    sampling = Sampling(**{"temperature": 0.0, "max_new_tokens": 12, **fields})
    return [response.tokens for response in engine.generate(asked, sampling)]


def hf(policy):
    return build("engine", "hf").open(policy)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_model_alone_answers_as_the_engine_hf(temperature):
    small, large = text_policy(), text_policy(seed=3, layers=3)
    asked = requests(small)
    wanted = tokens(hf(small), asked, temperature=temperature)
    theirs = tokens(hf(large), requests(large), temperature=temperature)
    assert wanted != theirs
    assert tokens(TwoModelGenerator(small, large, entropy_router, NEVER), asked, temperature=temperature) == wanted
    always = TwoModelGenerator(small, large, entropy_router, ALWAYS)
    assert tokens(always, asked, temperature=temperature) == theirs
    assert always.report()["large_share"] == 1.0
    alone = TwoModelGenerator(small, large, entropy_router, 0.5).alone()
    assert tokens(alone["large"], asked, temperature=temperature) == theirs
    keep = StepSpeculator(small, large, ScriptedRouter(0.0), " ", 0.5)
    assert tokens(keep, asked, temperature=temperature) == wanted
    rewrite = StepSpeculator(small, large, ScriptedRouter(1.0), " ", 0.5)
    assert tokens(rewrite, asked, temperature=temperature) == theirs


def test_routed_tokens_are_the_large_models_behind_the_joint_prefix():
    small, large = text_policy(), text_policy(seed=3, layers=3)
    asked = requests(small)
    entropies = []

    def score(signals):
        entropies.append(float(entropy_router(signals)))
        return entropy_router(signals)

    TwoModelGenerator(small, large, score, math.inf)
    engine = TwoModelGenerator(small, large, score, 2.0)
    found = tokens(engine, asked)
    middle = sorted(entropies)[len(entropies) // 2]
    engine = TwoModelGenerator(small, large, score, middle)
    found = tokens(engine, asked)
    assert 0 < engine.report()["large_share"] < 1
    for request, ids in zip(asked, found, strict=True):
        for step in range(len(ids)):
            options = []
            for policy in (small, large):
                row = torch.cat([request.prompt.tokens, torch.tensor(ids[:step], dtype=torch.int64)])[None]
                with torch.no_grad():
                    logits = policy.model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -1]
                options.append(logits)
            routed = entropy_router_of(options[0]) >= middle - 1e-4
            unsure = abs(entropy_router_of(options[0]) - middle) < 1e-4
            assert unsure or ids[step] == int(options[int(routed)].argmax())


def entropy_router_of(logits):
    top = logits.topk(100).values
    p = top.softmax(0)
    return float(-(p * p.log()).sum())


def test_steps_of_both_writers_are_taken():
    small, large = text_policy(), text_policy(seed=3, layers=3)
    asked = requests(small)
    text = small.tokenizer.decode(tokens(hf(small), asked, max_new_tokens=24)[0])
    separator = text[3]
    engine = StepSpeculator(small, large, ConfidenceRouter(), separator, 0.9, max_steps=4)
    found = tokens(engine, asked, max_new_tokens=24)
    report = engine.report()
    assert all(found)
    assert 0 <= report["token_acceptance"] <= 1
    assert report["steps"] >= len(asked)
    assert ConfidenceRouter().score("", [], [], []) == 0.0
    assert ConfidenceRouter().score("", ["a"], [0], [math.log(0.5), math.log(0.5)]) == pytest.approx(0.5)


def test_vocabularies_must_agree():
    small, large = text_policy(), text_policy()
    same_vocabulary(small, large)
    large.tokenizer.add_tokens(["<new>"])
    with pytest.raises(ValueError, match="different vocabularies"):
        same_vocabulary(small, large)
    small.tokenizer.add_tokens(["<new>"])
    large.eos_token_ids = (0,)
    with pytest.raises(ValueError, match="ends with"):
        same_vocabulary(small, large)
    engine = TwoModelGenerator(text_policy(), text_policy(), entropy_router, 0.4)
    with pytest.raises(ValueError, match="continuations"):
        engine.generate(requests(small, 1, prefix=(5,)), Sampling())


def test_a_loop_is_ended():
    policy = text_policy()
    engine = TwoModelGenerator(policy, policy, entropy_router, NEVER, repeats=2)
    assert not engine._loops([1, 2] * 8)
    assert engine._loops([1, 2, 3, 4, 5, 6, 7, 8] * 3)
    assert engine.report()["loops"] == 1


def test_path_following_labels_and_a_trained_head():
    small, large = text_policy(), text_policy(seed=3, layers=3)
    (request,) = requests(small, 1)
    (response,) = tokens(hf(large), requests(large, 1), max_new_tokens=20)
    rows = follow(small, large, request.prompt, large.encode(request.prompt.sample), response, set(), longest=4)
    assert len(rows) == len(response)
    assert all(row.label == 0 for row in rows if row.match)
    assert {row.label for row in rows if not row.match} <= {0, 1}
    dropped = follow(
        small, large, request.prompt, large.encode(request.prompt.sample), response, set(), lambda *_: -1, 4
    )
    assert all(row.label is None for row in dropped if not row.match)
    assert same_words("", "A  b", "a b") == 0
    assert same_words("", "a", "b") == 1
    head = RouterHead(64, width=16, blocks=1, inner=16)
    head, threshold, figures = train_head(rows, small.body.embed, head=head, epochs=4, learning_rate=1e-2)
    assert 0 < threshold < 1
    assert figures["positions"] == len(rows)
    p = head_router(head, small.body.embed)(rows[0].signals)
    assert 0 <= float(p) <= 1
    with pytest.raises(ValueError, match="no labelled position"):
        train_head([], small.body.embed)


def full(prompt):
    return Selector(2**40, theta=None)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
@pytest.mark.parametrize("family", ["text", "qwen2_5_vl", "qwen3_vl"])
def test_selecting_all_is_full_attention(family, dtype, tolerance):
    """To 1e-6; in float32 the two sum in another order, and rounding alone is more than that."""
    if family == "text":
        policy = text_policy()
        asked = requests(policy)
    else:
        model, processor = tiny_vl(family, max_pixels=56 * 56)
        policy = Policy(model, processor.tokenizer, processor)
        content = [{"type": "image"}, {"type": "text", "text": "what is there"}]
        sample = Sample("i", ({"role": "user", "content": content},), (Media("image", data=tiny_png(56)),))
        asked = [Request(policy.encode(sample), (1,))]
    policy.model.to(dtype)
    sampling = Sampling(temperature=1.0, max_new_tokens=10)
    wanted = hf(policy).generate(asked, sampling)
    for make in (full, lambda prompt: Selector(10**6, n_init=0, n_local=1, theta=0.9, chunk=4)):
        found = SelectingEngine(policy, make, full).generate(asked, sampling)
        assert [r.tokens for r in found] == [r.tokens for r in wanted]
        for a, b in zip(found, wanted, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=tolerance)
    engine = SelectingEngine(policy, lambda prompt: Selector(2, n_init=1, n_local=2, chunk=4), full)
    few = engine.generate(asked, sampling)
    assert [r.logprobs for r in few] != [r.logprobs for r in wanted]
    assert 0 < engine.report()["attended_share"] < 1


def test_none_of_them_samples_rollouts():
    base = {"model": {"path": "x"}, "data": {"train": "sums"}, "rewards": ["number"]}
    for name, entry in (("tokenselect", "tokenselect"), ("r2r", {"r2r": {"large": "y"}})):
        with pytest.raises(ValueError, match=f"{name}.*test time.*evaluate --decoding {name}"):
            config.parse({**base, "rollout": {"engine": entry}})


def test_the_command_compares_with_both_models(tmp_path, capsys):
    small = save(*tiny_text(), tmp_path / "small")
    large = save(*tiny_text(seed=3, layers=3), tmp_path / "large")
    content = {
        "model": {"path": str(small)},
        "data": {"train": "sums", "evaluate": {"sums": {"split": "test"}}},
        "rewards": ["number"],
        "rollout": {"sampling": {"max_new_tokens": 4}},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content))
    for entry in (f"{{r2r: {{large: {large}}}}}", f"{{arbitrage: {{target: {large}}}}}", "{tokenselect: {k: 4}}"):
        output = tmp_path / "a.jsonl"
        words = ["evaluate", str(path), "--limit", "3", "--decoding", entry, "-o", str(output)]
        assert cli.main(words) == 0, entry
        said = capsys.readouterr().out
        names = {"r2r": ("small", "large"), "arbitrage": ("draft", "target"), "tokenselect": ("full",)}
        name = entry[1:].partition(":")[0]
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert list(dict.fromkeys(row["decoding"] for row in rows)) == [*names[name], name]
        assert len(rows) == 3 * (1 + len(names[name]))
        assert "accuracy" in said
    for entry, told in (("nothing", "unknown decoding"), ("{r2r: {large: x, router: head}}", "head goes with")):
        assert cli.main(["evaluate", str(path), "--decoding", entry]) == 2
        assert told in capsys.readouterr().err
