"""Corruptions as published: pixels of imagecorruptions 1.1.2, and steps of OpenCV 4.7 and scipy 1.10.

`scripts/diff_corruptions.py` compares on many pictures; what it found is in `benchmarks/scorers.md`.
"""

import corruption_images as images
import numpy as np
import pytest
from PIL import Image

from mmcredit.corruptions import IMAGENET_C, IMAGENET_C_EXTRA, operator
from mmcredit.corruptions.base import to_floats, to_image
from mmcredit.corruptions.edges import box_mean, distances, edges, equalised, filtered
from mmcredit.corruptions.filters import remap, stretched_middle
from mmcredit.corruptions.operators.digital import sheared
from mmcredit.corruptions.operators.spatter import RELIEF, drops
from mmcredit.corruptions.operators.weather import Frost


def seeded(seed):
    return np.random.default_rng(seed)


def ramp():
    """40 x 36 pixels that every side can write down."""
    x, y = np.meshgrid(np.arange(40), np.arange(36))
    return Image.fromarray(np.stack([x * 10 % 256, y * 16 % 256, (x * 7 + y * 13) % 256], axis=-1).astype(np.uint8))


# By operator and severity: red, green, blue at (row 5, column 7), at (30, 33), and the mean over all.
PUBLISHED = {
    "contrast": (
        (91, 97, 121, 92, 155, 119, 113.329), (94, 100, 122, 95, 143, 121, 113.168),
        (98, 103, 124, 99, 132, 123, 113.382), (101, 106, 125, 102, 120, 124, 113.275),
        (103, 107, 126, 103, 115, 125, 113.313),
    ),
    "brightness": (
        (85, 97, 139, 82, 249, 121, 128.202), (101, 115, 165, 84, 255, 124, 139.801),
        (116, 133, 190, 84, 255, 124, 148.455), (132, 151, 216, 84, 255, 124, 154.961),
        (148, 169, 241, 84, 255, 124, 159.471),
    ),
    "saturate": (
        (100, 103, 114, 179, 224, 189, 158.034), (109, 110, 114, 209, 224, 212, 170.768),
        (26, 46, 114, 0, 224, 52, 94.291), (0, 25, 114, 0, 224, 52, 89.23), (0, 25, 114, 0, 224, 52, 88.98),
    ),
    "gaussian_blur": (
        (70, 80, 113, 73, 209, 109, 113.488), (70, 80, 114, 74, 166, 108, 113.352),
        (70, 80, 114, 75, 144, 109, 113.039), (70, 82, 114, 80, 130, 113, 112.488),
        (73, 80, 111, 96, 112, 124, 111.016),
    ),
    "defocus_blur": (
        (69, 79, 113, 73, 171, 108, 113.0), (69, 79, 113, 73, 156, 108, 113.189),
        (69, 80, 114, 73, 135, 108, 113.587), (71, 86, 119, 76, 122, 109, 115.344),
        (73, 94, 125, 89, 116, 116, 115.256),
    ),
    "zoom_blur": (
        (71, 83, 117, 62, 208, 88, 114.907), (73, 87, 122, 60, 205, 84, 115.862),
        (76, 90, 127, 58, 201, 80, 116.834), (78, 93, 130, 56, 198, 75, 117.884),
        (81, 97, 135, 55, 194, 72, 118.846),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_pixels_as_published(name):
    """A value that is whole before it is cut off may end one level lower, by how the last bit was rounded."""
    for severity, expected in enumerate(PUBLISHED[name], start=1):
        after = np.asarray(operator({name: {"published": True}})(ramp(), severity, seeded(0)), int)
        np.testing.assert_allclose([*after[5, 7], *after[30, 33]], expected[:6], atol=1)
        assert after.mean() == pytest.approx(expected[6], abs=0.5)
        if name in ("contrast", "zoom_blur"):
            assert [*after[5, 7], *after[30, 33]] == list(expected[:6])


def test_cutting_off_is_half_a_level_darker_and_the_default_rounds():
    image = images.texture(3, 64)
    for name in ("gaussian_noise", "fog", "motion_blur", "contrast", "spatter"):
        ours, published = (
            np.asarray(operator({name: {"published": flag}})(image, 3, seeded(1)), float) for flag in (False, True)
        )
        assert set(np.unique(ours - published)) <= {0.0, 1.0}
        assert 0.2 < (ours - published).mean() < 0.65 or name == "spatter"
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    assert np.array_equal(np.asarray(to_image(to_floats(Image.fromarray(levels)), cut=True)), levels)


def test_every_operator_of_imagenet_c_can_be_asked_for_as_published():
    exact = {"jpeg", "pixelate"}  # nothing in them is rounded by us
    for name in (*IMAGENET_C, *IMAGENET_C_EXTRA):
        assert ("published" in type(operator(name)).model_fields) == (name not in exact)


def test_published_glass_is_copied_not_swapped():
    image = images.texture(0, 60)
    copied, published = (
        operator({"glass_blur": fields})(image, 3, seeded(0)) for fields in ({"mode": "copy"}, {"published": True})
    )
    difference = np.asarray(copied, float) - np.asarray(published, float)
    assert np.abs(difference).max() <= 2
    swapped = operator("glass_blur")(image, 3, seeded(0))
    assert images.psnr(image, swapped) > images.psnr(image, published) + 0.5


@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_elastic_moves_by_the_height_on_both_axes(size):
    down, across, shear = operator("elastic").draw(size, 3, seeded(0))
    assert shear is None
    # Uniform +-0.005 H, smoothed with sigmas 0.01 H and 0.01 W: std / sqrt(4 pi sigma_y sigma_x), times 21.25.
    sigmas = np.array(size) * 0.01
    wanted = 0.005 * size[1] / 3**0.5 / np.sqrt(4 * np.pi * sigmas.prod()) * 21.25
    for field in (down, across):
        assert field.std() == pytest.approx(wanted, rel=0.12)


def test_elastic_with_the_constants_of_the_data_set():
    image = images.texture(1)
    port, data_set = (operator({"elastic": {"constants": name}}) for name in ("port", "data_set"))
    moved = [np.mean([images.psnr(image, each(image, 2, seeded(s))) for s in range(3)]) for each in (port, data_set)]
    assert moved[1] < moved[0] - 5
    down, across, shear = data_set.draw((224, 224), 2, seeded(3))
    # Two fields of +-1 smoothed with sigma 19.52, times 488.
    wanted = 488 / 3**0.5 / (2 * np.pi**0.5 * 19.52)
    assert np.std([down, across]) == pytest.approx(wanted, rel=0.35)
    # The three points come back to where they were.
    assert shear.shape == (2, 3)
    still = sheared((224, 224), 0.0, seeded(0))
    np.testing.assert_allclose(still, [[1, 0, 0], [0, 1, 0]], atol=1e-9)


def test_an_affine_map_mirrors_as_opencv_does():
    picture = np.arange(35, dtype=np.float32).reshape(5, 7)
    points = np.array([(5, 4), (5, 0), (1, 0)], float)
    moved = np.array([(6, 4.5), (4, 0), (1, 1)])
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points).T
    rows, columns = np.indices(picture.shape, dtype=np.float32)
    x, y = (line[0] * columns + line[1] * rows + line[2] for line in back)
    after = remap(picture[..., None], y, x, repeat=False)[..., 0]
    expected = [7.56, 7.0, 6.19, 5.59, 5.0, 7.59, 8.41]  # cv2.warpAffine, which places points on a grid of 1/32
    np.testing.assert_allclose(after[0], expected, atol=0.25)
    np.testing.assert_allclose(after[2], [4.41, 5.94, 8.88, 11.78, 14.91, 17.81, 20.16], atol=0.25)


def test_the_middle_is_stretched_corner_to_corner():
    column = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 3, 1), np.float32)
    after = stretched_middle(column, 5 / 3)  # the middle 3 rows, enlarged to 5
    np.testing.assert_allclose(after[:, 0, 0], [1, 1.5, 2, 2.5, 3], rtol=1e-6)
    assert stretched_middle(column, 1.0).shape == column.shape


# --- water on the lens ------------------------------------------------------------------------------------------------


def liquid():
    """Two round drops and one that the border cuts, in [0,1]."""
    x, y = np.meshgrid(np.arange(56), np.arange(40))
    layer = np.zeros((40, 56), np.float32)
    for cx, cy, radius in ((14, 12, 8), (38, 25, 11), (55, 3, 6)):
        inside = (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
        layer = np.maximum(layer, np.where(inside, 0.7 + (x - cx) / 100, 0).astype(np.float32))
    return layer


def test_the_steps_of_water_are_those_of_opencv():
    found = edges((liquid() * 255).astype(np.uint8), 50, 150)
    assert found.sum() == 134
    assert [np.flatnonzero(found[row]).tolist() for row in (12, 25, 3)] == [[6, 22], [27, 49], [49]]
    far = distances(found)
    assert far.sum() == pytest.approx(11384.715, rel=1e-6)
    np.testing.assert_allclose(
        [far[0, 0], far[12, 14], far[39, 0], far[20, 20], far[39, 55]],
        [9.9938, 7.3938, 21.969, 2.0, 10.5969], atol=1e-4,
    )  # fmt: skip
    spread = equalised(box_mean(np.minimum(far, 20)).astype(np.uint8))
    assert spread.sum() == 276426
    assert spread[12, ::8].tolist() == [167, 37, 167, 74, 107, 74, 139]
    shade = np.rint(box_mean(filtered(spread, RELIEF).astype(np.float32)))
    assert shade.sum() == 307132
    assert shade[25, ::8].tolist() == [236, 241, 255, 11, 255, 157, 8]
    light = drops(liquid())
    assert (light.sum(), light.max()) == (11925463, 45390)


def test_edges_and_distances_of_nothing():
    flat = np.full((6, 7), 90, np.uint8)
    assert not edges(flat, 50, 150).any()
    assert np.isinf(distances(np.zeros((6, 7), bool))).all()
    assert np.array_equal(equalised(flat), flat)
    assert not drops(np.zeros((5, 1), np.float32)).any()


def test_weak_edges_count_only_beside_strong_ones():
    steps = np.zeros((12, 12), np.uint8)
    steps[:, 6:] = 30  # |dx| of 4 * 30 = 120: between the thresholds
    assert not edges(steps, 50, 150).any()
    steps[:4, 6:] = 60  # 240: above the higher one
    assert edges(steps, 50, 150)[:, 5:7].any(axis=1).all()


# --- frost ------------------------------------------------------------------------------------------------------------


def test_frost_from_photographs(tmp_path):
    for number, name in enumerate(Frost.PHOTOGRAPHS):
        Image.new("RGB", (90 + number, 70), (40 * number, 100, 200)).save(tmp_path / name)
    frost = operator({"frost": {"textures": str(tmp_path), "published": True}})
    image = Image.new("RGB", (120, 50), (100, 100, 100))
    seen = set()
    for seed in range(12):
        after = np.asarray(frost(image, 2, seeded(seed)), int)  # 0.8 x + 0.6 T
        assert after.shape == (50, 120, 3)
        assert np.abs(after[..., 1] - (80 + 60)).max() <= 3
        assert np.abs(after[..., 2] - (80 + 120)).max() <= 3
        seen.add(int(after[25, 60, 0]))
    assert len(seen) >= 4
    (tmp_path / "frost3.png").unlink()
    with pytest.raises(ValueError, match=r"textures: .*holds no frost3.png; it must hold frost1.png"):
        operator({"frost": {"textures": str(tmp_path)}})
