"""The engine `server` against the engine it serves: the same responses, weights taken over whole, no strangers."""

from __future__ import annotations

import http.client
import importlib.util
import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from serving import serve
from test_rollout_hf import engine as hf_engine
from test_rollout_hf import make_policy, make_prompts, requests, sample
from tiny import save as save_model

from mmcredit.components import build
from mmcredit.policy.config import LoRAConfig, ModelConfig
from mmcredit.policy.load import prepare
from mmcredit.policy.policy import Policy
from mmcredit.rollout.drawing.temperature import EntropyTemperature, TemperatureHook
from mmcredit.rollout.engine import Request, Response, Sampling
from mmcredit.rollout.serving import wire
from mmcredit.rollout.serving.service import Service
from mmcredit.statistics.entropy_scale import EntropyScale
from mmcredit.train.sharing import OneEngine
from mmcredit.world import ALONE

ENGINES = ["hf", *(["vllm"] if importlib.util.find_spec("vllm") else [])]
NOISE = {"hf": 1e-5, "vllm": 2e-4}  # nats


def folder_of(policy: Policy, path: Path) -> Path:
    if not path.exists():
        save_model(policy.model, policy.processor or policy.tokenizer, path)
    return path


def client(url: str, policy: Policy, **options):
    return build("engine", {"server": {"urls": [url], "reconnect_timeout": 1, **options}}).open(policy)


def told(responses: list[Response]) -> list[tuple]:
    return [(r.tag, r.member, r.tokens, r.finish) for r in responses]


@pytest.fixture(scope="module", params=[(e, f) for e in ENGINES for f in ("qwen3", "qwen2_5_vl")], ids=str)
def opened(request, tmp_path_factory):
    name, family = request.param
    policy = make_policy(family)
    path = folder_of(policy, tmp_path_factory.mktemp("model") / family)
    options = {"vllm": {"max_model_len": 1024}} if name == "vllm" else name
    with serve(path, options) as service:
        engine = client(service.url, policy)
        yield name, policy, engine, service
        engine.close()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=24, temperature=0.7, top_p=0.9, top_k=50, min_new_tokens=8),
        Sampling(max_new_tokens=40, stop=("e", "an"), min_new_tokens=3, stop_token_ids=(17,)),
    ],
    ids=["narrow", "strings"],
)
def test_responses_are_those_of_hf(opened, sampling):
    name, policy, engine, _ = opened
    prompts = make_prompts(policy)
    asked = [
        *requests(prompts),
        Request(prompts[0], range(3), prefix=(30, 31, 32), tag=7),
        Request(prompts[1], [5, 5 + 2**64], limit=4, tag=8),
        Request(prompts[2], [], tag=9),
    ]
    seen: list[int] = []
    got = engine.generate(asked, sampling, seen.append)
    expected = hf_engine(policy).generate(asked, sampling)
    assert told(got) == told(expected)
    assert sum(seen) == len(got) == 17
    for a, b in zip(got, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=NOISE[name])
    assert engine.generate([], sampling) == []


def test_temperatures_by_entropy_travel(opened):
    _, policy, engine, _ = opened
    prompts = make_prompts(policy)
    scale = EntropyScale.measure(torch.linspace(4.0, 5.9, 50), 0.8, 1e-8)
    hook = TemperatureHook(EntropyTemperature(scale, 0.4, 1.0, "intended", policy.suppressed_ids))
    reference = hf_engine(policy)
    reference.hook = engine.hook = hook
    try:
        got = engine.generate(requests(prompts), Sampling(max_new_tokens=16))
    finally:
        engine.hook = None
    plain = engine.generate(requests(prompts), Sampling(max_new_tokens=16))
    assert told(got) == told(reference.generate(requests(prompts), Sampling(max_new_tokens=16))) != told(plain)
    engine.hook = lambda step, logits, rows: logits
    with pytest.raises(ValueError, match="takes temperatures by entropy"):
        engine.generate(requests(prompts), Sampling(max_new_tokens=2))
    engine.hook = None


def test_media_travel_once_and_text_never(opened, monkeypatch):
    _, policy, engine, service = opened
    prompts = (
        [policy.encode(sample(f"m{i}", f"what is it {i}", [(112, 10 + i // 2)])) for i in range(4)]
        if policy.tower
        else []
    )
    sent: list[tuple[str, bytes]] = []
    for method in ("put_media", "generate"):
        original = getattr(service.host, method)

        def spy(*given, method=method, original=original):
            sent.append((method, given[-1] if method == "put_media" else json.dumps(given[0]).encode()))
            return original(*given)

        monkeypatch.setattr(service.host, method, spy)
    for _ in range(2):
        engine.generate([Request(p, range(3)) for p in [*prompts, *make_prompts(policy)]], Sampling(max_new_tokens=2))
    media = [body for method, body in sent if method == "put_media"]
    assert len(media) == len(set(media)) == (2 if policy.tower else 0)  # four prompts, two images; the others are known
    assert all(b"what is" not in body for _, body in sent)
    # What had to make room is sent again.
    service.host._media.clear()
    engine.generate([Request(p, range(2)) for p in prompts], Sampling(max_new_tokens=2))
    assert len([1 for method, _ in sent if method == "put_media"]) == 2 * len(media)


def test_bad_requests_are_refused_as_in_one_process(opened):
    _, policy, engine, _ = opened
    prompts = make_prompts(policy)
    with pytest.raises(ValueError, match=r"sample a: .*max_new_tokens 9000 .*positions"):
        engine.generate(requests(prompts), Sampling(max_new_tokens=9000))
    with pytest.raises(ValueError, match=r"seed must lie in .*got -1"):
        engine.generate([Request(prompts[0], [-1])], Sampling())
    assert len(engine.generate(requests(prompts), Sampling(max_new_tokens=2))) == 12  # it goes on


def differs(policy: Policy, engine, prompts) -> float:
    """Largest difference between the engine's log-probs and those of the policy's own weights."""
    got = engine.generate(requests(prompts), Sampling(max_new_tokens=8))
    rows = [Request(prompts[r.tag], [0], tag=i) for i, r in enumerate(got)]
    from mmcredit.policy.passes import CLEAN, Pass
    from mmcredit.rollout.collate import collate

    flat = [Response(i, 0, r.tokens, r.logprobs, r.finish) for i, r in enumerate(got)]
    rollouts = collate(prompts, rows, flat, 0)
    own = policy.score(prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)[CLEAN]["logprobs"]
    return float((own - rollouts.sampler_logprobs)[rollouts.mask].abs().max())


def change(policy: Policy, factor: float, part: str = "") -> None:
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters().items():
            if part in name:
                parameter.mul_(factor)
    policy.weights_changed()


def test_an_update_reaches_the_engine_the_tower_included(opened):
    name, policy, engine, _ = opened
    prompts = make_prompts(policy)
    engine.config.bucket_mb, size = 1, engine.config.bucket_mb
    try:
        for part in ["visual", ""] if policy.tower else [""]:
            assert differs(policy, engine, prompts) < NOISE[name]
            change(policy, 1.2, part)
            assert differs(policy, engine, prompts) > 50 * NOISE[name]  # the old weights
            engine.report()
            engine.sync()
            assert differs(policy, engine, prompts) < NOISE[name]
            found, said = engine.report()
            assert found["probe_difference"] < NOISE[name] < found["probe_moved"]
            assert found["synced_mb"] > 0
            assert not said
            change(policy, 1 / 1.2, part)
            engine.sync()
    finally:
        engine.config.bucket_mb = size


def test_the_probe_finds_weights_that_were_not_taken_over(opened, monkeypatch):
    _, policy, engine, _ = opened
    prompts = make_prompts(policy)
    engine.generate(requests(prompts), Sampling(max_new_tokens=2))
    change(policy, 1.2)
    monkeypatch.setattr(
        wire.Intake, "take", lambda self, body: self.received.update({k: v.numel() for k, v in self.weights.items()})
    )
    engine.sync()
    with pytest.raises(RuntimeError, match="does not sample from the trainer's weights"):
        engine.generate(requests(prompts), Sampling(max_new_tokens=2))
    monkeypatch.undo()
    change(policy, 1 / 1.2)
    engine.sync()
    engine.generate(requests(prompts), Sampling(max_new_tokens=2))


def test_the_probe_finds_what_a_cache_remembers(tmp_path, monkeypatch):
    policy = make_policy("qwen2_5_vl")
    prompts = make_prompts(policy)
    with serve(folder_of(policy, tmp_path / "model")) as service:
        engine = client(service.url, policy)
        engine.generate(requests(prompts), Sampling(max_new_tokens=2))
        monkeypatch.setattr(service.host.policy, "drop_caches", lambda: None)
        monkeypatch.setattr(service.host.policy, "weights_changed", lambda: None)
        change(policy, 1.3, "visual")
        engine.sync()
        with pytest.raises(RuntimeError, match="does not sample from the trainer's weights"):
            engine.generate(requests(prompts), Sampling(max_new_tokens=2))
        monkeypatch.undo()
        engine.sync()
        engine.generate(requests(prompts), Sampling(max_new_tokens=2))


def test_one_client_serves_all_ranks(tmp_path):
    policy = make_policy("qwen3")
    prompts = make_prompts(policy)
    inside: list[str] = []

    @contextmanager
    def whole():
        inside.append("whole")
        yield

    with serve(folder_of(policy, tmp_path / "model")) as service:
        engine = OneEngine(client(service.url, policy), ALONE, whole)
        expected = told(hf_engine(policy).generate(requests(prompts), Sampling(max_new_tokens=8)))
        engine.sync()
        assert inside == ["whole"]
        assert told(engine.generate(requests(prompts), Sampling(max_new_tokens=8))) == expected
        change(policy, 1.2)  # as weights that are spread over ranks: out of reach until the next sync
        service.host.session = ""
        assert told(engine.submit(requests(prompts), Sampling(max_new_tokens=8))()) == expected
        counts, said = engine.report()
        assert counts["faults/restarted"] == len(said) == 1
        engine.close()


def test_only_what_is_trained_travels(tmp_path):
    base = make_policy("qwen2_5_vl")
    folder_of(base, tmp_path / "model")
    config = ModelConfig(path=str(tmp_path / "model"), lora=LoRAConfig(rank=4), freeze_vision=True)
    policy = Policy.load(config)
    sent: list[bytes] = []
    with serve(tmp_path / "model") as service:
        put = service.host.put_weights
        service.host.put_weights = lambda version, body: (sent.append(body), put(version, body))[1]
        engine = client(service.url, policy)
        with torch.no_grad():
            for parameter in policy.trainable_parameters().values():
                parameter.normal_(0, 0.1)
        engine.sync()
        names = {key.partition(":")[2] for body in sent for key in load(body)}
        assert names == set(policy.trainable_parameters())
        assert all(".lora_" in name and "visual" not in name for name in names)
        assert differs(policy, engine, make_prompts(policy)) < 1e-5
        engine.close()


def test_another_model_is_refused_before_the_first_step(tmp_path):
    policy = make_policy("qwen3")
    folder_of(policy, tmp_path / "model")
    with serve(tmp_path / "model") as service:
        with pytest.raises(ValueError, match=r"another model than the trainer: weight .* differs in shape"):
            client(service.url, make_policy("qwen3", hidden=128))
        with pytest.raises(ValueError, match=r"weights are not on both sides"):
            client(service.url, make_policy("qwen2"))
        frozen = prepare(make_policy("qwen3").model, ModelConfig(path="x", lora=LoRAConfig(rank=4)))
        with torch.no_grad():
            next(p for n, p in frozen.named_parameters() if "base_layer" in n).mul_(1.01)
        moved = Policy(frozen, policy.tokenizer, None, ModelConfig(path="x", lora=LoRAConfig(rank=4)))
        with pytest.raises(ValueError, match=r"weight .*base_layer.* differs in values"):
            client(service.url, moved)


def test_weights_must_come_whole_and_in_order():
    weights = {"a": torch.randn(3, 5), "b": torch.randn(700), "c": torch.randn(2).to(torch.bfloat16)}
    bodies = list(wire.buckets(weights, 1024))
    assert len(bodies) == 3
    copy = {name: torch.zeros_like(value) for name, value in weights.items()}
    intake = wire.Intake(copy)
    for body in bodies[:-1]:
        intake.take(body)
    with pytest.raises(ValueError, match=r"2 of 3 weights are not complete, 'b' among them"):
        intake.finish()
    with pytest.raises(ValueError, match=r"weight 'b': elements .* came after"):
        intake.take(bodies[-2])  # twice
    intake.take(bodies[-1])
    intake.finish()
    assert all(torch.equal(copy[name], weights[name]) for name in weights)
    with pytest.raises(ValueError, match="'d' is not one that is trained here"):
        intake.take(save({"0:d": torch.zeros(1)}))
    with pytest.raises(ValueError, match="no safetensors"):
        intake.take(b"\x80\x04pickle")


def ask(service: Service, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(*service.server_address[:2], timeout=20)
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_strangers_are_not_let_in(tmp_path):
    policy = make_policy("qwen3")
    folder_of(policy, tmp_path / "model")
    with serve(tmp_path / "model", token="secret") as service:
        assert ask(service, "GET", "/health", X_Mmcredit="none")[0] == 401
        assert ask(service, "GET", "/health", X_Mmcredit="none", Authorization="Bearer wrong")[0] == 401
        status, found = ask(service, "GET", "/health", X_Mmcredit="none", Authorization="Bearer secret")
        assert (status, found["protocol"]) == (200, wire.PROTOCOL)
        with pytest.raises(ValueError, match="a token is needed"):
            client(service.url, policy)
    with serve(tmp_path / "model") as service:
        assert ask(service, "GET", "/health")[0] == 401  # a page in a browser cannot set the header
        assert ask(service, "POST", "/generate", b"{}", X_Mmcredit="guess") == (
            409,
            {"error": "no session is open", "kind": "session"},
        )
        assert ask(service, "POST", "/open", b"[", X_Mmcredit="none")[0] == 400
        status, found = ask(service, "POST", "/open", X_Mmcredit="none", Content_Length=str(2**40))
        assert (status, found["kind"]) == (413, "size")
        first = client(service.url, policy)
        first.generate(requests(make_prompts(policy)), Sampling(max_new_tokens=2))
        second = client(service.url, policy)
        second.generate(requests(make_prompts(policy)), Sampling(max_new_tokens=2))
        with pytest.raises(RuntimeError, match="another trainer has opened this server"):
            first.generate(requests(make_prompts(policy)), Sampling(max_new_tokens=2))
    with pytest.raises(ValueError, match="set a token in the environment variable"):
        Service(service.host, "0.0.0.0", 0, None, 1)


def test_half_an_update_is_never_sampled_from(tmp_path):
    policy = make_policy("qwen3")
    prompts = make_prompts(policy)
    with serve(folder_of(policy, tmp_path / "model")) as service:
        dying = client(service.url, policy, faults=0)
        dying.generate(requests(prompts), Sampling(max_new_tokens=2))
        (link,) = dying.links
        link._outcome(link._ask("POST", "/weights/begin", {"version": 2}), 60, still=60)
        link._ask("POST", "/weights/2", next(wire.buckets(policy.state_dict(), 4096)))
        with pytest.raises(RuntimeError, match="weights of version 1 are wanted, None are loaded"):
            dying.generate(requests(prompts), Sampling(max_new_tokens=2))
        after = client(service.url, policy)  # the run that goes on where that one died
        expected = hf_engine(policy).generate(requests(prompts), Sampling(max_new_tokens=8))
        assert told(after.generate(requests(prompts), Sampling(max_new_tokens=8))) == told(expected)
