"""Servers that die, hang, cannot be reached or talk nonsense: found in time, survived where that is possible."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from serving import answering, free_port, serve
from test_rollout_hf import engine as hf_engine
from test_rollout_hf import make_policy, make_prompts, requests
from test_rollout_server import client, folder_of, told

from mmcredit.components import build
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.policy import Policy
from mmcredit.rollout.engine import Sampling

LONG = Sampling(max_new_tokens=48, min_new_tokens=48)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = folder_of(make_policy("qwen3"), tmp_path_factory.mktemp("model") / "qwen3")
    return Policy.load(ModelConfig(path=str(path), device="cpu"))


def test_a_started_server_that_is_killed_or_stopped_comes_back(policy):
    prompts = make_prompts(policy)
    expected = hf_engine(policy).generate(requests(prompts), LONG)
    fields = {"engine": "hf", "threads": 1, "answer_timeout": 60}
    engine = build("engine", {"server": fields}).open(policy)
    try:
        assert told(engine.generate(requests(prompts), LONG)) == told(expected)
        assert engine.report()[0].get("restarts", 0) == 0
        (process,) = engine.processes
        for number, kind in ((signal.SIGKILL, "unreachable"), (signal.SIGSTOP, "hanging")):
            first, portion = process.pid, engine._portion

            def strike(call, link, given, number=number, first=first, portion=portion):
                threading.Timer(0.05, os.kill, (first, number)).start() if process.pid == first else None
                if process.pid == first:
                    engine.config.answer_timeout = 2
                    time.sleep(0.1)
                try:
                    portion(call, link, given)
                finally:
                    engine.config.answer_timeout = 60

            engine._portion = strike
            assert told(engine.generate(requests(prompts), LONG)) == told(expected)
            engine._portion = portion
            found, said = engine.report()
            assert (found["restarts"], found[f"faults/{kind}"], found["resent_requests"]) == (1, 1, 3)
            assert len(said) == 1
            assert process.pid != first
        last = process.pid
    finally:
        engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


def test_another_server_takes_over_and_the_lost_one_comes_back(policy):
    prompts = make_prompts(policy)
    path = policy.config.path
    expected = hf_engine(policy).generate(requests(prompts), LONG)
    with serve(path) as one, serve(path) as two:
        urls = [one.url, two.url]
        engine = build("engine", {"server": {"urls": urls, "reconnect_timeout": 1}}).open(policy)
        engine.sync()
        assert told(engine.generate(requests(prompts), LONG)) == told(expected)
        two.host.session = ""  # as a server that was started anew
        assert told(engine.generate(requests(prompts), LONG)) == told(expected)
        found, _ = engine.report()
        assert found["faults/restarted"] == found["left_out"] == 1
        assert found["resent_requests"] > 0
        engine.sync()
        assert all(link.version == engine._version for link in engine.links)


def test_an_engine_that_fails_is_made_anew(policy):
    prompts = make_prompts(policy)
    expected = hf_engine(policy).generate(requests(prompts), LONG)
    with serve(policy.config.path) as service:
        engine = client(service.url, policy)
        engine.sync()
        failing = service.host.engine

        def fail(*given):
            raise AssertionError("Encoder cache miss")

        failing.generate = fail
        assert told(engine.generate(requests(prompts), LONG)) == told(expected)
        assert service.host.engine is not failing
        assert engine.report()[0]["faults/engine"] == 1


def test_a_server_lost_in_flight_gets_the_weights_that_were_sent(policy):
    prompts = make_prompts(policy)
    kept = {name: value.clone() for name, value in policy.state_dict().items()}
    expected = hf_engine(policy).generate(requests(prompts), LONG)
    with serve(policy.config.path) as service:
        engine = client(service.url, policy)
        engine.keep_weights = True
        engine.sync()
        service.host.session = ""  # as a server that was started anew
        engine.probe = None
        try:
            policy.load_state_dict({name: value * 1.2 for name, value in kept.items()})  # the training goes on
            assert told(engine.submit(requests(prompts), LONG)()) == told(expected)
            assert engine.report()[0]["faults/restarted"] == 1
            engine.sync()
            assert told(engine.generate(requests(prompts), LONG)) != told(expected)
        finally:
            policy.load_state_dict(kept)


def test_nobody_there_is_one_line_within_the_deadline(policy):
    began = time.monotonic()
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RuntimeError, match=rf"rollout server {url}: Connection refused; start it with `mmcredit serve"):
        client(url, policy)
    assert time.monotonic() - began < 30
    with serve(policy.config.path) as service:
        engine = client(service.url, policy)
        engine.sync()
    with pytest.raises(RuntimeError, match=r"refused.*\(tried for 1 s\).*--resume"):
        engine.generate(requests(make_prompts(policy)), LONG)
    lost = Policy(policy.model, policy.tokenizer, None, policy.config.model_copy(update={"path": "nowhere/at/all"}))
    with pytest.raises(ValueError, match="nowhere/at/all"):
        build("engine", {"server": {"engine": "hf"}}).open(lost)


def test_hanging_and_stalled_servers_are_found(policy):
    release = threading.Event()
    with answering(lambda handler: release.wait(20)) as url:
        with pytest.raises(RuntimeError, match=r"no answer for 0\.5 s"):
            client(url, policy, answer_timeout=0.5, faults=0)
        release.set()
    with serve(policy.config.path) as service:
        engine = client(service.url, policy, stall_timeout=0.5, answer_timeout=2, faults=0)
        engine.sync()
        service.host.engine.generate = lambda *given: time.sleep(3) or []
        with pytest.raises(RuntimeError, match=r"no progress for .* s; 1 faults in a row"):
            engine.generate(requests(make_prompts(policy)), LONG)


def garbled(status: int, body: bytes, length: int | None = None):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        garbled(200, b"<html>it works</html>"),
        garbled(200, b"[1, 2]"),
        garbled(502, b"{}"),
        garbled(200, b'{"job": 3}'),
        garbled(200, b'{"session": "s", "job": "j", "outcome": {"result": {"weights": 3, "form": 1}}}'),
        garbled(200, b'{"job"', 4000),
        lambda handler: handler.wfile.write(b"\x00\x01 no http at all"),
    ],
    ids=["html", "list", "proxy", "job", "weights", "cut", "bytes"],
)
def test_nonsense_is_named(policy, answer):
    with answering(answer) as url, pytest.raises(RuntimeError, match=rf"rollout server {url}: [^\n]*$"):
        client(url, policy)


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows[:-1],
        lambda rows: rows[::-1],
        lambda rows: [{**rows[0], "tokens": [10**6] * len(rows[0]["tokens"])}, *rows[1:]],
        lambda rows: [{**rows[0], "logprobs": rows[0]["logprobs"][1:]}, *rows[1:]],
        lambda rows: [{**rows[0], "logprobs": [float("nan")] * len(rows[0]["tokens"])}, *rows[1:]],
        lambda rows: [{"text": "hello"}, *rows[1:]],
    ],
    ids=["fewer", "order", "vocabulary", "logprobs", "nan", "fields"],
)
def test_damaged_responses_are_asked_for_again(policy, damage):
    prompts = make_prompts(policy)
    expected = hf_engine(policy).generate(requests(prompts), Sampling(max_new_tokens=4))
    with serve(policy.config.path) as service:
        engine = client(service.url, policy)
        engine.sync()
        engine.probe = None
        job, spoiled = service.host.job, []

        def spoil(name, wait):
            answer = job(name, wait)
            result = (answer.get("outcome") or {}).get("result")
            if isinstance(result, list) and not spoiled:
                spoiled.append(name)
                return {"outcome": {"result": damage(result)}}
            return answer

        service.host.job = spoil
        assert told(engine.generate(requests(prompts), Sampling(max_new_tokens=4))) == told(expected)
        assert spoiled
        assert engine.report()[0]["faults/garbage"] == 1
