"""The endpoint backend against a stub server over real HTTP: what comes back when the server misbehaves."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from mmcredit.data.sample import Media, Sample
from prm.endpoint import Breaker, EndpointVerifier
from prm.endpoint_config import EndpointConfig
from prm.spans import locate
from prm.verifier import Query, query_of

GOOD = "<think>seen</think><answer>['red']</answer>"


def completion(text, **more):
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 7}, **more}).encode()


@contextmanager
def server(answer):
    """A server whose `answer(handler, number, body)` does the talking; yields (address, bodies received)."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            with suppress(OSError):  # the client has hung up, as it should
                answer(self, len(bodies), body)

        def log_message(self, *_):
            pass

    stub = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.daemon_threads = True
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{stub.server_port}/v1", bodies
    finally:
        stub.shutdown()
        stub.server_close()
        thread.join()


def send(handler, body, status=200, length=None):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def verifier(url, **fields):
    settings = {"timeout": 5.0, "retries": 0, "backoff": 0.0, "model": "m", **fields}
    return EndpointVerifier(EndpointConfig(base_url=url, **settings))


def ask(url, count=1, **fields):
    client = verifier(url, **fields)
    try:
        return client.verify([Query(f"what color is it? {i}", "it is red") for i in range(count)])
    finally:
        client.close()


def test_a_good_reply():
    with server(lambda h, n, b: send(h, completion(GOOD))) as (url, bodies):
        (found,) = ask(url, max_tokens=99)
    assert (found.status, found.strings, found.think) == ("flagged", ("red",), "seen")
    assert found.usage["calls"] == 1
    assert found.usage["prompt_tokens"] == 7
    assert (bodies[0]["max_tokens"], bodies[0]["temperature"], bodies[0]["model"]) == (99, 0.0, "m")


def test_many_queries_keep_their_order_and_run_at_once():
    together = threading.Barrier(4, timeout=20)

    def answer(handler, number, body):
        together.wait()  # passes only if four requests are under way
        question = body["messages"][1]["content"][0]["text"]
        which = question.split("color is it? ")[1].split("\n")[0]
        send(handler, completion(f"<answer>['it is {which}']</answer>"))

    with server(answer) as (url, _):
        found = ask(url, count=8, concurrency=4, timeout=30.0)
    assert [said.strings for said in found] == [(f"it is {i}",) for i in range(8)]


def hang(handler, number, body):
    time.sleep(3)


def trickle(handler, number, body):
    """A byte now and then: no single read times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(30):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def slow_headers(handler, number, body):
    for _ in range(30):
        handler.wfile.write(b"H")
        handler.wfile.flush()
        time.sleep(0.1)


@pytest.mark.parametrize("answer", [hang, trickle, slow_headers])
def test_a_deadline_holds_for_the_whole_reply(answer):
    with server(answer) as (url, _):
        (found,) = ask(url, timeout=0.4)
    assert found.status == "prm_error"
    assert "timeout" in found.error or "connection" in found.error


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>gateway</html>", "no chat completion"),
        (b"", "no chat completion"),
        (b"\xff\xfe\x00garbage", "no chat completion"),
        (b"[]", "no chat completion"),
        (b"null", "no chat completion"),
        (b'{"choices": []}', "no chat completion"),
        (b'{"choices": "text"}', "no chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', "no text"),
        (b'{"choices": [{"message": {"content": ["a"]}}]}', "no chat completion"),
        (b'{"choices": [{"message": {"content": null, "refusal": "I cannot"}}]}', "no text"),
        (b"[" * 100_000, "no chat completion"),
        (completion(GOOD, usage="none"), "no chat completion"),
    ],
)
def test_garbage_is_an_error_not_clean(body, says):
    with server(lambda h, n, b: send(h, body)) as (url, _):
        (found,) = ask(url)
    assert found.status == "prm_error"
    assert says in found.error


def test_oversized_broken_off_and_refused_replies():
    with server(lambda h, n, b: send(h, completion("x" * 5000))) as (url, _):
        (found,) = ask(url, max_reply_bytes=1000)
    assert "max_reply_bytes=1000" in found.error
    with server(lambda h, n, b: send(h, completion(GOOD)[:-20], length=5000)) as (url, _):
        (found,) = ask(url)
    assert found.status == "prm_error"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        (found,) = ask(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
    assert found.status == "prm_error"
    assert "connection" in found.error


def test_text_that_is_no_verification_is_a_parse_error():
    for text in ("looks fine to me", "<think>I was cut off", "<answer>[1, 2]</answer>", ""):
        with server(lambda h, n, b, text=text: send(h, completion(text))) as (url, _):
            assert ask(url)[0].status == "parse_error"


def message(finish="stop", **fields):
    return json.dumps({"choices": [{"message": {"role": "assistant", **fields}, "finish_reason": finish}]}).encode()


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])  # vLLM has renamed it
@pytest.mark.parametrize(
    ("thoughts", "content", "finish", "status", "think"),
    [
        ("seen", "\n<answer>['red']</answer>", "stop", "flagged", "seen"),
        ("seen</think><answer>['red']</answer>", None, "stop", "flagged", "seen"),
        ("he wrote <answer>B</answer>, so", None, "length", "parse_error", "he wrote <answer>B</answer>, so"),
        ("he wrote <answer>['red']</answer>", None, "length", "parse_error", "he wrote <answer>['red']</answer>"),
        ("still thinking", "", "length", "parse_error", "still thinking"),
        (None, "seen</think><answer>['red']</answer>", "stop", "flagged", "seen"),  # the template opened the block
        ("", GOOD, "stop", "flagged", "seen"),
        (
            None,
            "<think>he wrote <answer>['red']</answer>",
            "length",
            "parse_error",
            "he wrote <answer>['red']</answer>",
        ),
        (None, "<think>seen</think><answer>['red', 'is", "length", "parse_error", "seen"),
        (None, [{"type": "text", "text": GOOD[:12]}, {"type": "text", "text": GOOD[12:]}], "stop", "flagged", "seen"),
    ],
)
def test_a_reasoning_parser_or_a_template_takes_the_think_block_apart(field, thoughts, content, finish, status, think):
    body = message(finish, content=content, **{field: thoughts})
    with server(lambda h, n, b: send(h, body)) as (url, bodies):
        (found,) = ask(url, retries=2)
    assert (found.status, found.think, len(bodies)) == (status, think, 1)
    assert found.strings == (("red",) if status == "flagged" else ())


def limited(handler, status, after):
    handler.send_response(status)
    if after is not None:
        handler.send_header("Retry-After", after)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_a_rate_limit_is_waited_for_and_does_not_open_the_circuit():
    open_at = time.monotonic() + 0.5

    def answer(handler, number, body):
        if time.monotonic() < open_at:
            limited(handler, 429, "1")
        else:
            send(handler, completion(GOOD))

    with server(answer) as (url, _):
        client = verifier(url, retries=1, break_after=2, rest=60.0, concurrency=8)
        found = client.verify([Query("q", f"r {i}") for i in range(12)])
        client.close()
    assert [said.status for said in found] == ["flagged"] * 12
    assert client.counts.get("refused") is None


def test_a_limit_that_outlasts_the_patience_is_an_error_and_opens_the_circuit():
    with server(lambda h, n, b: limited(h, 429, "3600")) as (url, bodies):
        found = ask(url, count=4, retries=3, break_after=2, concurrency=1)
    assert [said.status for said in found] == ["prm_error"] * 4
    assert "HTTP 429" in found[0].error
    assert len(bodies) == 2  # no attempt is spent on an hour's wait, and the circuit is open after two
    for after in ("soon", "Wed, 21 Oct 2015 07:28:00 GMT", "nan", "-5"):
        with server(lambda h, n, b, after=after: limited(h, 503, after)) as (url, bodies):
            assert ask(url, retries=1)[0].status == "prm_error"
        assert len(bodies) == 2


def test_replies_without_text_do_not_open_the_circuit():
    with server(lambda h, n, b: send(h, message(content=None))) as (url, bodies):
        found = ask(url, count=4, break_after=2, concurrency=1)
    assert [said.status for said in found] == ["prm_error"] * 4
    assert len(bodies) == 4


@pytest.mark.parametrize(
    "says",
    [
        "The decoder prompt (length 10127) is longer than the maximum model length of 8192.",
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
        "'max_tokens' or 'max_completion_tokens' is too large: 4096.",
    ],
)
def test_a_context_that_overflows_says_what_to_lower_and_is_counted_by_that_name(says):
    body = json.dumps({"error": {"message": says, "code": 400}}).encode()
    with server(lambda h, n, b: send(h, body, 400)) as (url, bodies):
        found = ask(url, count=3, retries=2, break_after=1, concurrency=1)
    assert len(bodies) == 3  # not tried again, and the replica is well
    assert found[0].error.startswith("context: HTTP 400")
    assert "max_tokens (4096)" in found[0].error


def test_too_many_images_for_the_server_is_told():
    body = b'{"error": {"message": "At most 1 image(s) may be provided in one prompt."}}'
    with server(lambda h, n, b: send(h, body, 400)) as (url, _):
        client = verifier(url)
        (found,) = client.verify([Query("<image><image>?", "red", (picture("red"), picture("blue")))])
        client.close()
    assert found.error.startswith("HTTP 400")
    assert "At most 1 image" in found.error


def test_further_fields_of_a_request():
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "max_tokens": None, "max_completion_tokens": 64}
    with server(lambda h, n, b: send(h, completion(GOOD))) as (url, bodies):
        assert ask(url, extra=extra)[0].status == "flagged"
        plain, other = verifier(url), verifier(url, extra=extra)
    assert bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert "max_tokens" not in bodies[0]
    assert bodies[0]["max_completion_tokens"] == 64
    assert plain.version != other.version  # answers in the cache are another verifier's
    for client in (plain, other):
        client.close()
    with pytest.raises(ValueError, match="own business"):
        EndpointConfig(base_url=url, model="m", extra={"messages": []})


def test_typographic_quotes_of_a_verifier_are_found_in_the_response():
    response = 'The sign says "don\'t walk" – in red.'
    for said in ("says “don’t walk”", "The sign says ‘don’t walk’", "don’t walk"):
        located = locate((said,), response)
        assert located.claims[0].fate == ("not_found" if "‘don" in said else "located"), said
    assert locate(("in red",), response.replace("in red", "in\u00a0red")).claims[0].rung == "normalised"


def test_retries_for_what_may_pass_and_none_for_the_rest():
    def flaky(handler, number, body):
        send(handler, completion(GOOD) if number == 3 else b"busy", 200 if number == 3 else 503)

    with server(flaky) as (url, bodies):
        (found,) = ask(url, retries=2)
    assert (found.status, found.usage["calls"], len(bodies)) == ("flagged", 3, 3)
    with server(lambda h, n, b: send(h, b"bad request", 400)) as (url, bodies):
        (found,) = ask(url, retries=2)
    assert (found.status, len(bodies)) == ("prm_error", 1)
    assert "HTTP 400" in found.error


def test_redirects_are_not_followed():
    def elsewhere(handler, number, body):
        handler.send_response(302)
        handler.send_header("Location", "http://127.0.0.1:9/v1/chat/completions")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with server(elsewhere) as (url, _):
        assert "HTTP 302" in ask(url)[0].error


def test_breaker_leaves_a_dead_server_alone_and_comes_back():
    well = threading.Event()

    def answer(handler, number, body):
        if well.is_set():
            send(handler, completion(GOOD))
        else:
            send(handler, b"down", 500)

    with server(answer) as (url, bodies):
        client = verifier(url, break_after=3, rest=0.3, concurrency=1)
        found = client.verify([Query("q", f"r {i}") for i in range(10)])
        assert [said.status for said in found] == ["prm_error"] * 10
        assert len(bodies) == 3  # the other seven cost nothing
        assert "circuit open" in found[-1].error
        assert client.counts["refused"] == 7
        well.set()
        time.sleep(0.35)
        found = client.verify([Query("q", f"r {i}") for i in range(4)])
        assert [said.status for said in found] == ["flagged"] * 4
        client.close()


def test_breaker_sends_one_trial():
    breaker = Breaker(after=2, rest=0.0)
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert breaker.allows()  # the trial
    assert not breaker.allows()
    breaker.failed()
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.allows()
    assert breaker.allows()


def test_a_batch_that_meets_the_trial_waits_for_it():
    well = threading.Event()

    def answer(handler, number, body):
        if well.is_set():
            time.sleep(0.2)  # all threads ask while the trial is under way
            send(handler, completion(GOOD))
        else:
            send(handler, b"down", 500)

    with server(answer) as (url, bodies):
        client = verifier(url, break_after=2, rest=0.2, concurrency=4)
        client.verify([Query("q", f"r {i}") for i in range(4)])
        well.set()
        time.sleep(0.25)
        assert [said.status for said in client.verify([Query("q", f"r {i}") for i in range(8)])] == ["flagged"] * 8
        well.clear()
        client.verify([Query("q", f"r {i}") for i in range(4)])
        time.sleep(0.25)
        before = len(bodies)
        found = client.verify([Query("q", f"r {i}") for i in range(8)])
        assert [said.status for said in found] == ["prm_error"] * 8
        assert len(bodies) == before + 1  # the trial failed: those that waited are refused
        client.close()


def test_a_second_replica_takes_over():
    with (
        server(lambda h, n, b: send(h, b"", 500)) as (sick, _),
        server(lambda h, n, b: send(h, completion(GOOD))) as (well, _),
    ):
        found = ask([sick, well], count=6, retries=1, break_after=100)
    assert [said.status for said in found] == ["flagged"] * 6


def picture(color, size=(8, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return Media("image", data=buffer.getvalue(), name=color)


def test_images_go_where_their_tags_stand():
    content = [
        {"type": "text", "text": "left "},
        {"type": "image"},
        {"type": "text", "text": " or right "},
        {"type": "image"},
        {"type": "text", "text": "?"},
    ]
    sample = Sample("s", ({"role": "user", "content": content},), (picture("red"), picture("blue", (100, 100))))
    query = query_of(sample, "an <image> of red")
    with server(lambda h, n, b: send(h, completion(GOOD))) as (url, bodies):
        client = verifier(url, max_pixels=400)
        assert client.verify([query])[0].status == "flagged"
        client.close()
    parts = bodies[0]["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text", "image_url", "text"]
    sizes = []
    for part in parts[1::2]:
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == [(8, 8), (20, 20)]
    assert "<image>" not in parts[-1]["text"]
    assert "of red" in parts[-1]["text"]


def test_extra_images_come_first_and_missing_ones_are_an_error(tmp_path):
    with server(lambda h, n, b: send(h, completion(GOOD))) as (url, bodies):
        client = verifier(url, layout="short")
        gone = Media("image", path=tmp_path / "gone.png", name="gone.png")
        found = client.verify(
            [
                Query("what color?", "red", (picture("red"),)),
                Query("what color?", "red", (gone,)),
                Query("<image><image>?", "red", (picture("red"),)),
                Query("what color?", "  "),
            ]
        )
        client.close()
    assert [said.status for said in found] == ["flagged", "prm_error", "prm_error", "clean"]
    assert "image" in found[1].error
    assert [part["type"] for part in bodies[0]["messages"][0]["content"]] == ["image_url", "text"]
    assert len(bodies) == 1


def test_settings_that_are_refused(monkeypatch):
    for url in ("ftp://x/v1", "http://user:pw@127.0.0.1/v1", ()):
        with pytest.raises(ValueError, match="address"):
            EndpointConfig(base_url=url, model="m")
    with pytest.raises(ValueError, match="in the clear"):
        EndpointConfig(base_url="http://example.org/v1", model="m", api_key_env="KEY")
    monkeypatch.delenv("PRM_KEY", raising=False)
    with pytest.raises(ValueError, match="PRM_KEY"):
        EndpointVerifier(EndpointConfig(base_url="https://example.org/v1", model="m", api_key_env="PRM_KEY"))
