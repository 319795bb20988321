"""Verifiers in a run: verdicts with token spans, settings, errors, and a server that dies in the middle."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from runs import metrics, parse
from tiny import tiny_tokenizer

from mmcredit import Rollouts
from mmcredit.components import build, names
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample
from mmcredit.train.loop import Trainer
from mmcredit.verifiers.base import RunContext, VerifyItem
from prm import components as prm_components
from prm.checking import PerceptionChecker, SpanSettings, needs_image, needs_meta, only_where
from prm.parse import Verification, failed
from prm.verifier import ScriptedVerifier

TOKENIZER = tiny_tokenizer()
SAMPLE = Sample("s", ({"role": "user", "content": "what color?"},), meta={"kind": "color"})
TEXT = "<think>the red circle is left</think><answer>red</answer>"


def item(text=TEXT, sample=SAMPLE, ids=None):
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"] if ids is None else ids
    return VerifyItem(sample, text, tuple(tokens), (True,) * len(tokens))


def check(said, items=None, refuses=lambda s: "", **settings):
    backend = ScriptedVerifier(said if callable(said) else lambda q: said)
    return PerceptionChecker(backend, TOKENIZER, SpanSettings(**settings), refuses).verify(items or [item()])


def marked(verdict, ids):
    """The text of the tokens that a verdict's spans mark."""
    return [TOKENIZER.decode(ids[a:b]) for span in verdict.spans for a, b in span.tokens]


def test_flagged_strings_become_token_spans_with_their_provenance():
    (found,) = check(Verification(("red circle", "the blue cat", ""), "flagged", think="looked"))
    assert found.status == "flagged"
    assert [span.fate for span in found.spans] == ["located", "not_found", "empty"]
    assert found.spans[0].rung == "exact"
    assert [TEXT[a:b] for a, b in found.spans[0].chars] == ["red circle"]
    (text,) = marked(found, item().tokens)
    assert text.strip() == "red circle"
    assert found.detail == "looked"


def test_every_status_passes_through_and_is_told_apart():
    cases = [
        (Verification(), "clean", ""),
        (Verification(status="parse_error", raw="??", dropped=2), "parse_error", "not in the format"),
        (failed("timeout: no reply within 3 s"), "prm_error", "timeout"),
        (Verification(("nowhere",), "flagged"), "flagged", ""),
    ]
    for said, status, reason in cases:
        (found,) = check(said)
        assert (found.status, found.reason) == (status, reason)
        assert not any(span.located for span in found.spans)
    assert check(cases[1][0])[0].usage["dropped_items"] == 2


def test_settings_zone_share_and_mode():
    said = Verification(("red", "<answer>red</answer>"), "flagged")
    assert [s.fate for s in check(said, zone="think")[0].spans] == ["located", "outside_zone"]
    everywhere = check(Verification(("red",), "flagged"), occurrence="all")[0]
    assert len(everywhere.spans[0].tokens) == 2
    whole = Verification((TEXT,), "flagged")
    assert check(whole)[0].spans[0].located
    dropped = check(whole, max_mask_frac=0.5)[0]
    assert (dropped.spans[0].fate, dropped.spans[0].located) == ("too_much", False)
    # A response that was not sampled as its text is tokenised: only the sampled ids' own offsets are right.
    vocab = TOKENIZER.get_vocab()
    ids = [vocab[c] for c in "theĠredĠcat"] + TOKENIZER(" is left", add_special_tokens=False)["input_ids"]
    odd = item("the red cat is left", ids=ids)
    left = Verification(("left",), "flagged")
    assert marked(check(left, [odd])[0], ids)[0].strip() == "left"
    (shifted,) = check(left, [odd], mode="retokenize")[0].spans
    assert shifted.tokens != check(left, [odd])[0].spans[0].tokens


def test_a_response_cut_inside_a_character():
    whole = TOKENIZER("the red 🐶 is left", add_special_tokens=False)["input_ids"]
    ids = whole[: [i for i in range(len(whole)) if TOKENIZER.decode(whole[:i]).endswith("\ufffd")][-1]]
    text = TOKENIZER.decode(ids, skip_special_tokens=True)
    assert text.endswith("\ufffd")
    (found,) = check(lambda q: Verification(("red", "🐶"), "flagged"), [item(text, ids=ids)])
    assert [span.fate for span in found.spans] == ["located", "not_found"]
    assert marked(found, ids)[0].strip() == "red"


def test_samples_that_do_not_apply_are_skipped_and_not_asked():
    picture = Sample("p", ({"role": "user", "content": [{"type": "image"}]},), (Media("image", data=b"x"),))
    backend = ScriptedVerifier(lambda q: Verification())
    checker = PerceptionChecker(backend, TOKENIZER, SpanSettings(), needs_image)
    found = checker.verify([item(), item(sample=picture)])
    assert [v.status for v in found] == ["skipped", "clean"]
    assert found[0].reason == "no image"
    assert len(backend.asked) == 1
    assert needs_meta("scene")(SAMPLE) == "no meta 'scene'"
    assert only_where({"kind": ["shape"]}, needs_meta())(SAMPLE) == "not in where: kind"
    assert only_where({"kind": ["color"]}, needs_meta())(SAMPLE) == ""


def test_signal_of_a_batch_marks_the_tokens():
    verifier = build("verifier", "easy_vqa_oracle")
    ids = item().tokens
    tokens = torch.tensor([[*ids, 0, 0], [*ids, 0, 0]])
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, : len(ids)] = True
    rollouts = Rollouts(tokens, mask, torch.zeros(2, dtype=torch.int64), torch.ones(2))
    verdicts = [*check(Verification(("red circle",), "flagged")), *check(Verification())]
    signal = verifier.signals(verdicts, rollouts)["hallucinated"]
    (a, b), = verdicts[0].spans[0].tokens  # fmt: skip
    assert signal[0].nonzero().flatten().tolist() == list(range(a, b))
    assert not signal[1].any()


def test_components_and_their_refusals(tmp_path):
    known = {"easy_vqa_oracle", "prm_endpoint", "prm_local", "random_spans", "scene_oracle"}
    assert known <= set(names("verifier"))
    assert all(hasattr(prm_components, name) for name in prm_components.__all__)
    context = RunContext(TOKENIZER, tmp_path, 0, MediaLimits())
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
    checker = build("verifier", {"prm_endpoint": {"endpoint": endpoint}}).open(context)
    assert (tmp_path / "prm-cache.sqlite").exists()
    checker.close()
    for bad in (
        {"random_spans": {"like": "no such"}},
        {"prm_endpoint": {"endpoint": {"base_url": "ftp://x", "model": "m"}}},
        {"scene_oracle": {"ladder": []}},
        {"scene_oracle": {"zone": "answer"}},
    ):
        with pytest.raises(ValueError):  # noqa: PT011  # each names its own field
            build("verifier", bad)


# -- runs ---------------------------------------------------------------------------------------------------------


def weights(trainer):
    return {name: value.clone() for name, value in trainer.parts.policy.state_dict().items()}


def trained(tmp_path, name, **changes):
    trainer = Trainer(parse(tmp_path, run__dir=str(tmp_path / name), **changes))
    trainer.run()
    return trainer


ORACLE = [{"easy_vqa_oracle": {"groups": "all"}}]


def test_a_run_with_alpha_zero_is_a_run_of_grpo_bit_for_bit(tmp_path):
    plain = weights(trained(tmp_path, "grpo", credit=["grpo"]))
    same = trained(tmp_path, "zero", credit=["grpo", {"perceval": {"alpha": 0.0}}], verifiers=ORACLE)
    for name, value in weights(same).items():
        assert torch.equal(value, plain[name]), name
    last = metrics(tmp_path / "zero")[-1]
    assert last["verify/clean"] + last["verify/flagged"] == 16
    cost = json.loads((tmp_path / "zero" / "cost.json").read_text())["stages"]["verify"]
    assert cost["responses"] > 0
    assert cost["busy_seconds"] >= 0


def test_a_server_that_dies_in_the_middle_of_a_run(tmp_path):
    """Steps 0 and 2 have verdicts, step 1 has errors; every response that is flagged loses advantage."""
    steps = {"now": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if steps["now"] == 1:
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            response = body["messages"][-1]["content"][-1]["text"].partition("Response: ")[2]
            text = f"<think>x</think><answer>[{response[:3]!r}]</answer>"
            reply = json.dumps(
                {"choices": [{"message": {"content": text}}], "usage": {"completion_tokens": 5}}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = {
        "base_url": f"http://127.0.0.1:{server.server_port}/v1",
        "model": "m",
        "layout": "short",
        "retries": 0,
        "break_after": 1000,
        "timeout": 30,
    }
    try:
        config = parse(
            tmp_path,
            credit=["grpo", "perceval"],
            verifiers=[{"prm_endpoint": {"endpoint": endpoint, "groups": "all"}}],
            log__samples_every=1,
        )
        trainer = Trainer(config)
        run_step = trainer.stage.run

        def stepping(step):
            steps["now"] = step
            return run_step(step)

        trainer.stage.run = stepping
        trainer.run()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    rows = metrics(tmp_path / "run")
    assert [row["verify/prm_error"] > 0 for row in rows] == [False, True, False]
    assert rows[1].get("verify/flagged", 0) == 0
    assert rows[0]["verify/flagged"] > 0
    assert rows[2]["credit/perceval/masked_share"] > 0
    assert rows[1]["credit/perceval/masked_share"] == 0
    events = (Path(config.run.dir) / "events.jsonl").read_text()
    assert "have no verdict" in events
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())["stages"]["verify"]
    assert cost["tokens"] > 0
    assert cost["calls"] > 0
    table = pyarrow.parquet.read_table(next((tmp_path / "run" / "samples").glob("step-*0.parquet"))).to_pylist()
    spans = [span for row in table for verdict in row["verdicts"] for span in verdict["spans"]]
    assert spans
    assert {"text", "fate", "rung", "tokens"} <= set(spans[0])


def test_a_config_without_a_verifier_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="verifiers"):
        parse(tmp_path, credit=["grpo", "perceval"])
    with pytest.raises(ValueError, match="groups"):
        parse(tmp_path, credit=["grpo", {"perceval": {"a_min": 0.1}}], verifiers=["easy_vqa_oracle"])
    parse(tmp_path, credit=["grpo", {"perceval": {"a_min": 0.1}}], verifiers=ORACLE)
