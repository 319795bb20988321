"""Chat templates: the user's words always reach the prompt, base models get a layout, and nothing fails in riddles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from policy_cases import make_policy
from tiny import save, tiny_png, tiny_text, tiny_vl

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.sample import Media, Sample
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.policy import Policy
from mmcredit.policy.rendering import unread
from mmcredit.rollout.engine import Sampling, with_stops

# What public text models do with a content that is no text: Qwen3's writes nothing, Llama-2's concatenates, Zephyr's
# prints it.
VANISHES = (
    "{% for m in messages %}{%- if m.content is string %}{%- set content = m.content %}{%- else %}"
    "{%- set content = '' %}{%- endif %}<|im_start|>{{ m.role }}\n{{ content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONCATENATES = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}"
    "{% elif p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = "<|im_start|>user\nhow many are red<|im_end|>\n<|im_start|>assistant\n"


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def ask(*content: Any, role: str = "user") -> Sample:
    return Sample("d.jsonl:4", ({"role": role, "content": content[0] if len(content) == 1 else list(content)},))


def read(policy: Policy, sample: Sample) -> str:
    return str(policy.tokenizer.decode(policy.encode(sample).tokens))


def with_template(template: str, family: str = "qwen3") -> Policy:
    policy = make_policy(family)
    policy.tokenizer.chat_template = template
    if policy.processor is not None:
        policy.processor.chat_template = template
    return policy


@pytest.mark.parametrize("template", [VANISHES, CONCATENATES, PARTS_ONLY])
@pytest.mark.parametrize(
    "content", [("how many are red",), ([text("how many are red")],), (text("how many "), text("are red"))]
)
def test_text_in_parts_reaches_a_text_model(template: str, content: Any) -> None:
    assert read(with_template(template), ask(*content)) == ASKED


@pytest.mark.parametrize("content", [("how many are red",), (text("how many "), text("are red"))])
def test_a_vision_template_that_reads_parts_shows_plain_text(content: Any) -> None:
    policy = with_template(PARTS_ONLY, "qwen2_5_vl")
    assert read(policy, ask(*content)) == ASKED
    shown = Sample("s", ({"role": "user", "content": [{"type": "image"}, text("is it red")]},), (_image(),))
    assert "is it red" in read(policy, shown)


def _image() -> Media:
    return Media("image", data=tiny_png(64))


def test_a_template_that_leaves_out_a_turn_is_refused_with_its_words() -> None:
    no_system = "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    sample = Sample("q9", (*ask("be brief", role="system").messages, *ask("how many").messages), place="d.jsonl:4")
    with pytest.raises(UnusableSample) as caught:
        with_template(no_system).encode(sample)
    assert str(caught.value).startswith(
        "sample q9 (d.jsonl:4): the chat template of model 'in memory' leaves out 'be br"
    )
    assert "set model.chat_template" in str(caught.value)
    assert caught.value.reason == "text missing from the prompt"


def test_a_template_that_fails_is_named_with_its_reason() -> None:
    template = "{{ raise_exception('roles must alternate') }}{{ messages }}"
    with pytest.raises(UnusableSample, match=r"sample d\.jsonl:4: the chat template of .* fails: roles must alternate"):
        with_template(template).encode(ask("how many"))


def test_a_template_that_drops_an_image_is_refused() -> None:
    template = PARTS_ONLY.replace("p.type == 'image'", "p.type == 'image' and m.role == 'user'")
    turns = (
        {"role": "user", "content": [{"type": "image"}, text("and")]},
        {"role": "assistant", "content": [{"type": "image"}, text("this")]},
        {"role": "user", "content": [text("so")]},
    )
    sample = Sample("s", turns, (_image(), _image()))
    with pytest.raises(UnusableSample, match=r"writes 1 of 2 images \(in turns of assistant, user\)"):
        with_template(template, "qwen2_5_vl").encode(sample)
    assert int((with_template(PARTS_ONLY, "qwen2_5_vl").encode(sample).unexpanded == _pad()).sum()) == 2


def _pad() -> int:
    return make_policy("qwen2_5_vl").body.kinds["image"]


def test_white_space_and_normal_forms_do_not_count_as_lost() -> None:
    messages = ({"role": "user", "content": "  how\n\nmany ﬁ "}, {"role": "assistant", "content": "<think>x</think>y"})
    assert unread("Q: how many fi", messages) is None
    assert unread("Q: how few fi", messages) == "  how\n\nmany ﬁ "


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5_vl"])
def test_a_last_assistant_turn_is_left_open(family: str) -> None:
    sample = Sample("s", (*ask("how many").messages, {"role": "assistant", "content": "the answer is"}))
    shown = read(make_policy(family), sample)
    assert shown == "<|im_start|>user\nhow many<|im_end|>\n<|im_start|>assistant\nthe answer is"


# --- models without a template


def base_model(folder: Path, bos: bool = False) -> Path:
    model, tokenizer = tiny_text("qwen2")
    tokenizer.chat_template = None
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.bos_token = "<|object_ref_start|>"
        tokenizer._tokenizer.post_processor = TemplateProcessing(
            single="<|object_ref_start|> $A", special_tokens=[("<|object_ref_start|>", tokenizer.bos_token_id)]
        )
    return save(model, tokenizer, folder)


def opened(folder: Path, **options: Any) -> Policy:
    return Policy.load(ModelConfig(path=str(folder), device="cpu", **options))


CHAT = Sample(
    "s",
    (
        *ask("be brief", role="system").messages,
        *ask("how many").messages,
        {"role": "assistant", "content": "two"},
        *ask(text("are "), text("red")).messages,
    ),
)


def test_a_base_model_says_once_which_setting_helps(tmp_path: Path) -> None:
    policy = opened(base_model(tmp_path / "base"))
    with pytest.raises(
        ValueError, match=r"base' has no chat template, as base models do; set model\.chat_template to none"
    ):
        policy.encoder.render.check()
    with pytest.raises(UnusableSample) as caught:
        policy.encode(ask("how many"))
    assert "\n" not in str(caught.value)
    assert "transformers" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shown", "stops", "ends"),
    [
        (
            "none",
            "be brief\n\nUser: how many\n\nAssistant: two\n\nUser: are red\n\nAssistant:",
            ("\nUser:", "\nSystem:"),
            1,
        ),
        ("bare", "be brief\n\nhow many\n\ntwo\n\nare red", (), 1),
        (
            "chatml",
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhow many<|im_end|>\n<|im_start|>assistant\ntwo"
            "<|im_end|>\n<|im_start|>user\nare red<|im_end|>\n<|im_start|>assistant\n",
            (),
            2,
        ),
    ],
)
def test_layouts_for_base_models(tmp_path: Path, name: str, shown: str, stops: tuple[str, ...], ends: int) -> None:
    policy = opened(base_model(tmp_path / "base"), chat_template=name)
    assert read(policy, CHAT) == shown
    assert policy.stop_strings == stops
    assert len(policy.eos_token_ids) == ends
    # a saved model keeps its layout and its stops, without the setting
    policy.save(tmp_path / "saved")
    again = opened(tmp_path / "saved")
    assert read(again, CHAT) == shown
    assert (again.stop_strings, again.eos_token_ids) == (stops, policy.eos_token_ids)


def test_an_adapter_keeps_the_layout_and_its_stops(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = base_model(tmp_path / "base")
    for name in ("none", "chatml"):
        policy = opened(base, chat_template=name, lora={"rank": 2})
        policy.save(tmp_path / name)
        again = opened(tmp_path / name)
        assert read(again, CHAT) == read(policy, CHAT)
        assert (again.stop_strings, again.eos_token_ids) == (policy.stop_strings, policy.eos_token_ids)


def test_a_continued_turn_in_the_plain_layout(tmp_path: Path) -> None:
    policy = opened(base_model(tmp_path / "base"), chat_template="none")
    sample = Sample("s", (*ask("how many").messages, {"role": "assistant", "content": "the answer"}))
    assert read(policy, sample) == "User: how many\n\nAssistant: the answer"


def test_a_layout_begins_as_the_tokenizer_does(tmp_path: Path) -> None:
    policy = opened(base_model(tmp_path / "base", bos=True), chat_template="none")
    assert read(policy, ask("how many")) == "<|object_ref_start|>User: how many\n\nAssistant:"


def test_a_layout_of_a_vision_model_keeps_its_images(tmp_path: Path) -> None:
    model, processor = tiny_vl("qwen2_5_vl")
    processor.chat_template = processor.tokenizer.chat_template = None
    policy = opened(save(model, processor, tmp_path / "base"), chat_template="none")
    sample = Sample("s", ({"role": "user", "content": [{"type": "image"}, text("is it red")]},), (_image(),))
    prompt = policy.encode(sample)
    assert int(prompt.visual.sum()) > 0
    assert str(policy.tokenizer.decode(prompt.unexpanded)) == (
        "User: <|vision_start|><|image_pad|><|vision_end|>is it red\n\nAssistant:"
    )


def test_templates_from_a_file_and_by_name(tmp_path: Path) -> None:
    folder = base_model(tmp_path / "base")
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}Q {{ m.content }}{% endfor %} A")
    assert read(opened(folder, chat_template=str(file)), ask("how many")) == "Q how many A"
    for content, message in (("{% for", "cannot be used"), ("hello", "does not mention messages")):
        file.write_text(content)
        with pytest.raises(ValueError, match=f"model.chat_template='.*mine.jinja' {message}"):
            opened(folder, chat_template=str(file))
    with pytest.raises(ValueError, match=r"model\.chat_template='chatlm': no such file, .* known: none, bare, chatml"):
        opened(folder, chat_template="chatlm")
    model, tokenizer = tiny_text("qwen2")
    tokenizer.chat_template = {"default": PARTS_ONLY, "quiz": "{% for m in messages %}Quiz {{ m.content }}{% endfor %}"}
    several = save(model, tokenizer, tmp_path / "several")
    assert read(opened(several, chat_template="quiz"), ask("how many")) == "Quiz how many"


def test_variables_of_a_template_under_either_setting() -> None:
    assert ModelConfig(path="x", chat_template={"a": 1}).template_variables == {"a": 1}
    assert ModelConfig(path="x", chat_template="none", template_variables={"a": 1}).chat_template == "none"
    assert ModelConfig(**ModelConfig(path="x", chat_template={"a": 1}).model_dump()).template_variables == {"a": 1}


def test_the_stops_of_a_layout_end_responses_and_stay_out_of_their_text(tmp_path: Path) -> None:
    from mmcredit.components import build
    from mmcredit.rollout.engine import Request

    policy = opened(base_model(tmp_path / "base"), chat_template="none")
    assert policy.decode(policy.tokenizer("it is 5\n\nUser:")["input_ids"]) == "it is 5\n"
    assert policy.decode(policy.tokenizer("it is 5")["input_ids"]) == "it is 5"
    sampling = Sampling(stop=("###",), max_new_tokens=8)
    assert with_stops(sampling, policy.stop_strings).stop == ("###", "\nUser:", "\nSystem:")
    assert with_stops(sampling, ()) is sampling
    engine = build("engine", "hf").open(policy)  # type: ignore[attr-defined]
    wanted = policy.tokenizer("two\nUser: and", add_special_tokens=False)["input_ids"]

    def say(step: int, logits: torch.Tensor, rows: Any) -> torch.Tensor:
        forced = torch.full_like(logits, -1e4)
        forced[:, wanted[min(step, len(wanted) - 1)]] = 0
        return forced

    engine.hook = say
    (response,) = engine.generate([Request(policy.encode(ask("how many")), [1])], Sampling(max_new_tokens=32))
    assert response.finish == "stop"
    assert policy.tokenizer.decode(response.tokens).endswith("two\nUser:")
    assert policy.decode(response.tokens) == "two"
