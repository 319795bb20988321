"""Which token belongs to which segment, which call and the thought."""

import torch
from tests.tiny import tiny_tokenizer

from mmcredit import Rollouts
from mmcredit.data.sample import Sample
from video.retrieval import STATUSES
from video.segments import mark, windows
from video.tags import add_tags

CALL = "<span>5.00 - 9.00</span><fps>2</fps>"


def marked(*responses):
    """Responses as lists of (text, sampled?)."""
    tokenizer = tiny_tokenizer()
    ids = add_tags(tokenizer)
    rows = [
        [(t, sampled) for text, sampled in pieces for t in tokenizer.encode(text, add_special_tokens=False)]
        for pieces in responses
    ]
    width = max(map(len, rows)) + 1
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    valid, mask = torch.zeros(2, len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor([t for t, _ in row])
        valid[i, : len(row)] = True
        mask[i, : len(row)] = torch.tensor([s for _, s in row])
    rollouts = Rollouts(tokens, mask, torch.zeros(len(rows), dtype=torch.int64), torch.zeros(len(rows)), valid=valid)

    def decode(tokens):
        return tokenizer.decode(tokens, skip_special_tokens=True)

    found, calls = mark(rollouts, ids, decode)

    def text(row, where):
        return decode(found.tokens[row][where[row]].tolist())

    return found, calls, text


def test_segments_calls_and_thought():
    inserted = "<6.0 seconds><|vision_start|><|video_pad|><|vision_end|>"
    found, calls, text = marked(
        [("<think>a " + CALL, True), (inserted, False), ("\nb</think><answer>B</answer>", True)],
        [("<think>a</think><answer>B</answer>", True)],
        [("<think>a <span>9 - 5</span><fps>2</fps> b " + CALL + " c", True)],
        [("<think>a <span>5 - 9</span><fps>", True)],
    )
    segments, call = found.segments, found.signals["retrieval_call"]
    assert text(0, segments == 1) == "<think>a " + CALL
    assert text(0, segments == 2) == "\nb</think><answer>B</answer>"
    assert text(0, (segments == 0) & found.valid) == "<6.0 seconds>"
    assert text(0, call > 0) == CALL
    assert text(0, found.signals["thought"]).endswith("\nb</think>")
    assert text(1, segments == 2) == "<think>a</think><answer>B</answer>"
    assert not bool((segments[1] == 1).any())
    assert text(1, found.signals["thought"]) == "<think>a</think>"
    assert text(2, segments == 1) == "<think>a <span>9 - 5</span><fps>2</fps>"
    assert text(2, call == 1 + STATUSES.index("malformed")) == "<span>9 - 5</span><fps>2</fps>"
    assert text(2, call == 1 + STATUSES.index("ok")) == CALL
    assert torch.equal(found.signals["thought"][2], found.mask[2])  # never closed
    assert not bool(call[3].any())
    assert [[c.status for c in row] for row in calls] == [["ok"], [], ["malformed", "ok"], []]
    assert not bool(((segments > 0) & ~found.mask).any())
    assert bool(((segments > 0) | ~found.mask).all())


def test_windows_of_a_response_are_what_it_asked_for_and_the_gold_one():
    found, _, text = marked([("<think>a " + CALL + " b <span>9 - 5</span><fps>2</fps> c", True)], [("no call", True)])
    message = {"role": "user", "content": "?"}
    sample = Sample("x", (message,), meta={"span": [6, 8.5], "fps": 3})

    tokenizer = tiny_tokenizer()
    add_tags(tokenizer)

    def of(row, sample):
        return windows(found, row, sample, tokenizer.decode)

    asked, gold = of(0, sample)  # the malformed call has no times
    assert (asked.name, asked.start, asked.end, asked.rate, asked.status) == ("asked", 5.0, 9.0, 2.0, "ok")
    place = torch.zeros_like(found.mask)
    place[0, asked.at : asked.at + asked.count] = True
    assert text(0, place) == CALL
    assert (gold.name, gold.start, gold.end, gold.rate, gold.at) == ("gold", 6.0, 8.5, 3.0, -1)
    assert of(1, Sample("y", (message,))) == []
    released = Sample("z", (message,), meta={"gt_span_start": 1.0, "gt_span_end": 2.0})
    assert [(w.name, w.start, w.end, w.rate) for w in of(1, released)] == [("gold", 1.0, 2.0, None)]
