"""ssToken: worked numbers, identities, the attention that it reads, and a run."""

import json

import pytest
import torch
from tiny import save, tiny_text

from mmcredit import cli
from mmcredit.components import build
from mmcredit.config import OptimizerBlock
from mmcredit.data.sample import Sample
from mmcredit.policy.policy import Policy
from mmcredit.supervised.selections.sstoken import count, filter_tokens, keep_mask, normalise, rel, scores
from mmcredit.supervised.sft import fit_batch
from mmcredit.supervised.taught import Taught, as_rollouts, losses, teach
from mmcredit.world import ALONE

CURRENT = torch.tensor([0.40, 2.10, 0.05, 1.30, 0.90])
HISTORY = torch.tensor([1.00, 2.00, 0.06, 2.30, 0.80])
ATTENTION = torch.tensor([0.62, 0.30, 0.15, 0.25, 0.55])


def test_worked_numbers():
    own = rel(HISTORY, CURRENT)
    torch.testing.assert_close(normalise(own), torch.tensor([0.636364, 0, 0.1, 1, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        scores(own, ATTENTION, 0.5), torch.tensor([0.628182, 0.15, 0.125, 0.625, 0.275]), atol=1e-6, rtol=0
    )
    for gamma, kept, loss in ((0.0, [0, 1, 4], 1.133333), (0.5, [0, 3, 4], 0.866667), (1.0, [0, 2, 3], 0.583333)):
        mask = filter_tokens(CURRENT, HISTORY, ATTENTION, gamma=gamma, rho=0.6)
        assert mask.nonzero()[:, 0].tolist() == kept
        assert float(CURRENT[mask].mean()) == pytest.approx(loss, abs=1e-6)
    assert float(CURRENT[filter_tokens(CURRENT, HISTORY, ATTENTION, rho=1.0)].mean()) == pytest.approx(0.95)


def test_edges():
    assert [count(n, 0.6) for n in (0, 1, 2, 5, 7)] == [0, 1, 2, 3, 5]
    assert not keep_mask(torch.zeros(0), 0.5).numel()
    assert normalise(torch.full((3,), 2.0)).tolist() == [0, 0, 0]
    assert keep_mask(torch.zeros(4), 0.5).tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="rho"):
        build("selection", {"sstoken": {"rho": 0}})
    with pytest.raises(ValueError, match="token_select"):
        build("selection", {"sstoken": {"token_select": "both"}})


def policy_of():
    return Policy(*tiny_text())


def batch_of(policy):
    pairs = [("what is 2 + 3", "the answer is 5 red squares"), ("how many", "there are 7"), ("is it", "no")]
    return [teach(Sample(f"s{i}", ({"role": "user", "content": q},)), a, policy) for i, (q, a) in enumerate(pairs)]


def fitted(policy, selection, budget=10**6, average="tokens"):
    engine = build("train_engine", "local").open(policy, OptimizerBlock(learning_rate=1e-3), 1, ALONE)
    metrics = fit_batch(batch_of(policy), policy, engine, token_budget=budget, average=average, selection=selection)
    found = {n: p.grad.clone() for n, p in policy.trainable_parameters().items() if p.grad is not None}
    for parameter in policy.trainable_parameters().values():
        parameter.grad = None
    return metrics, found


def opened(policy, **fields):
    selection = build("selection", {"sstoken": fields})
    selection.open(policy, 0, 10)
    return selection


def moved(policy):
    """Away from its history."""
    with torch.no_grad():
        for i, parameter in enumerate(policy.trainable_parameters().values()):
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    policy.weights_changed()


@pytest.mark.parametrize("fields", [{"rho": 1.0}, {"token_select": "none", "rho": 0.3}])
def test_keeping_all_is_sft(fields):
    policy = policy_of()
    plain, gradients = fitted(policy, None)
    metrics, found = fitted(policy, opened(policy, **fields))
    assert metrics["loss"] == plain["loss"]
    assert metrics["lesson/kept"] == 1.0
    for name, gradient in gradients.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("average", ["tokens", "samples"])
@pytest.mark.parametrize("token_select", ["rel", "attn", "sstoken", "random"])
def test_micro_batches_change_nothing(token_select, average):
    policy = policy_of()
    selection = opened(policy, token_select=token_select, rho=0.5)
    moved(policy)
    state = selection.state_dict()
    whole, gradients = fitted(policy, selection, average=average)
    selection.load_state_dict(state)
    apart, found = fitted(policy, selection, budget=1, average=average)
    assert whole["loss"] == pytest.approx(apart["loss"], abs=1e-5)
    total = sum(len(each.tokens) for each in batch_of(policy))
    assert whole["lesson/kept"] == pytest.approx(sum(count(len(e.tokens), 0.5) for e in batch_of(policy)) / total)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


def eager_attention(policy, each):
    """Attention of the last layer, heads averaged [L,L], by transformers' eager code."""
    model, _ = tiny_text()
    model.set_attn_implementation("eager")
    ids = torch.cat([each.prompt.tokens, torch.tensor(each.tokens)])[None]
    with torch.no_grad():
        return model(input_ids=ids, output_attentions=True).attentions[-1][0].mean(0)


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_attention_is_that_of_the_tokens_own_rows(layout):
    policy = policy_of()
    policy._layout = layout
    batch = batch_of(policy)
    followed = [Taught(e.prompt, (*e.tokens, policy.eos_token_ids[0]), (*e.mask, False)) for e in batch]
    rollouts = as_rollouts(followed, 0)
    from mmcredit.policy.passes import CLEAN, Pass

    for output, first in (("prompt_attention", 0), ("prompt_attention:no_first", 1)):
        found = policy.score([e.prompt for e in batch], rollouts, [Pass(CLEAN, frozenset({output}))], temperature=1.0)
        for i, each in enumerate(batch):
            start, length = len(each.prompt), len(each.tokens)
            expected = eager_attention(policy, each)[start:, first:start].sum(-1)
            torch.testing.assert_close(found[CLEAN][output][i, 1 : length + 1], expected, atol=1e-5, rtol=1e-4)


def test_rel_is_the_gain_over_the_model_as_loaded():
    policy = policy_of()
    selection = opened(policy, token_select="rel", rho=0.5)
    before, counts = losses(batch_of(policy), policy)
    moved(policy)
    after, _ = losses(batch_of(policy), policy)
    metrics, _ = fitted(policy, selection)
    expected = float((before - after).sum() / counts.sum())
    assert metrics["sstoken/rel"] == pytest.approx(expected, abs=1e-4)
    assert abs(expected) > 1e-3
    warm = opened(policy, rel_warmup_samples=4, gamma=0.5)
    assert warm.mix == 0.0
    warm.load_state_dict({"seen": 4})
    assert warm.mix == 0.5


def test_a_run_with_it(tmp_path, capsys):
    model = save(*tiny_text(), tmp_path / "model")
    rows = [{"prompt": f"what is {i}", "completion": f"the answer is {i}"} for i in range(8)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "sft.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\nmodel: {{path: {model}}}\n"
        f"data: {{train: {{jsonl: {{path: {tmp_path / 't.jsonl'}}}}}}}\ntrain: {{batch: 4}}\n"
        "selection: {sstoken: {rho: 0.5}}\nlog: {tensorboard: false}\n"
    )
    assert cli.main(["sft", str(config)]) == 0
    assert "tokens of sstoken" in " ".join(capsys.readouterr().out.split())
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(0.4 < row["lesson/kept"] < 0.7 for row in rows)
    assert rows[0]["sstoken/rel"] == pytest.approx(0, abs=1e-5)
    assert rows[1]["sstoken/rel"] != 0
