"""Messages to text by the model's chat template, with proof that what the user said is in the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.sample import Sample
from mmcredit.policy.chat_templates import missing_template

LOST = "text missing from the prompt"
_SPOKEN = ("system", "developer", "user")  # templates may drop thoughts from an assistant's earlier turns
Messages = list[dict[str, Any]]


class Renderer:
    """Renders samples by the chat template of a tokenizer or processor.

    Templates read a turn's content as text, as a list of parts, or as either. Text that comes in several parts is one
    text to a template that reads texts, and a text is one part to a template that reads parts: the first form in which
    every system and user text arrives is used.
    """

    def __init__(self, tokenizer: Any, processor: Any, variables: Mapping[str, Any], name: str = "") -> None:
        """`variables` go to the template; `name` is the model's, for messages."""
        self.holder = tokenizer if processor is None else processor
        if processor is not None and not getattr(processor, "chat_template", None):
            processor.chat_template = getattr(tokenizer, "chat_template", None)  # where some folders keep it
        self.variables, self.name = dict(variables), name
        self._forms = [_as_text, _as_parts] if processor is None else [_as_given, _as_parts, _as_text]

    def check(self) -> None:
        """Raise ValueError if there is no chat template."""
        if not getattr(self.holder, "chat_template", None):
            raise UnusableSample(missing_template(self.name), "the model has no chat template")

    def __call__(self, sample: Sample) -> str:
        """The text of a prompt. An assistant's last turn is left open for the response to continue.

        Raises ValueError, naming the sample, if there is no template, if it fails, or if it leaves out a text.
        """
        self.check()
        failed: Exception | None = None
        lost: str | None = None
        tried: list[Messages] = []
        for form in self._forms:
            messages = form(sample.messages)
            if messages in tried:
                continue
            tried.append(messages)
            try:
                text = self._apply(messages)
            # Templates are programs of others: they raise what they like on a form that they do not expect.
            except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
                failed = failed or error
                continue
            missing = unread(text, sample.messages)
            if missing is None:
                return text
            lost = lost or missing
        if lost is None:
            assert failed is not None
            raise UnusableSample(
                f"sample {sample.name}: the chat template of model {self.name!r} fails: {failed}; change the turns of "
                "the data, or set model.chat_template to another template",
                "the chat template fails",
            ) from failed
        raise UnusableSample(
            f"sample {sample.name}: the chat template of model {self.name!r} leaves out {lost[:60]!r}: the model would "
            "not read it; change the turns of the data, or set model.chat_template to another template",
            LOST,
        )

    def turn_end(self, ends: Collection[int]) -> int | None:
        """The id among `ends` with which the template closes an assistant's turn; None where it writes none of them.

        A model may know several ends (Qwen: <|im_end|> and <|endoftext|>); what is taught must end with the one that a
        turn ends with, or the model learns to go on."""
        said = "qzx"
        messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": said})
        tokenizer = getattr(self.holder, "tokenizer", self.holder)
        for form in self._forms:
            try:
                text = self.holder.apply_chat_template(form(messages), tokenize=False, **self.variables)
            except (TemplateError, TypeError, ValueError, LookupError, AttributeError):
                continue
            if said in text:
                tail = tokenizer(text.rpartition(said)[2], add_special_tokens=False)["input_ids"]
                return next((int(token) for token in tail if token in ends), None)
        return None

    def _apply(self, messages: Messages) -> str:
        going_on = messages[-1]["role"] == "assistant"
        return self.holder.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not going_on,
            continue_final_message=going_on,
            **self.variables,
        )


def unread(text: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The first text of a system or user turn that is not in `text`, white space aside; None if all are."""
    squeezed: str | None = None
    for message in messages:
        content = message["content"]
        parts = [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
        for part in parts if message["role"] in _SPOKEN else ():
            if part in text:
                continue
            squeezed = _squeezed(text) if squeezed is None else squeezed
            if _squeezed(part) not in squeezed:
                return part
    return None


def _squeezed(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def _as_given(messages: Sequence[Mapping[str, Any]]) -> Messages:
    return [dict(message) for message in messages]


def _as_text(messages: Sequence[Mapping[str, Any]]) -> Messages:
    """Content that is all text as one text."""
    return [{**m, "content": _joined(m["content"])} for m in messages]


def _joined(content: Any) -> Any:
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return content
    return "".join(part["text"] for part in content)


def _as_parts(messages: Sequence[Mapping[str, Any]]) -> Messages:
    """Every content as a list of parts."""
    return [
        {**m, "content": [{"type": "text", "text": c}] if isinstance(c := m["content"], str) else list(c)}
        for m in messages
    ]
