"""The retrieval call: grammar, parser, statuses; the tags as tokens of a tokenizer and rows of a model."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import tiny_tokenizer, tiny_vl

from video import add_tags, format_call, parse_call
from video.retrieval import TAGS, parse_calls
from video.tags import TagIds


def tagged(span, fps="2"):
    return f"<span>{span}</span><fps>{fps}</fps>"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<span>62.00 - 68.00</span><fps>3</fps>", (62, 68, 3)),
        (tagged("0.83 - 19.86"), (0.83, 19.86, 2)),
        (tagged("0.83 – 19.86"), (0.83, 19.86, 2)),
        (tagged("0.83—19.86"), (0.83, 19.86, 2)),
        (tagged("5 - 9"), (5, 9, 2)),
        (tagged("  5-9 \n", " 30 "), (5, 9, 30)),
        ("<span>5 - 9</span> \n<fps>1</fps>", (5, 9, 1)),
        ("<think>T1 <span>1 - 2</span> no, <span>5 - 9</span><fps>4</fps>\nT2", (5, 9, 4)),  # the nearest span
        ("<answer>B</answer> " + tagged("5 - 9"), (5, 9, 2)),
    ],
)
def test_calls_that_are_answered(text, found):
    call = parse_call(text)
    assert (call.start, call.end, call.fps, call.status, call.reason) == (*found, "ok", "")
    assert text[call.begin : call.finish].startswith("<span>")
    assert text[: call.finish].endswith("</fps>")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (tagged("1.2.3 - 4"), "grammar"),
        (tagged("-1 - 4"), "grammar"),
        (tagged("1 - -4"), "grammar"),
        (tagged("0:16 ~ 0:20"), "grammar"),
        (tagged("0:16 - 0:20"), "grammar"),
        (tagged("1 ~ 4"), "grammar"),
        (tagged(".5 - 4"), "grammar"),
        (tagged("5. - 9"), "grammar"),
        (tagged("5 − 9"), "grammar"),  # a minus sign is no dash
        (tagged("٥ - ٩"), "grammar"),  # digits of other scripts are no DIGIT
        (tagged("5 to 9"), "grammar"),
        (tagged("5"), "grammar"),
        (tagged(""), "grammar"),
        (tagged("5 - 9", "2.5"), "grammar"),
        (tagged("5 - 9", "-2"), "grammar"),
        (tagged("5 - 9", ""), "grammar"),
        ("<span>5 - 9</span> at <fps>2</fps>", "grammar"),  # the release lets text between the elements pass
        ("<span>5 - 9<fps>2</fps>", "grammar"),
        ("<fps>2</fps><span>5 - 9</span>", "no span"),
        ("</fps>", "no span"),
        (tagged("9 - 9"), "order"),
        (tagged("9 - 5"), "order"),
        (tagged("5 - " + "9" * 400), "order"),
        (tagged("5 - 9", "0"), "rate"),
        (tagged("5 - 9", "31"), "rate"),
        (tagged("5 - 9", "9" * 5000), "rate"),
        ("<think>x</think><answer>" + tagged("5 - 9") + "</answer>", "in answer"),
    ],
)
def test_calls_that_are_not(text, reason):
    call = parse_call(text)
    assert (call.status, call.reason, call.made, call.ok) == ("malformed", reason, True, False)
    assert text[: call.finish].endswith("</fps>")


def test_no_call_and_a_call_cut_by_the_length_limit():
    assert parse_call("<think>nothing</think><answer>B</answer>").status == "none"
    for text in ("<think>a <span>5 - 9</span><fps>2", "<think>a <span>5 - ", "<think>a <fps>2"):
        call = parse_call(text)
        assert (call.status, call.made) == ("cut", False)
        assert text[call.begin : call.begin + 5] in ("<span", "<fps>")
        assert math.isnan(call.start)


def test_several_calls_in_one_response():
    text = f"<think>a {tagged('1 - 2')} b {tagged('2 - 1')} c {tagged('3 - 4', '5')} d {tagged('5 - 6')} <span>7"
    assert [c.status for c in parse_calls(text)] == ["ok", "malformed", "ok", "ok", "cut"]
    assert [c.status for c in parse_calls(text, 1)] == ["ok", "malformed", "ignored", "ignored", "cut"]
    assert [text[c.begin : c.finish] for c in parse_calls(text)[:2]] == [tagged("1 - 2"), tagged("2 - 1")]
    assert parse_calls("plain") == []


@given(
    st.floats(0, 1e5).map(lambda x: round(x, 2)),
    st.floats(0.01, 1e4).map(lambda x: round(x, 2)),
    st.integers(1, 30),
)
def test_the_canonical_spelling_reads_back(start, length, fps):
    end = round(start + length, 2)
    call = parse_call("T1 " + format_call(start, end, fps) + "\nT2")
    assert (call.status, call.start, call.end, call.fps) == ("ok", start, end, fps)
    assert str(call) == format_call(start, end, fps)


@given(st.lists(st.sampled_from([*TAGS, "<answer>", "</answer>", "5", " - ", "9", ".", "x", "\n"]), max_size=14))
def test_any_text_gets_a_status(pieces):
    text = "".join(pieces)
    call = parse_call(text)
    assert call.made == ("</fps>" in text)
    assert call.ok <= (0 <= call.start < call.end)
    assert sum(c.made for c in parse_calls(text)) == text.count("</fps>")


def test_tags_are_single_tokens_that_survive_decoding():
    tokenizer = tiny_tokenizer()
    before = len(tokenizer)
    with pytest.raises(ValueError, match="<span> is .* tokens of this tokenizer"):
        TagIds.of(tokenizer)
    ids = add_tags(tokenizer)
    assert ids == TagIds(before, before + 1, before + 2, before + 3)
    text = "<think> 5 <span>5.00 - 9.00</span><fps>2</fps> <1.3 seconds><|vision_start|><|video_pad|><|vision_end|> b"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert [tokens.count(each) for each in (ids.span, ids.span_end, ids.fps, ids.fps_end)] == [1, 1, 1, 1]
    said = tokenizer.decode(tokens, skip_special_tokens=True)
    assert "<span>5.00 - 9.00</span><fps>2</fps>" in said
    assert "<1.3 seconds>" in said
    assert "vision" not in said
    assert "video_pad" not in said
    assert add_tags(tokenizer) == ids  # again: nothing is added


def test_special_tags_are_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(TAGS), special_tokens=True)
    with pytest.raises(ValueError, match="special token"):
        TagIds.of(tokenizer)


def model_of(tied, spare=0):
    model, processor = tiny_vl("qwen3_vl")
    tokenizer = copy.deepcopy(processor.tokenizer)
    model = copy.deepcopy(model)
    if spare:
        model.resize_token_embeddings(len(tokenizer) + spare, mean_resizing=False)
        with torch.no_grad():
            for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
                matrix[len(tokenizer) :] = 7.0
    if tied:
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    return model, tokenizer


@pytest.mark.parametrize("spare", [0, 9])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("init", ["subtokens", "mean"])
def test_rows_of_new_tags_are_initialised(tied, spare, init):
    model, tokenizer = model_of(tied, spare)
    old = len(tokenizer)
    rows = {k: m.weight.detach()[:old].clone() for k, m in parts(model).items()}
    pieces = tokenizer.encode("</fps>", add_special_tokens=False)
    assert len(pieces) > 1
    ids = add_tags(tokenizer, model, init, seed=3)
    assert tied == (model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr())
    for name, module in parts(model).items():
        weight = module.weight
        assert weight.shape[0] == old + max(4, spare)
        torch.testing.assert_close(weight[:old], rows[name], rtol=0, atol=0)
        if init == "subtokens":
            torch.testing.assert_close(weight[ids.fps_end], rows[name][pieces].mean(0))
        else:
            away = (weight.detach()[old : old + 4] - rows[name].mean(0)).float()
            assert 0.6 < float(away.std() * weight.shape[1] ** 0.5) < 1.5
            assert len({tuple(row) for row in weight[old : old + 4].tolist()}) == 4
        if spare:
            assert bool((weight[old + 4 :] == 7.0).all())  # spare rows of nothing stay as they were
    again = {k: m.weight.clone() for k, m in parts(model).items()}
    add_tags(tokenizer, model, init, seed=4)
    assert all(torch.equal(again[k], m.weight) for k, m in parts(model).items())


def parts(model):
    return {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
