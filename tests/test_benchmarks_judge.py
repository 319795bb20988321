"""The judge against a real server on the loopback, and benchmarks that are scored with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import benchmark_rows as rows
import pytest
from benchmark_rows import load, results

from mmcredit.evaluate.benchmarks.referee import Referee
from mmcredit.judge import Ask, Judge, JudgeConfig


@contextmanager
def server(reply: Callable[[dict[str, Any]], tuple[int, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An OpenAI-compatible address; `reply` maps the request body to (status, text or whole body)."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            status, answer = reply(body)
            text = (
                answer
                if isinstance(answer, bytes)
                else json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
            )
            self.send_response(status)
            if status in (301, 302):
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/v1", seen
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def judge_at(url: str, **fields: Any) -> Judge:
    return Judge(JudgeConfig(base_url=url, model="judge-1", backoff=0, **fields))


def test_judge_asks_once_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-1")
    cache = tmp_path / "cache.jsonl"
    with server(lambda body: (200, body["messages"][-1]["content"].upper())) as (url, seen):
        judge = judge_at(url, api_key_env="JUDGE_KEY", cache=cache, concurrency=4)
        asked = [Ask("one"), Ask("two", "system"), Ask("one"), Ask("ünï")]
        assert judge.ask(asked) == ["ONE", "TWO", "ONE", "ÜNÏ"]
        assert len(seen) == 3
        assert {call["path"] for call in seen} == {"/v1/chat/completions"}
        assert {call["key"] for call in seen} == {"Bearer secret-1"}
        assert {call["model"] for call in seen} == {"judge-1"}
        assert [m["role"] for m in next(c for c in seen if len(c["messages"]) == 2)["messages"]] == ["system", "user"]
        assert judge.counts == {"asked": 3}
        again = judge_at(url, api_key_env="JUDGE_KEY", cache=cache)
        assert again.ask(asked) == ["ONE", "TWO", "ONE", "ÜNÏ"]
        assert (len(seen), again.counts) == (3, {"cached": 4})
        assert "secret" not in cache.read_text()
        judge_at(url, cache=cache, temperature=1.0).ask([Ask("one")])
        assert len(seen) == 4  # another temperature is another question
        # a run that was killed while it wrote
        cache.write_text(cache.read_text() + '{"key": "ab')
        cut = judge_at(url, cache=cache)
        assert cut.ask([Ask("three")]) == ["THREE"]
        assert cut.counts == {"cache line cut off": 1, "asked": 1}
        assert judge_at(url, cache=cache).ask([Ask("three")]) == ["THREE"]


def test_judge_errors_are_counted_and_retried() -> None:
    replies = iter(
        [(503, b"busy"), (200, "ok"), (401, b"no key"), (200, b"not json"), (302, b""), (200, b'{"choices": []}')]
    )
    with server(lambda body: next(replies)) as (url, seen):
        judge = judge_at(url, retries=1)
        assert judge.ask([Ask("a")]) == ["ok"]
        for question in "bcde":
            assert judge.ask([Ask(question, sample=f"item {question}")]) == [None]
        assert len(seen) == 6
        assert judge.counts == {
            "retried": 1,
            "asked": 1,
            "failed": 4,
            "failed/http 401": 1,
            "failed/malformed": 2,
            "failed/http 302": 1,  # a redirect is not followed: it would take the key along
        }
        assert judge.first_errors[0].startswith("item b: HTTP 401")
    assert judge.ask([Ask("f")]) == [None]  # the server is gone
    assert judge.counts["failed/connection"] == 1


def test_judge_times_out() -> None:
    release = threading.Event()

    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        release.wait(20)
        return 200, "late"

    with server(slow) as (url, _):
        judge = judge_at(url, timeout=0.2, retries=0)
        assert judge.ask([Ask("a")]) == [None]
        assert judge.counts == {"failed": 1, "failed/timeout": 1}
        release.set()


def test_judge_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    for url, message in (
        ("ftp://a/v1", "http or https address"),
        ("127.0.0.1:8000", "http or https address"),
        ("https://user:key@a/v1", "must not carry a key"),
    ):
        with pytest.raises(ValueError, match=message):
            JudgeConfig(base_url=url, model="m")
    with pytest.raises(ValueError, match="in the clear"):
        JudgeConfig(base_url="http://example.org/v1", model="m", api_key_env="JUDGE_KEY")
    assert JudgeConfig(base_url="http://node7:8000/v1/", model="m").base_url == "http://node7:8000/v1"
    with pytest.raises(ValueError, match=r"environment variable JUDGE_KEY \(api_key_env\) is not set"):
        Judge(JudgeConfig(base_url="http://127.0.0.1:1/v1", model="m", api_key_env="JUDGE_KEY"))
    (tmp_path / "cache").write_text("nothing\n{}\n")
    with pytest.raises(ValueError, match=r"line 1 is no cache entry"):
        Judge(JudgeConfig(base_url="http://127.0.0.1:1/v1", model="m", cache=tmp_path / "cache"))


def test_benchmarks_with_a_judge(tmp_path: Path) -> None:
    """What the judge says decides, is labelled, and falls back on the rule where it says nothing usable."""

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        text = body["messages"][-1]["content"]
        if "garble" in text:
            return 200, "I cannot tell."
        if "break" in text:
            return 500, b"down"
        if "State the final answer of the response" in text:
            return 200, "B" if "(A)" in text else "3.0"
        if text.startswith("Problem:"):
            return 200, "0 or 1" if "I cannot tell" in text else "1"
        if text.startswith("Response:") and "State its final answer" in text:
            return 200, "three point four six"
        if text.startswith("Response:"):
            return 200, "4.0"
        if "correct, incorrect or unclear" in text:
            return 200, "unclear"
        return 200, "A, C"

    vista, vista_samples = load(tmp_path, "mathvista", rows.mathvista(), "testmini")
    verse, verse_samples = load(tmp_path, "mathverse", rows.mathverse(), "testmini")
    logic, logic_samples = load(tmp_path, "logicvista", rows.logicvista())
    hallusion, hallusion_samples = load(tmp_path, "hallusionbench", rows.hallusionbench(), "image")
    dyna, dyna_samples = load(tmp_path, "dynamath", rows.dynamath(), "sample_variant1", split="sample_variant1")
    with server(reply) as (url, _), Referee(judge_at(url, retries=0)) as referee:
        found = results(vista, vista_samples, ["the second", "break", "so three"], referee)
        assert [(s.score.correct, s.score.scored_by) for s in found] == [
            (True, "judge"),
            (False, "rule"),
            (True, "judge"),
        ]
        found = results(verse, verse_samples[:2], ["garble (B)", "about 3.46"], referee)
        # "I cannot tell." is an extraction like any other; the verdict on it is none, so the rule decides
        assert [(s.score.correct, s.score.scored_by) for s in found] == [(False, "rule"), (True, "judge")]
        assert found[0].score.flags == ("judge gave no verdict",)
        assert (found[1].score.rule, found[1].score.extracted) == ("judgement", "three point four six")
        found = results(logic, logic_samples[:2], ["all of them", "both, first and third"], referee)
        assert [s.score.correct for s in found] == [False, True]
        assert [s.score.extracted for s in found] == ["AC", "AC"]
        found = results(logic, logic_samples[:1], ["garble, so C"], referee)
        assert (found[0].score.correct, found[0].score.scored_by) == (True, "rule")
        assert found[0].score.flags == ("judge gave no letters",)
        found = results(hallusion, hallusion_samples, ["I am not sure"] * 6, referee)
        # unclear counts for VS questions without a figure only
        assert [s.score.correct for s in found] == [False, False, False, False, True, False]
        assert {s.score.scored_by for s in found} == {"judge"}
        found = results(dyna, dyna_samples[:1], ["It is about four"], referee)
        assert (found[0].score.correct, found[0].score.scored_by) == (True, "judge")
        assert referee.judge is not None
        assert referee.judge.counts["failed/http 500"] == 1
