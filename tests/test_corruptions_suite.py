"""Drawing corruptions for samples, the contact sheet, and albumentations behind the same interface."""

import os
import sys
import types

import corruption_images as images
import numpy as np
import pytest
from PIL import Image

from mmcredit.components import build, lookup, page
from mmcredit.corruptions import (
    IMAGENET_C,
    IMAGENET_C_EXTRA,
    Suite,
    contact_sheet,
    corruption_seed,
    evaluation_draw,
    operator,
    run_sheet,
)
from mmcredit.corruptions.sheet import built_in
from mmcredit.seeds import derive


def titles(corruptions):
    return [corruption.title for corruption in corruptions]


def test_seeds_depend_on_everything_that_names_a_view():
    assert corruption_seed(1, 2, "a/3", 0) == derive(1, "corruption", 2, "a/3", 0)
    places = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1), (0, 0, "a", "1")]
    seeds = {corruption_seed(*place) for place in places}
    assert len(seeds) == 6


def test_the_standard_split_covers_all_and_keeps_seen_and_unseen_apart():
    suite = Suite()
    seen, unseen = titles(suite.seen), titles(suite.unseen)
    assert not set(seen) & set(unseen)
    # diffusion_noise is gaussian_noise under another schedule: it must not count as unseen.
    assert {*seen, *unseen} == set(built_in()) - {"diffusion_noise"}
    assert {*IMAGENET_C, *IMAGENET_C_EXTRA} <= {*seen, *unseen}


def test_a_draw_is_a_function_of_its_names():
    image = images.texture(0, 48)
    for view in range(3):
        first = Suite().draw(5, 1, "sample 9", view)
        again = Suite().draw(5, 1, "sample 9", view)
        assert (first.label, first.seed) == (again.label, again.seed)
        assert images.same(first.image(image), again.image(image))
    labels = {Suite().draw(5, epoch, "sample 9", 0).label for epoch in range(30)}
    assert len(labels) > 5


def test_the_views_of_a_sample_have_different_operators_and_all_come_equally_often():
    suite = Suite(seen=["jpeg", "fog", "pixelate"], unseen=[])
    counts = dict.fromkeys(("jpeg", "fog", "pixelate"), 0)
    severities = dict.fromkeys((1, 2, 3), 0)
    for sample in range(300):
        draws = [suite.draw(0, 0, str(sample), view) for view in range(4)]
        assert len({draw.operator.title for draw in draws[:3]}) == 3
        assert draws[3].operator.title == draws[0].operator.title
        assert draws[3].seed != draws[0].seed
        counts[draws[1].operator.title] += 1
        severities[draws[1].severity] += 1
    # Binomial(300, 1/3): mean 100, standard deviation 8.2.
    assert all(abs(count - 100) < 33 for count in [*counts.values(), *severities.values()])


def test_images_of_one_sample_share_the_operator_and_not_the_noise():
    image = images.texture(0, 48)
    draw = evaluation_draw(0, "s", operator("gaussian_noise"), 3)
    assert images.same(draw.image(image, 0), draw.image(image, 0))
    assert not images.same(draw.image(image, 0), draw.image(image, 1))
    assert images.same(draw.frames([image, image], 1)[0], draw.image(image, 1))


def test_evaluation_goes_through_all_cells_with_pixels_fixed_by_seed_and_sample():
    suite = Suite(seen=["jpeg"], unseen=["fog", {"occlusion": {"patch_size": 7}}], eval_severities=(3, 5))
    assert [(c.title, s) for c, s in suite.cells("unseen")] == [
        ("fog", 3), ("fog", 5), ("occlusion", 3), ("occlusion", 5),
    ]  # fmt: skip
    image = images.texture(0, 48)
    corruption = suite.unseen[1]
    first = evaluation_draw(7, "s", corruption, 5).image(image)
    assert images.same(first, evaluation_draw(7, "s", corruption, 5).image(image))
    assert not images.same(first, evaluation_draw(7, "t", corruption, 5).image(image))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seen": ["jpeg"], "unseen": ["jpeg"]}, "jpeg stands twice in seen and unseen"),
        ({"seen": ["jpeg", "jpeg"], "unseen": []}, "jpeg stands twice"),
        ({"seen": ["jpg"]}, "unknown corruption 'jpg'; did you mean 'jpeg'"),
        ({"seen": "jpeg"}, r"a list of corruptions is wanted, got 'jpeg'"),
        ({"seen": [{"occlusion": {"patch": 3}}]}, "unknown key 'patch'; did you mean 'patch_size'"),
        ({"seen": [{"occlusion": {"probability": 1.5}}]}, "probability: .*got 1.5"),
        ({"severity": (3, 1)}, r"severity is \[least, greatest\], got \[3, 1\]"),
        ({"severity": (0, 3)}, "severity is a whole number from 1"),
        ({"eval_severities": (3, 7)}, "severity is a whole number from 1 .*got 7"),
        ({"operators": []}, "Extra inputs"),
    ],
)
def test_wrong_suites(fields, message):
    with pytest.raises(ValueError, match=message):
        Suite(**fields)


def test_two_of_one_kind_need_labels_and_an_empty_split_cannot_be_drawn_from():
    suite = Suite(seen=["occlusion", {"occlusion": {"label": "fine", "patch_size": 4}}], unseen=[])
    assert titles(suite.seen) == ["occlusion", "fine"]
    with pytest.raises(ValueError, match="no unseen corruption to draw from"):
        suite.draw(0, 0, "s", 0, "unseen")


@pytest.mark.parametrize("name", built_in())
def test_every_operator_is_built_again_from_its_spec_and_says_how_frames_go(name):
    first = operator(name)
    assert build("corruption", first.spec()) == first
    text = page(lookup("corruption", name))
    assert "Video" in text or "Nothing is random" in text


# The contact sheet


def test_sheet_has_a_row_per_operator_and_a_column_per_severity():
    image = images.texture(0, 130)
    sheet = contact_sheet(image, ["jpeg", {"occlusion": {"probability": 1.0}}], severities=(1, 5), seed=3)
    assert sheet.size == (6 + 3 * 136, 26 + 2 * 156)
    row = [sheet.crop((6 + 136 * column, 46, 136 + 136 * column, 176)) for column in range(3)]
    assert images.same(row[0], image)
    assert images.psnr(image, row[1]) > images.psnr(image, row[2]) > 10
    black = sheet.crop((6 + 136, 46 + 156, 136 + 136, 176 + 156))
    assert not np.asarray(black).any()
    assert images.same(sheet, contact_sheet(image, ["jpeg", {"occlusion": {"probability": 1.0}}], (1, 5), 3))


def test_sheet_of_a_file(tmp_path):
    source, target = tmp_path / "image.png", tmp_path / "sheet.png"
    images.texture(0, 90).convert("RGBA").save(source)
    assert run_sheet(source, target, side=30) == target
    with Image.open(target) as sheet:
        assert sheet.size == (6 + 6 * 126, 26 + len(built_in()) * 56)
    with pytest.raises(ValueError, match=r"written as one of .png, .*got '.*sheet.txt'"):
        run_sheet(source, tmp_path / "sheet.txt")
    with pytest.raises(ValueError, match="there is no such folder"):
        run_sheet(source, tmp_path / "nowhere" / "sheet.png")
    with pytest.raises(ValueError, match="nothing.png cannot be read"):
        run_sheet(tmp_path / "nothing.png", target)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="damaged or unknown .*wanted is one of"):
        run_sheet(tmp_path / "text.png", target)
    with pytest.raises(ValueError, match="at least one operator"):
        contact_sheet(images.noise(8, 8), [])


# albumentations: a stand-in with the parts of its interface that are used, so that the tests need not install it


def stand_in(monkeypatch):
    library = types.ModuleType("albumentations")

    class BasicTransform:
        def __init__(self, p=0.5, **params):
            self.p, self.params = p, params

    class Noise(BasicTransform):
        def __init__(self, std, p=0.5):
            super().__init__(p, std=std)

        def apply(self, pixels, rng):
            return np.clip(pixels + rng.normal(0, self.params["std"][0], pixels.shape), 0, 255).astype(np.uint8)

    class Crop(BasicTransform):
        def apply(self, pixels, rng):
            return pixels[:, 1:]

    class Normalize(BasicTransform):
        def apply(self, pixels, rng):
            return pixels / 255

    class Compose:
        def __init__(self, transforms, seed=None):
            self.transforms, self.rng = transforms, np.random.default_rng(seed)
            library.composed.append(self)

        def __call__(self, image):
            for transform in self.transforms:
                assert transform.p == 1.0
                image = transform.apply(image, self.rng)
            return {"image": image}

    library.composed = []
    for part in (BasicTransform, Noise, Crop, Normalize, Compose):
        setattr(library, part.__name__, part)
    monkeypatch.setitem(sys.modules, "albumentations", library)
    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
    return library


NOISE = {"name": "Noise", "params": {"std": {"by_severity": [[5, 5], [10, 10], [15, 15], [20, 20], [40, 40]]}}}


def test_albumentations_pipeline(monkeypatch):
    library = stand_in(monkeypatch)
    corruption = operator({"albumentations": [NOISE]})
    assert corruption == operator({"albumentations": {"transforms": [NOISE]}})
    image = images.texture(0, 40)
    falls = [images.psnr(image, corruption(image, severity, np.random.default_rng(0))) for severity in range(1, 6)]
    assert (np.diff(falls) < 0).all()
    assert library.composed[-1].transforms[0].params == {"std": (40, 40)}
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
    first, second = (corruption(image, 3, np.random.default_rng(seed)) for seed in (1, 2))
    assert not images.same(first, second)
    frames = corruption.apply_frames([image, image], 3, np.random.default_rng(1))
    assert images.same(frames[0], frames[1])
    assert images.same(frames[0], first)
    assert titles(Suite(seen=[{"albumentations": [NOISE]}], unseen=[]).seen) == ["albumentations"]


def test_albumentations_mistakes(monkeypatch):
    image, rng = images.texture(0, 40), np.random.default_rng(0)
    with pytest.raises(ValueError, match="std is written as {by_severity: \\[five values\\]}"):
        operator({"albumentations": [{"name": "Noise", "params": {"std": {"by_severity": [1, 2]}}}]})
    with pytest.raises(ValueError, match="transforms"):
        operator({"albumentations": []})
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ValueError, match=r"pip install 'mmcredit\[vision\]'"):
        operator({"albumentations": [NOISE]})(image, 1, rng)
    stand_in(monkeypatch)
    with pytest.raises(ValueError, match="no transform 'Nois'; did you mean 'Noise'"):
        operator({"albumentations": [{"name": "Nois"}]})(image, 1, rng)
    with pytest.raises(ValueError, match="no transform 'Compose'"):
        operator({"albumentations": [{"name": "Compose"}]})(image, 1, rng)
    with pytest.raises(ValueError, match=r"albumentations Noise\({'st': 1}\): .*unexpected keyword"):
        operator({"albumentations": [{"name": "Noise", "params": {"st": 1}}]})(image, 1, rng)
    with pytest.raises(ValueError, match="the size must stay"):
        operator({"albumentations": [{"name": "Crop"}]})(image, 1, rng)
    with pytest.raises(ValueError, match="gave an array of float64"):
        operator({"albumentations": [{"name": "Normalize"}]})(image, 1, rng)
