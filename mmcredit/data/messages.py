"""Chat messages with their media in place, from the ways in which data sets write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.sample import Media
from mmcredit.data.values import Kind

KINDS: tuple[Kind, ...] = ("image", "video")
ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant"}
_MEANT = _SHAREGPT | {role: role for role in ROLES} | {"bot": "assistant", "model": "assistant", "function": "tool"}
NO_MEDIUM = "placeholder without media"
MEDIA_REASONS = (NO_MEDIUM, "media counts differ")
_PART_TYPES: dict[str, Kind] = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}

_REMEDY = "remove what is too much, or set literal_placeholders: true if the text means the word itself"

# A message under construction: its other keys, and its parts: a text, or a medium as (kind, Media or None).
Draft = tuple[dict[str, Any], list[Any]]
ReadInline = Callable[[Any, Kind, str], Media]


def parse(prompt: Any, read: ReadInline) -> list[Draft]:
    """Messages from a string (one user turn) or a list of chat messages, with parts or plain strings as content.

    Messages are {role, content}, or {from, value} as LLaVA and ShareGPT write them (human and gpt are user and
    assistant). Keys that are null are ignored: tables give every part the keys of all parts. `read(value, kind, place)`
    turns the medium that a part brings itself into `Media`. Raises ValueError.
    """
    if isinstance(prompt, str):
        return [({"role": "user"}, [prompt])]
    if not isinstance(prompt, list | tuple) or not prompt:
        raise ValueError(
            f"text or chat messages are wanted as prompt, got {type(prompt).__name__} {str(prompt)[:60]!r}"
            + ("; one message stands in a list" if isinstance(prompt, Mapping) and "content" in prompt else "")
        )
    drafts = []
    for number, message in enumerate(prompt):
        if isinstance(message, Mapping) and message.get("role") is None and isinstance(message.get("from"), str):
            rest = {key: value for key, value in message.items() if key not in ("from", "value", "role", "content")}
            role = _SHAREGPT.get(message["from"], message["from"])
            message = {"role": role, "content": message.get("value"), **rest}
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"message {number} is no {{role, content}} mapping: {str(message)[:60]!r}")
        if message["role"] not in ROLES:
            meant = _MEANT.get(message["role"].casefold().strip())
            hint = f"; did you mean {meant!r}?" if meant else ""
            raise ValueError(f"message {number} has role {message['role']!r}; known: {', '.join(ROLES)}{hint}")
        rest = {key: value for key, value in message.items() if key != "content" and value is not None}
        content = message.get("content")
        if isinstance(content, str):
            drafts.append((rest, [content]))
        elif isinstance(content, list | tuple):
            parts = [_parse_part(part, f"message {number}, part {i}", read) for i, part in enumerate(content)]
            drafts.append((rest, parts))
        else:
            raise ValueError(f"message {number} has content {content!r}; text or a list of parts is wanted")
    return drafts


def _parse_part(part: Any, place: str, read: ReadInline) -> Any:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise ValueError(f"{place} is {type(part).__name__}; a mapping with a type is wanted")
    given = {key: value for key, value in part.items() if value is not None and key != "type"}
    kind = _PART_TYPES.get(str(part.get("type")))
    if part.get("type") == "text":
        if not isinstance(given.get("text"), str):
            raise ValueError(f"{place} is text without a text")
        return given["text"]
    if kind is None:
        raise ValueError(f"{place} has type {part.get('type')!r}; known: text, {', '.join(_PART_TYPES)}")
    given = {key: value for key, value in given.items() if value != ""}
    return (kind, read(given, kind, place) if given else None)


def set_system(drafts: list[Draft], system: str) -> list[Draft]:
    """The conversation under this system prompt, which replaces one that the row brings."""
    rest = [draft for draft in drafts if draft[0]["role"] != "system"]
    return [({"role": "system"}, [system]), *rest]


def split_off(drafts: list[Draft]) -> str:
    """Take the last turn out of `drafts`: its text. Raises ValueError if it holds media: a reference is text."""
    rest, parts = drafts.pop()
    media = [part[0] for part in parts if isinstance(part, tuple)]
    if media:
        raise ValueError(
            f"the last turn is the {rest['role']}'s and holds {media[0]} parts; a reference is text: take it out "
            "of the prompt"
        )
    return "".join(parts)


def check_turns(drafts: list[Draft]) -> None:
    """Raise ValueError unless there is a user turn that says or shows something, and at most one system turn, first."""
    systems = [i for i, (rest, _) in enumerate(drafts) if rest["role"] == "system"]
    if len(systems) > 1:
        raise ValueError(
            f"there are {len(systems)} system turns (messages {', '.join(map(str, systems))}); join them in the data, "
            "or set `system` of the source, which replaces them"
        )
    if systems and systems[0]:
        raise ValueError(
            f"the system turn is message {systems[0]}, not the first; move it in the data, or set `system` of the "
            "source, which replaces it"
        )
    said = [part for rest, parts in drafts if rest["role"] == "user" for part in parts]
    if not any(isinstance(part, tuple) or part.strip() for part in said):
        roles = ", ".join(rest["role"] for rest, _ in drafts) or "none"
        raise UnusableSample(f"there is no user turn with content (turns there: {roles})", "prompt missing")


def map_question(drafts: list[Draft], change: Callable[[str], str]) -> None:
    """Rewrite the text of the last user turn, in place. Raises ValueError if that text is not one piece."""
    for rest, parts in reversed(drafts):
        if rest["role"] == "user":
            texts = [i for i, part in enumerate(parts) if isinstance(part, str)]
            if len(texts) != 1:
                raise ValueError(f"a prompt template needs one text in the last user turn, which has {len(texts)}")
            parts[texts[0]] = change(parts[texts[0]])
            return
    raise ValueError("a prompt template needs a user turn, and there is none")


def place(
    drafts: list[Draft], media: Mapping[Kind, Sequence[Media]], literal: bool = False
) -> tuple[tuple[dict[str, Any], ...], tuple[Media, ...]]:
    """Final messages, and all media in the order in which they are mentioned.

    `media` are those of the row's columns. They go, per kind and in order, to the parts that bring no content of their
    own; else to the literal `<image>` (`<video>`) in the texts; else to the front of the first user turn. With
    `literal`, "<image>" in a text is ordinary text. Raises ValueError with both counts if they do not match.
    """
    replaced: list[Kind] = []
    front: list[Any] = []
    for kind in KINDS:
        count = len(media.get(kind, ()))
        slots = [part for _, parts in drafts for part in parts if isinstance(part, tuple) and part[0] == kind]
        bare = sum(content is None for _, content in slots)
        texts = [part for _, parts in drafts for part in parts if isinstance(part, str)]
        marked = 0 if literal else sum(text.count(f"<{kind}>") for text in texts)
        if bare != count and (bare or len(slots)):
            own = f" and {len(slots) - bare} with it" if len(slots) > bare else ""
            raise UnusableSample(
                f"the messages have {bare} {kind} parts without content{own}, the columns give {count}",
                "media counts differ",
            )
        if marked and slots:
            raise UnusableSample(
                f"the text {_shown(texts, kind)} has {marked} <{kind}> placeholders beside {len(slots)} {kind} "
                f"parts; {_REMEDY}",
                "media counts differ",
            )
        if marked and not count:
            raise UnusableSample(
                f"the text {_shown(texts, kind)} has {marked} <{kind}> placeholders, but the row gives no {kind}; "
                f"if it means the word itself, set literal_placeholders: true",
                NO_MEDIUM,
            )
        if count and not bare:
            if marked and marked != count:
                raise UnusableSample(
                    f"the text {_shown(texts, kind)} has {marked} <{kind}> placeholders, the columns give {count} "
                    f"{kind}s; {_REMEDY}",
                    "media counts differ",
                )
            if marked:
                replaced.append(kind)
            else:
                front += [(kind, None)] * count
    if replaced:
        pattern = re.compile("(" + "|".join(f"<{kind}>" for kind in replaced) + ")")
        drafts = [(rest, [new for part in parts for new in _split(part, pattern)]) for rest, parts in drafts]
    if front:
        first = next((parts for rest, parts in drafts if rest["role"] == "user"), None)
        if first is None:
            raise UnusableSample(f"there is no user turn for the {len(front)} media of the row", "media counts differ")
        first[:0] = front
    waiting = {kind: iter(media.get(kind, ())) for kind in KINDS}
    ordered: list[Media] = []
    messages = []
    for rest, parts in drafts:
        for part in parts:
            if isinstance(part, tuple):
                ordered.append(part[1] if part[1] is not None else next(waiting[part[0]]))
        messages.append({**rest, "content": _content(parts)})
    return tuple(messages), tuple(ordered)


def _shown(texts: list[str], kind: Kind) -> str:
    text = next(text for text in texts if f"<{kind}>" in text)
    at = max(0, text.index(f"<{kind}>") - 30)
    return repr(text[at : at + 60])


def _split(part: Any, pattern: re.Pattern[str]) -> list[Any]:
    """Text around its placeholders; empty pieces are left out, white space is kept."""
    if not isinstance(part, str):
        return [part]
    pieces = pattern.split(part)
    return [(piece[1:-1], None) if i % 2 else piece for i, piece in enumerate(pieces) if piece or len(pieces) == 1]


def _content(parts: list[Any]) -> str | list[dict[str, str]]:
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": part[0]} for part in parts]
