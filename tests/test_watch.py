"""`mmcredit watch`: loopback only, read-only, and nothing but the page of the run can be reached."""

from __future__ import annotations

import html
import http.client
import json
import sys
import threading
from pathlib import Path

import pytest
from test_report_page import write_run

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from check_report import SIZES, Browser, find_browser  # noqa: E402

from mmcredit.cli import main  # noqa: E402
from mmcredit.report.watch import open_server  # noqa: E402


@pytest.fixture
def served(tmp_path):
    (tmp_path / "secret.txt").write_text("SECRET")
    run = write_run(tmp_path / "run")
    server = open_server(run, 0, 0.2)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield run, server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def ask(port, path, method="GET", **headers):
    """(status, body) of a request whose path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def grow(run, step):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "time": 1.0, "reward/mean": 0.9}) + "\n")


def test_the_page_follows_the_run(served):
    run, port = served
    status, first = ask(port, "/")
    assert status == 200
    assert "connect-src 'self'" in html.unescape(first)
    state = json.loads(ask(port, "/state")[1])["state"]
    assert json.loads(ask(port, "/state")[1])["state"] == state
    grow(run, 5)
    assert json.loads(ask(port, "/state")[1])["state"] != state
    assert '"steps":[1,2,3,4,5]' in ask(port, "/")[1]
    assert ask(port, "/", "HEAD") == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "//etc/passwd", "/etc/passwd", "/config.yaml",
        "/samples/../../secret.txt", "/..\\secret.txt", "/?file=../secret.txt", "/state/../../secret.txt",
        "http://evil.example/", "/%00", "/.", "*",
    ],
)  # fmt: skip
def test_nothing_else_is_reachable(served, path):
    status, body = ask(served[1], path)
    assert status in (403, 404)
    assert "SECRET" not in body
    assert "grpo" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_only_reads(served, method):
    run, port = served
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert ask(port, "/", method)[0] == 501
    ask(port, "/")
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_another_name_for_this_address_is_refused(served):
    _, port = served
    assert ask(port, "/", Host="evil.example")[0] == 403
    assert ask(port, "/", Host=f"localhost:{port}")[0] == 200


def test_it_listens_on_loopback_alone(served):
    import socket

    _, port = served
    with socket.socket() as one:
        one.settimeout(5)
        assert one.connect_ex(("127.0.0.2", port)) != 0


def test_a_file_in_the_middle_of_a_write_leaves_the_last_page(served):
    run, port = served
    before = ask(port, "/")[1]
    (run / "config.yaml").write_text("run: {name: [")
    assert ask(port, "/") == (200, before)


def test_bad_input(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    run = write_run(tmp_path / "run")
    assert main(["watch", str(run), "--port", "70000"]) == 2
    assert "0..65535" in capsys.readouterr().err
    server = open_server(run)
    try:
        assert main(["watch", str(run), "--port", str(server.server_address[1])]) == 2
    finally:
        server.server_close()
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
def test_an_open_page_refreshes_itself_and_keeps_its_place(served):
    run, port = served
    browser = Browser(find_browser())
    try:
        browser.size(*SIZES[""])
        browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
        browser.wait("Page.loadEventFired")
        browser.settle()
        assert browser.run("report.curves.steps.length") == 4
        browser.run("byId('filter').value = 'mixed'; byId('filter').dispatchEvent(new Event('change'))")
        browser.run("document.activeElement.blur()")
        grow(run, 5)
        browser.seen.clear()
        browser.wait("Page.loadEventFired")
        browser.settle()
        assert browser.run("report.curves.steps.length") == 5
        assert browser.run("[view.filter, byId('filter').value]") == ["mixed", "mixed"]
        assert browser.run("byId('watching').textContent") == "live"
    finally:
        browser.close()
