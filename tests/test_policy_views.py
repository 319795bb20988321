"""Masked and corrupted views of prompts: what they show, when, and to whom."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from policy_cases import make_policy, rollouts_for, sample, samples
from runs import run_python
from tiny import tiny_image, tiny_png

from mmcredit.corruptions.base import Corruption
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample
from mmcredit.policy.passes import BLIND, CLEAN, MASKED, Pass, View, corrupted
from mmcredit.policy.pixels import Pixels
from mmcredit.policy.views import Views, furnish_views
from mmcredit.policy.vision import items
from mmcredit.views.images import CorruptedView, MaskedView

LOGPROBS = frozenset({"logprobs"})


def furnished(family="qwen2_5_vl", seed=1, settings=None, **options):
    policy = make_policy(family, **options)
    return policy, furnish_views(policy, settings or {}, seed)


def arrays(views, prompt):
    """The frames of every medium of a prompt."""
    return [np.stack([np.asarray(f) for f in views.pixels.frames(i, prompt.sample_id)]) for i in items(prompt)]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_pixels_are_read_back_exactly(family):
    policy, views = furnished(family)
    prompt = policy.encode(sample("x", "what", [((130, 95), 0), (64, 1)]))
    assert views.pixels.edited(prompt, lambda frames, place: frames, "same") is prompt
    found = arrays(views, prompt)
    factor = 28 if family == "qwen2_5_vl" else 32
    assert all(f.shape[1] % factor == f.shape[2] % factor == 0 for f in found)
    if family == "qwen3_vl":  # 64 pixels are not resized: they are the source's
        np.testing.assert_array_equal(found[1][0], np.asarray(tiny_image(64, 1)))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_masked_squares_are_black_and_the_rest_is_untouched(family):
    policy, views = furnished(family, settings={"masked": MaskedView(probability=0.5, patch_size=14)})
    prompt = policy.encode(samples(family)[3])
    made = views(MASKED, prompt)
    assert torch.equal(made.tokens, prompt.tokens)
    assert torch.equal(made.positions, prompt.positions)
    assert all(torch.equal(made.media[k], v) for k, v in prompt.media.items() if k != "pixel_values")
    assert not set(made.media_keys) & set(prompt.media_keys)
    shares = []
    for before, after in zip(arrays(views, prompt), arrays(views, made), strict=True):
        square = np.zeros(before.shape[1:3], dtype=bool)
        for y in range(0, square.shape[0], 14):
            for x in range(0, square.shape[1], 14):
                tile = (0, slice(y, y + 14), slice(x, x + 14))
                black = not after[tile].any()
                square[y : y + 14, x : x + 14] = black
                assert black or (after[tile] == before[tile]).all()
        shares.append(square.mean())
    assert 0.2 < np.mean(shares) < 0.8
    none, everything = (views_with(policy, MaskedView(probability=p)) for p in (0.0, 1.0))
    assert none(MASKED, prompt) is prompt
    assert all(not a.any() for a in arrays(everything, everything(MASKED, prompt)))


def views_with(policy, masked):
    return Views(Pixels(policy.processor), {"masked": masked}, seed=1)


def test_views_of_a_sample_differ_and_images_of_one_view_share_their_operator():
    policy, views = furnished()
    prompt = policy.encode(sample("x", "what", [(64, 0), (64, 0)]))
    made = [views(corrupted(k), prompt) for k in range(3)]
    assert len({views.draw(corrupted(k), "x").operator.name for k in range(3)}) == 3
    assert all("gaussian_noise" not in key for key in prompt.media_keys)
    for k, one in enumerate(made):
        assert torch.equal(one.tokens, prompt.tokens)
        assert all(views.draw(corrupted(k), "x").label in key for key in one.media_keys)
    assert views(corrupted(0), prompt) is made[0]  # once per step
    noise = Views(views.pixels, {"corrupted": CorruptedView(operators=["gaussian_noise"])}, seed=1)
    first, second = arrays(noise, noise(corrupted(0), prompt))
    assert (first != second).any()  # the same picture twice, with noise of its own each


def test_a_step_has_its_own_draws_and_forgets_the_last_one():
    policy, views = furnished()
    prompt = policy.encode(sample("x", "what", [(64, 0)]))
    first = views(MASKED, prompt)
    forgotten = []
    views._forget = forgotten.extend
    views.begin(1)
    second = views(MASKED, prompt)
    assert set(forgotten) == set(first.media_keys)
    assert not torch.equal(first.media["pixel_values"], second.media["pixel_values"])
    views.begin(0)
    assert torch.equal(views(MASKED, prompt).media["pixel_values"], first.media["pixel_values"])
    other = Views(views.pixels, {}, seed=2)
    assert not torch.equal(other(MASKED, prompt).media["pixel_values"], first.media["pixel_values"])


PROGRAM = """
import hashlib, torch
import mmcredit
from policy_cases import make_policy, samples
from mmcredit.policy.passes import MASKED, corrupted
from mmcredit.policy.views import furnish_views
policy = make_policy("qwen2_5_vl")
views = furnish_views(policy, {}, 5)
views.begin(3)
found = hashlib.sha256()
for s in samples("qwen2_5_vl"):
    prompt = policy.encode(s)
    for view in (MASKED, corrupted(0), corrupted(1), corrupted(2), corrupted(3), corrupted(4), corrupted(5)):
        made = views(view, prompt)
        found.update(repr(made.media_keys).encode())
        if made.media:
            found.update(made.media["pixel_values"].numpy().tobytes())
print("digest", found.hexdigest())
"""


def test_views_are_the_same_in_every_process(monkeypatch):
    digests = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        result = run_python(PROGRAM)
        assert result.returncode == 0, result.stderr
        digests.append(next(line for line in result.stdout.splitlines() if line.startswith("digest")))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("frozen", [True, False])
def test_scores_under_views_are_those_of_their_prompts(family, frozen):
    """No clean feature is taken for a changed image, warm memory or not; text-only rows take the clean states."""
    policy, views = furnished(family, freeze_vision=frozen)
    prompts = [policy.encode(s) for s in samples(family)]
    rollouts = rollouts_for(policy, 4, [[5, 3], [4, 2], [6], [3, 5]])
    clean = policy.score(prompts, rollouts, [Pass(CLEAN, LOGPROBS)], temperature=1.0)[CLEAN]["logprobs"]
    seen = [CLEAN, BLIND, MASKED, corrupted(0), corrupted(1)]
    policy.costs.reset()
    found = policy.score(prompts, rollouts, [Pass(v, LOGPROBS) for v in seen], temperature=1.0)
    cost = policy.costs.read()
    text = rollouts.group == 1
    for view in (MASKED, corrupted(0), corrupted(1)):
        made = [views(view, p) for p in prompts]
        assert made[1] is prompts[1]
        direct = policy.score(made, rollouts, [Pass(CLEAN, LOGPROBS)], temperature=1.0)[CLEAN]["logprobs"]
        torch.testing.assert_close(found[view]["logprobs"], direct, atol=1e-5, rtol=0)
        assert torch.equal(found[view]["logprobs"][text], found[CLEAN]["logprobs"][text])
    for view, least in ((MASKED, 1e-2), (corrupted(0), 1e-5), (corrupted(1), 1e-5)):
        assert (found[view]["logprobs"] - clean)[~text].abs().max() > least
    # four images (64 twice, wide, 96x128) on three prompts, whatever the number of responses; the text row not at all
    clean_tokens = sum(len(p) for p in prompts)
    assert cost["masked"]["tower_calls"] == cost["corrupted"]["tower_calls"] == 1
    assert cost["clean"]["tower_calls"] == cost["blind"]["tower_calls"] == 0  # remembered; never needed
    assert cost["masked"]["positions"] == int(rollouts.valid[~text].sum())
    assert cost["masked"]["tokens"] < clean_tokens + int(rollouts.valid.sum())


def test_without_clean_states_text_rows_are_run_as_they_are():
    policy, _ = furnished()
    prompts = [policy.encode(s) for s in samples("qwen2_5_vl")]
    rollouts = rollouts_for(policy, 4, [[5], [4], [6], [3]])
    alone = policy.score(prompts, rollouts, [Pass(MASKED, LOGPROBS)], temperature=1.0)[MASKED]["logprobs"]
    both = policy.score(prompts, rollouts, [Pass(CLEAN, LOGPROBS), Pass(MASKED, LOGPROBS)], temperature=1.0)
    torch.testing.assert_close(alone, both[MASKED]["logprobs"], atol=1e-5, rtol=0)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def odd_images():
    """Encoded files of unusual kinds, by name."""
    rgb = tiny_image((96, 64))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    return {
        "grey": encoded(rgb.convert("L"), format="PNG"),
        "rgba": encoded(Image.merge("RGBA", (*rgb.split(), rgb.convert("L"))), format="PNG"),
        "cmyk": encoded(rgb.convert("CMYK"), format="JPEG"),
        "palette": encoded(rgb.convert("P"), format="PNG"),
        "rotated": encoded(rgb, format="JPEG", exif=rotated),
        "animated": encoded(rgb, format="GIF", save_all=True, append_images=[rgb.rotate(90), rgb.rotate(180)]),
        "one pixel": encoded(Image.new("RGB", (1, 1), (9, 120, 250)), format="PNG"),
        "4k": encoded(tiny_image((3840, 2160)), format="PNG"),
        "one colour": encoded(Image.new("RGB", (64, 64), (9, 120, 250)), format="PNG"),
    }


@pytest.mark.parametrize("kind", list(odd_images()))
@pytest.mark.filterwarnings("ignore:.*has 3 frames")
def test_unusual_images(kind):
    policy, views = furnished()
    policy.media_limits = MediaLimits(min_side=1)
    one = Sample(kind, ({"role": "user", "content": [{"type": "image"}]},), (Media("image", data=odd_images()[kind]),))
    prompt = policy.encode(one)
    if kind == "rotated":
        height, width = arrays(views, prompt)[0].shape[1:3]
        assert height > width
    for view in (MASKED, *(corrupted(k) for k in range(6))):
        made = views(view, prompt)
        assert torch.equal(made.tokens, prompt.tokens)
        assert torch.equal(made.media["image_grid_thw"], prompt.media["image_grid_thw"])
        assert made.media["pixel_values"].shape == prompt.media["pixel_values"].shape
        assert torch.isfinite(made.media["pixel_values"]).all()
    assert views(MASKED, prompt) is not prompt
    if kind in ("one colour", "one pixel"):  # nothing to blur: the view is the clean prompt, and no pass is run for it
        blurred = Views(views.pixels, {"corrupted": CorruptedView(operators=["gaussian_blur"])}, seed=1)
        assert blurred(corrupted(0), prompt) is prompt


def test_one_pixel_is_refused_by_default():
    policy, _ = furnished()
    data = odd_images()["one pixel"]
    one = Sample("dot", ({"role": "user", "content": [{"type": "image"}]},), (Media("image", data=data),))
    with pytest.raises(ValueError, match="sample dot: .*1x1 pixels, a side below data.media.min_side=2"):
        policy.encode(one)


def video_policy(frames):
    policy, views = furnished(settings={"corrupted": CovE})
    about = {"fps": 2.0, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))}
    policy.encoder.load_video = lambda media: (frames, about)
    content = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "what"}]
    media = (Media("image", data=tiny_png(64)), Media("video", data=b"not read here"))
    return policy, views, policy.encode(Sample("film", ({"role": "user", "content": content},), media))


CovE = CorruptedView(operators=["motion_blur", "gaussian_noise"], severity=(3, 3))


@pytest.mark.filterwarnings("ignore")
def test_all_frames_of_a_video_are_changed_alike():
    frames = np.repeat(np.random.RandomState(0).randint(0, 255, (1, 56, 84, 3), dtype=np.uint8), 5, axis=0)
    _, views, prompt = video_policy(frames)
    before = arrays(views, prompt)[1]
    assert before.shape == (6, 56, 84, 3)  # padded to whole temporal patches by the processor
    masked = arrays(views, views(MASKED, prompt))[1]
    assert (masked[0] != before[0]).any()
    assert all((f == masked[0]).all() for f in masked)  # one mask: what one frame hides no other shows
    by_name = {views.draw(corrupted(k), "film").operator.name: views(corrupted(k), prompt) for k in range(2)}
    blurred, noised = arrays(views, by_name["motion_blur"])[1], arrays(views, by_name["gaussian_noise"])[1]
    assert all((f == blurred[0]).all() for f in blurred)
    assert all((f != noised[0]).any() for f in noised[1:])  # sensor noise is new in every frame
    made = views(MASKED, prompt)
    assert made.media["pixel_values_videos"].shape == prompt.media["pixel_values_videos"].shape
    assert len(made.media_keys) == 2


class Shrink(Corruption):
    """Changes the size, as a transform of a user's own may."""

    def apply_frames(self, frames, severity, rng):
        return [f.resize((f.width // 2, f.height)) for f in frames]


class Polite(Corruption):
    """Changes the size where the base class sees it."""

    def corrupt_image(self, image, severity, drawn, rng):
        return image.resize((image.width // 2, image.height))


@pytest.mark.parametrize(
    ("broken", "message"),
    [(Shrink, r"turned 1 frames \('RGB', \(56, 56\)\) into \('RGB', \(28, 56\)\)"), (Polite, "the size must stay")],
)
def test_a_view_that_changes_the_number_of_tokens_names_the_sample(broken, message):
    policy, _ = furnished()
    broken.name = broken.__name__.lower()
    views = Views(Pixels(policy.processor), {"corrupted": CorruptedView(operators=[broken_of(broken)])}, seed=1)
    with pytest.raises(ValueError, match=f"sample pic: .*{message}"):
        views(corrupted(0), policy.encode(sample("pic", "what", [(56, 0)])))


def broken_of(cls):
    cls.kind = "corruption"
    return cls()


def test_pixels_that_cannot_be_read_back_are_an_error():
    policy, _ = furnished()
    prompt = policy.encode(sample("pic", "what", [(64, 0)]))
    between = replace(prompt, media={**prompt.media, "pixel_values": prompt.media["pixel_values"] + 0.001})
    with pytest.raises(ValueError, match="sample pic: the pixels that Qwen2VLImageProcessor makes cannot be read back"):
        Pixels(policy.processor).edited(between, lambda frames, place: frames, "x")


def test_settings_of_views_are_checked():
    policy, _ = furnished()
    pixels = Pixels(policy.processor)
    with pytest.raises(ValueError, match="unknown view 'darkened'; known: masked, corrupted"):
        Views(pixels, {"darkened": MaskedView()}, seed=1)
    with pytest.raises(ValueError, match="the view 'masked' takes MaskedView settings"):
        Views(pixels, {"masked": CorruptedView()}, seed=1)
    assert Views(pixels, {"corrupted": CorruptedView(severity=(0, 0))}, seed=1).draw(View("corrupted"), "x") is None
