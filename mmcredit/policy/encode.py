"""From a `Sample` to a `Prompt`: chat template, processor, positions. Done once; sampling and scores read it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.sample import Media, Sample
from mmcredit.data.videos.base import Frames
from mmcredit.policy.pixel_cache import PixelCache
from mmcredit.policy.prompt import Clip, Prompt
from mmcredit.policy.rendering import Renderer
from mmcredit.policy.tile_processor import TileProcessor
from mmcredit.policy.vision import UnsupportedModel
from mmcredit.policy.visual_tokens import shrinker

LoadVideo = Callable[[Media], Frames]
Encoded = tuple[Tensor, Tensor, dict[str, Tensor]]  # tokens [P], modality of each [P] (0 text), media


class PromptEncoder:
    """Makes prompts for one model and its processor."""

    def __init__(
        self,
        tokenizer: Any,
        processor: Any,
        model: Any,
        template_variables: Mapping[str, Any],
        pixel_cache_bytes: int,
        load_image: Callable[[Media], Any],
        content_key: Callable[[Media], str],
        name: str = "",
    ) -> None:
        """`model`: the inner model (with `get_rope_index` in the Qwen-VL families); `processor` None = text only;
        `name`: what messages call the model."""
        self.tokenizer = tokenizer
        self.processor = processor
        self.model = model
        self.render = Renderer(tokenizer, processor, template_variables, name)
        self.load_image = load_image
        self.content_key = content_key
        self.load_video: LoadVideo | None = None
        self.find_video: Callable[[], LoadVideo | None] = lambda: None  # asked once, by the first video
        self.pixels = PixelCache(pixel_cache_bytes)
        self.shrink = shrinker(model)
        # Ids that only the template and the processor may write.
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.reserved = tuple(str(t) for t in added.values() if getattr(t, "special", False))
        self._fingerprint = ""
        # Whether our own placeholder expansion equals the processor's; for tiles, with one image and with several.
        self._expands: dict[bool, bool] = {}
        self.tiles: TileProcessor | None = None
        if processor is not None:
            if not hasattr(model, "get_rope_index"):
                self.tiles = TileProcessor(processor, tokenizer, getattr(model.config, "image_token_id", None))
            kinds = [getattr(processor, k, None) for k in ("image_processor", "video_processor")]
            text = json.dumps([k.to_dict() for k in kinds if k is not None], sort_keys=True, default=str)
            self._fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    def __call__(self, sample: Sample, max_tokens: int | None = None) -> Prompt:
        """The prompt of a sample.

        Raises ValueError, naming the sample: reserved tokens in its text, media without a processor, unreadable media,
        no chat template, one that leaves out a text or an image, more than `max_tokens` tokens. Nothing is ever cut
        off.
        """
        self._check_text(sample)
        if sample.media and self.processor is None:
            raise ValueError(
                f"sample {sample.name} has {sample.media[0].kind} media, but the model reads text only; "
                "set model.path to a vision-language model"
            )
        text = self.render(sample)
        unexpanded = self._tokenise(text)
        media: dict[str, Tensor] = {}
        keys: tuple[str, ...] = ()
        tokens, types = unexpanded, torch.zeros_like(unexpanded)
        clips: tuple[Clip, ...] = ()
        if not sample.media:
            pass
        elif self.tiles is not None:
            tokens, types, media, keys = self._with_tiles(sample, text, self.tiles)
        elif all(m.kind == "image" for m in sample.media) and self._expands.get(False) is not False:
            tokens, types, media, keys = self._with_images(sample, text)
        else:
            tokens, types, media, keys, clips = self._through_processor(sample, text)
        prompt = self._laid_out(sample.id, tokens, types, media, keys, clips)
        if max_tokens is not None and len(prompt) > max_tokens:
            visual = int(prompt.visual.sum())
            raise ValueError(
                f"sample {sample.name}: the prompt has {len(prompt)} tokens ({visual} of them visual), more than "
                f"data.max_prompt_tokens={max_tokens}; raise it, lower model.max_pixels, or drop the sample"
            )
        return replace(prompt, unexpanded=unexpanded, sample=sample)

    def _laid_out(
        self,
        name: str,
        tokens: Tensor,
        types: Tensor,
        media: dict[str, Tensor],
        keys: tuple[str, ...],
        clips: tuple[Clip, ...] = (),
    ) -> Prompt:
        """The prompt of whole tokens [P] of these `types`, shrunk where visual tokens are pooled: what stays keeps its
        positions, and so does what comes after."""
        positions = self.positions(tokens, types, media)
        after, whole = int(positions.max()) + 1, int((types != 0).sum())
        if self.shrink is not None and media:
            stays = self.shrink(types, media)
            tokens, types, positions = tokens[stays], types[stays], positions[..., stays]
        return Prompt(
            sample_id=name,
            tokens=tokens,
            positions=positions,
            # As generation has it (model and vLLM alike): behind the largest position of any row.
            next_position=after,
            visual=types != 0,
            media=media,
            media_keys=keys,
            clips=clips,
            visual_whole=whole,
        )

    def _check_text(self, sample: Sample) -> None:
        for message in sample.messages:
            content = message["content"]
            parts = [content] if isinstance(content, str) else [p["text"] for p in content if p["type"] == "text"]
            for part in parts:
                for token in self.reserved:
                    if token in part:
                        at = part.index(token)
                        raise ValueError(
                            f"sample {sample.name}: the text of a {message['role']} message contains the reserved "
                            f"token {token!r} ({part[max(at - 20, 0) : at + len(token) + 20]!r}); media go into the "
                            "message as image parts, and the chat template writes the rest: remove it from the data"
                        )

    def _tokenise(self, text: str) -> Tensor:
        # The template has written every special token already.
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    def _image(self, sample: Sample, media: Media, key: str) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            try:
                image = self.load_image(media)
                out = self.processor.image_processor(images=[image], return_tensors="pt")
            except ValueError as error:
                raise ValueError(f"sample {sample.name}: {error}") from error
            return {name: value for name, value in out.items() if isinstance(value, Tensor)}

        return self.pixels.get(key, make)

    def _keys(self, sample: Sample) -> tuple[str, ...]:
        # Images first, then videos: the order in which features are taken apart.
        ordered = sorted(sample.media, key=lambda m: m.kind == "video")
        read = getattr(self.load_video, "tag", "")
        tags = {"image": self._fingerprint, "video": self._fingerprint + (f":{_short(read)}" if read else "")}
        try:
            return tuple(f"{self.content_key(m)}:{tags[m.kind]}" for m in ordered)
        except ValueError as error:
            raise ValueError(f"sample {sample.name}: {error}") from error

    def _with_images(self, sample: Sample, text: str) -> tuple[*Encoded, tuple[str, ...]]:
        """Image prompts, expanded here, so that an image is preprocessed once whatever text goes with it. The first
        such prompt is compared with the processor's own result; if they differ, the processor is used instead."""
        keys = self._keys(sample)
        processed = [self._image(sample, m, key) for m, key in zip(sample.media, keys, strict=True)]
        self._check_places(sample, text, processed)
        result = self._expand(text, processed)
        if False not in self._expands:
            reference = self._through_processor(sample, text)[:4]
            self._expands[False] = result is not None and _equal(result, reference[:3])
            if not self._expands[False]:
                warnings.warn(
                    f"{type(self.processor).__name__} expands image placeholders in its own way; images are "
                    "preprocessed anew for every prompt",
                    stacklevel=4,
                )
        if not self._expands[False] or result is None:
            return self._through_processor(sample, text)[:4]
        return *result, keys

    def _with_tiles(self, sample: Sample, text: str, tiles: TileProcessor) -> tuple[*Encoded, tuple[str, ...]]:
        """Prompts of a model that reads tiles: an image is preprocessed once whatever text goes with it. The first
        prompt with one image, and the first with several, are compared with the processor's own result."""
        if any(m.kind != "image" for m in sample.media):
            raise UnsupportedModel(
                f"sample {sample.name} has a video; {type(self.model).__name__} is trained on images only: videos need "
                "a model of the Qwen-VL families (model.path)"
            )
        several = len(sample.media) > 1
        keys = tuple(f"{key}:several" if several and tiles.minds_company else key for key in self._keys(sample))
        processed = [
            self.pixels.get(key, lambda m=m: self._tile(sample, m, tiles, several))  # type: ignore[misc]
            for m, key in zip(sample.media, keys, strict=True)
        ]
        self._check_places(sample, text, processed)
        tokens = self._tokenise(tiles.expanded(text, processed))
        types = tokens.eq(-1 if tiles.token_id is None else tiles.token_id).to(torch.int64)
        media = tiles.joined(processed)
        if several not in self._expands:
            images = [self.load_image(m) for m in sample.media]
            reason = tiles.difference(text, images, tokens, media)
            if reason is not None:
                raise UnsupportedModel(
                    f"sample {sample.name}: {type(self.processor).__name__} makes other prompts than this program "
                    f"({reason}): its images cannot be trained on; docs/models.md names the families (model.path)"
                )
            self._expands[several] = True
        return tokens, types, media, keys

    def whole(self, sample: Sample) -> dict[str, Any] | None:
        """What the model's own forward takes for a prompt, made by its processor alone; None where it has videos."""
        text = self.render(sample)
        if any(m.kind != "image" for m in sample.media):
            return None
        if not sample.media:
            return {"input_ids": self._tokenise(text)[None]}
        images = [self.load_image(m) for m in sample.media]
        if self.tiles is not None:
            return self.tiles.whole(text, images)
        return dict(
            self.processor(
                text=[text],
                images=images,
                return_tensors="pt",
                return_mm_token_type_ids=True,
                text_kwargs={"add_special_tokens": False},
            )
        )

    def _tile(self, sample: Sample, media: Media, tiles: TileProcessor, several: bool) -> dict[str, Tensor]:
        try:
            return tiles.read(self.load_image(media), several)
        except UnsupportedModel:
            raise
        except ValueError as error:
            raise ValueError(f"sample {sample.name}: {error}") from error

    def _check_places(self, sample: Sample, text: str, images: Sequence[Mapping[str, Tensor]]) -> None:
        """The template writes one placeholder per image; one that drops an image of some turn would blind the model."""
        token = getattr(self.processor, "image_token", None)
        if token is None:
            return
        written = text.count(token)
        if written != len(images):
            roles = sorted({m["role"] for m in sample.messages if any(p["type"] == "image" for p in _parts(m))})
            raise UnusableSample(
                f"sample {sample.name}: the chat template writes {written} of {len(images)} images (in turns of "
                f"{', '.join(roles)}); move them to a user turn, or set model.chat_template to another template",
                "image missing from the prompt",
            )

    def _expand(self, text: str, images: Sequence[Mapping[str, Tensor]]) -> Encoded | None:
        token = getattr(self.processor, "image_token", None)
        merge = getattr(self.processor.image_processor, "merge_size", None)
        if token is None or merge is None or any("image_grid_thw" not in i for i in images):
            return None
        pieces = text.split(token)
        if len(pieces) != len(images) + 1:
            return None
        whole = pieces[0]
        for image, piece in zip(images, pieces[1:], strict=True):
            whole += token * (int(image["image_grid_thw"].prod()) // merge**2) + piece
        tokens = self._tokenise(whole)
        types = (tokens == self.tokenizer.convert_tokens_to_ids(token)).to(torch.int64)
        # One image stays the remembered tensor: prompts that share it share its memory.
        media = images[0] if len(images) == 1 else {k: torch.cat([i[k] for i in images]) for k in images[0]}
        return tokens, types, dict(media)

    def piece(
        self,
        name: str,
        text: str,
        videos: Sequence[Frames] = (),
        keys: Sequence[str] = (),
        images: Sequence[Any] = (),
    ) -> Prompt:
        """Text and media for the middle of a response (`mmcredit.rollouts.Inserted`), laid out as in a prompt.

        `text` has one placeholder, as the chat template writes it, for each of `videos` (frames and about them) and
        `images`; `keys`, of images first, are equal for equal content. Raises ValueError, naming the sample `name`, if
        the processor refuses it.
        """
        if (videos or images) and self.processor is None:
            raise ValueError(f"sample {name}: the model reads text only; set model.path to a vision-language model")
        media: dict[str, Tensor] = {}
        if videos or images:
            tokens, types, media = self._processed(name, text, {"images": list(images)} if images else {}, videos)
        else:
            tokens = self._tokenise(text)
            types = torch.zeros_like(tokens)
        keyed = tuple(f"{key}:{self._fingerprint}" for key in keys)
        return self._laid_out(name, tokens, types, media, keyed, tuple(Clip.of(about) for _, about in videos))

    def _through_processor(self, sample: Sample, text: str) -> tuple[*Encoded, tuple[str, ...], tuple[Clip, ...]]:
        images = [m for m in sample.media if m.kind == "image"]
        videos = [m for m in sample.media if m.kind == "video"]
        if videos and self.load_video is None:
            self.load_video = self.find_video()
        if videos and self.load_video is None:
            raise ValueError(
                f"sample {sample.name} has a video, but nothing that reads videos is installed or named in "
                "data.media.video"
            )
        try:
            options = {"images": [self.load_image(m) for m in images]} if images else {}
            loaded = [self.load_video(m) for m in videos] if self.load_video is not None else []
        except ValueError as error:
            raise ValueError(f"sample {sample.name}: {error}") from error
        clips = tuple(Clip.of(about) for _, about in loaded)
        return *self._processed(sample.name, text, options, loaded), self._keys(sample), clips

    def _processed(self, name: str, text: str, options: dict[str, Any], videos: Sequence[Frames]) -> Encoded:
        """What the processor makes of a text with these images (in `options`) and videos."""
        if videos:
            options = {**options, "videos": [_own(frames) for frames, _ in videos], "do_sample_frames": False}
            # The processor appends to the list of indices in place.
            options["video_metadata"] = [
                {k: list(v) if isinstance(v, list) else v for k, v in about.items()} for _, about in videos
            ]
        try:
            out = self.processor(
                text=[text],
                return_tensors="pt",
                return_mm_token_type_ids=True,
                text_kwargs={"add_special_tokens": False},
                **options,
            )
        except ValueError as error:
            raise ValueError(f"sample {name}: {error}") from error
        found = dict(out)
        tokens = found.pop("input_ids")[0].to(torch.int64)
        types = found.pop("mm_token_type_ids")[0].to(torch.int64)
        found.pop("attention_mask", None)
        media = {k: torch.as_tensor(v) for k, v in found.items() if isinstance(v, Tensor) or k == "second_per_grid_ts"}
        return tokens, types, media

    def positions(self, tokens: Tensor, types: Tensor, media: Mapping[str, Tensor]) -> Tensor:
        """Positions of a prompt, [P] or [3,P] int64; `types` [P] is 0 for text, 1 in an image, 2 in a video."""
        rope = getattr(self.model, "get_rope_index", None)
        if rope is None:
            return torch.arange(tokens.shape[0])
        if not media:
            return torch.arange(tokens.shape[0]).expand(3, -1).contiguous()
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        known: dict[str, Any] = {name: media[name] for name in names if name in media}
        positions, _ = rope(
            tokens[None], mm_token_type_ids=types[None], attention_mask=torch.ones_like(tokens[None]), **known
        )
        return positions[:, 0].to(torch.int64)


def _own(frames: Any) -> Any:
    """Frames that torch may hold: a copy of an array that others share (a reader's cache is read only)."""
    flags = getattr(frames, "flags", None)
    return frames if getattr(flags, "writeable", True) else frames.copy()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return () if isinstance(message["content"], str) else message["content"]


def _equal(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Tokens, types and media of two encodings."""
    same = a[0].shape == b[0].shape and bool((a[0] == b[0]).all()) and bool((a[1] == b[1]).all())
    return (
        same
        and a[2].keys() == b[2].keys()
        and all(
            a[2][k].shape == b[2][k].shape and torch.allclose(a[2][k].float(), b[2][k].float(), atol=1e-5) for k in a[2]
        )
    )
