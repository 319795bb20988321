"""Chat templates for models that have none, or should be asked in another form: `model.chat_template`.

A template is Jinja text, a layout a template of ours together with what ends a response in it. Both become part of the
tokenizer and the generation config, so that a saved model keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment


@dataclass(frozen=True)
class Layout:
    """How turns are written, and the texts that end a response in it, besides the model's own end token."""

    text: str
    stop: tuple[str, ...]
    about: str


_CONTENT = (
    "{%- macro said(content) -%}{%- if content is string -%}{{ content }}{%- else -%}{%- for part in content -%}"
    "{%- if part['type'] == 'image' -%}IMAGE{%- elif part['type'] == 'video' -%}VIDEO"
    "{%- else -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)
_PLAIN = (
    "{%- for message in messages -%}"
    "{%- if message['role'] in ('system', 'developer') -%}{{ said(message['content']) + '\\n\\n' }}"
    "{%- else -%}{{ message['role'] | capitalize + ': ' + said(message['content']) }}"
    "{%- if not loop.last or add_generation_prompt -%}{{ '\\n\\n' }}{%- endif -%}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)
_BARE = (
    "{%- for message in messages -%}{{ said(message['content']) }}"
    "{%- if not loop.last -%}{{ '\\n\\n' }}{%- endif -%}{%- endfor -%}"
)
_CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + said(message['content']) + '<|im_end|>\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)

LAYOUTS: dict[str, Layout] = {
    "none": Layout(_PLAIN, ("\nUser:", "\nSystem:"), "plain text: `User: ...`, a blank line, `Assistant:`"),
    "bare": Layout(_BARE, (), "the texts alone, a blank line between turns; write the layout in `template`"),
    "chatml": Layout(_CHATML, ("<|im_end|>",), "ChatML: <|im_start|>ROLE ... <|im_end|>"),
}


def missing_template(path: str) -> str:
    """What to tell a person whose model has no chat template."""
    return (
        f"model {path!r} has no chat template, as base models do; set model.chat_template to none (plain-text turns), "
        f"to another layout ({', '.join(name for name in LAYOUTS if name != 'none')}), or to a Jinja file"
    )


def set_template(chosen: str | None, tokenizer: Any, processor: Any, model: Any) -> None:
    """Give the tokenizer (and processor) the template of `model.chat_template`; None leaves them as they are.

    `chosen` is the name of a layout, that of one of several templates of the model, or a Jinja file. A layout's stops
    become end tokens of the model's generation config where they are tokens, else its `stop_strings`. Raises ValueError
    for a name that is not known and a file that cannot be used.
    """
    if chosen is None:
        return
    own = getattr(tokenizer, "chat_template", None)
    if chosen in LAYOUTS:
        layout = LAYOUTS[chosen]
        text = _begin(tokenizer) + _with_media(_CONTENT, tokenizer, processor) + layout.text
        _add_stops(layout.stop, tokenizer, model)
    elif isinstance(own, dict) and chosen in own:
        text = own[chosen]
    else:
        text = _read(chosen, own)
    tokenizer.chat_template = text
    if processor is not None:
        processor.chat_template = text


def _read(chosen: str, own: Any) -> str:
    path = Path(chosen).expanduser()
    known = [*LAYOUTS, *(own if isinstance(own, dict) else ())]
    if not path.is_file():
        raise ValueError(
            f"model.chat_template={chosen!r}: no such file, and no template of that name; known: {', '.join(known)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(_without_generation_tags(text))
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise ValueError(f"model.chat_template={chosen!r} cannot be used: {error}") from None
    if "messages" not in text:
        raise ValueError(f"model.chat_template={chosen!r} does not mention messages: the question would be lost")
    return text


def _without_generation_tags(text: str) -> str:
    """Without the block tag that transformers adds to Jinja for assistant masks."""
    for tag in ("{%- generation %}", "{%- generation -%}", "{% generation %}", "{% generation -%}"):
        text = text.replace(tag, "").replace(tag.replace("generation", "endgeneration"), "")
    return text


def _begin(tokenizer: Any) -> str:
    """The begin token where the tokenizer puts it before every text: a base model has seen no text without it."""
    first = tokenizer("a")["input_ids"][:1]
    return "{{- bos_token -}}" if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else ""


def _with_media(text: str, tokenizer: Any, processor: Any) -> str:
    """The macro with the model's own placeholders; a text model gets none, and media are refused before."""
    known = tokenizer.get_vocab() if processor is not None else {}
    for mark, name in (("IMAGE", "image_token"), ("VIDEO", "video_token")):
        token = str(getattr(processor, name, "") or "") if processor is not None else ""
        if token and {"<|vision_start|>", "<|vision_end|>"} <= known.keys():
            token = f"<|vision_start|>{token}<|vision_end|>"
        text = text.replace(mark, token)
    return text


def _add_stops(stops: tuple[str, ...], tokenizer: Any, model: Any) -> None:
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    vocabulary = tokenizer.get_vocab()
    for stop in stops:
        if stop in vocabulary:
            own = config.eos_token_id
            ids = list(own) if isinstance(own, list | tuple) else [] if own is None else [own]
            config.eos_token_id = list(dict.fromkeys([*ids, vocabulary[stop]]))
        else:
            config.stop_strings = list(dict.fromkeys([*stop_strings(model), stop]))


def save_ends(model: Any, folder: Path) -> None:
    """Write what ends a response of `model` beside an adapter, which is saved without the model's own files."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        config.save_pretrained(folder)


def read_ends(model: Any, folder: Path) -> None:
    """Take over what `save_ends` wrote, if it is there: the end tokens and stop strings of the layout in use."""
    from transformers import GenerationConfig

    config = getattr(model, "generation_config", None)
    if config is not None and (folder / "generation_config.json").is_file():
        saved = GenerationConfig.from_pretrained(str(folder))
        config.eos_token_id, config.stop_strings = saved.eos_token_id, saved.stop_strings


def stop_strings(model: Any) -> tuple[str, ...]:
    """The texts that end a response of this model, by its generation config."""
    found = getattr(getattr(model, "generation_config", None), "stop_strings", None)
    return () if found is None else (found,) if isinstance(found, str) else tuple(found)
