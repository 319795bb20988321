"""Corruption operators against plain formulas: constants, kernels, resampling, height maps, masks."""

import colorsys

import corruption_images as images
import numpy as np
import pytest

from mmcredit.corruptions import operator
from mmcredit.corruptions.base import to_floats, to_image
from mmcredit.corruptions.filters import correlate, disk, fast_length, gaussian, height_map, one_sided_line, remap
from mmcredit.corruptions.operators.blur import ZoomBlur, shuffled
from mmcredit.corruptions.operators.noise import diffusion_level
from mmcredit.corruptions.operators.occlusion import patch_mask


def seeded(seed):
    return np.random.default_rng(seed)


def flat(value, side=200):
    return np.full((side, side, 3), value, np.float32)


def corrupted(name, pixels, severity, seed=0):
    """The operator on numbers, before clipping."""
    corruption = operator(name)
    rng = seeded(seed)
    size = (pixels.shape[1], pixels.shape[0])
    return corruption.corrupt(pixels.astype(np.float32), severity, corruption.draw(size, severity, rng), rng)


def test_an_image_survives_the_way_to_numbers_and_back():
    image = images.noise(16, 16)
    assert images.same(to_image(to_floats(image)), image)


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        ("gaussian_noise", lambda s, x: (0.08, 0.12, 0.18, 0.26, 0.38)[s - 1]),
        ("speckle_noise", lambda s, x: (0.15, 0.2, 0.35, 0.45, 0.6)[s - 1] * x),
        ("shot_noise", lambda s, x: (x / (60, 25, 12, 5, 3)[s - 1]) ** 0.5),
    ],
)
def test_spread_of_the_noises(name, spread):
    for severity in range(1, 6):
        difference = corrupted(name, flat(0.4), severity) - 0.4
        # 120,000 values: the standard deviation is known to 0.2%, the mean to std / 346.
        assert difference.std() == pytest.approx(spread(severity, 0.4), rel=0.02)
        assert abs(difference.mean()) < 5 * difference.std() / 346


def test_impulses_are_half_black_half_white_and_per_channel():
    for severity, share in enumerate((0.03, 0.06, 0.09, 0.17, 0.27), start=1):
        after = corrupted("impulse_noise", flat(0.4), severity)
        assert (after == 0).mean() == pytest.approx(share / 2, rel=0.1)
        assert (after == 1).mean() == pytest.approx(share / 2, rel=0.1)
        assert (after == np.float32(0.4)).mean() == pytest.approx(1 - share, rel=0.01)
        assert not np.array_equal(after[..., 0], after[..., 1])


@pytest.mark.parametrize(
    ("step", "signal", "deviation"),
    [(0, 0.999989, 0.004726), (100, 0.998293, 0.058406), (250, 0.989134, 0.147018), (400, 0.944860, 0.327476),
     (499, 0.864103, 0.503314), (999, 0.285042, 0.958515)],
)  # fmt: skip
def test_diffusion_levels_of_noisy_rollout(step, signal, deviation):
    assert diffusion_level(step) == pytest.approx((signal, deviation), abs=1e-6)
    after = operator({"diffusion_noise": {"step": step}}).corrupt(flat(0.5), 1, None, seeded(0))
    assert after.mean() == pytest.approx(signal * 0.5, abs=0.02)
    assert after.std() == pytest.approx(deviation, rel=0.02)


def test_diffusion_steps_end_at_999():
    with pytest.raises(ValueError, match="from 0 to 999, got 1000"):
        diffusion_level(1000)
    with pytest.raises(ValueError, match="step: .*less than 1000, got 1000"):
        operator({"diffusion_noise": {"step": 1000}})


def test_contrast_of_two_pixels():
    pixels = np.array([[[0.2, 0.4, 0.6]], [[0.8, 0.4, 0.2]]])
    expected = [[[112.2, 102, 112.2]], [[142.8, 102, 91.8]]]
    np.testing.assert_allclose(corrupted("contrast", pixels, 3) * 255, expected, rtol=1e-5)


def test_brightness_and_saturate_are_those_of_hsv():
    rng = seeded(0)
    colours = rng.random((6, 50, 3))
    colours[0, :5] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 0, 0.3]]
    for severity in range(1, 6):
        plus = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
        a, b = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
        brighter, stronger = np.empty_like(colours), np.empty_like(colours)
        for place in np.ndindex(colours.shape[:2]):
            hue, saturation, value = colorsys.rgb_to_hsv(*colours[place])
            brighter[place] = colorsys.hsv_to_rgb(hue, saturation, min(1, value + plus))
            stronger[place] = colorsys.hsv_to_rgb(hue, min(1, saturation * a + b), value)
        np.testing.assert_allclose(corrupted("brightness", colours, severity), brighter, atol=2e-6)
        np.testing.assert_allclose(corrupted("saturate", colours, severity), stronger, atol=2e-6)


def test_pixelate_makes_blocks_of_their_mean():
    image = images.noise(10, 6)
    after = np.asarray(operator("pixelate")(image, 2, seeded(0)), float)
    blocks = np.asarray(image, float).reshape(3, 2, 5, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(after, blocks.repeat(2, axis=0).repeat(2, axis=1), atol=1.01)  # Pillow rounds twice


def test_zoom_factors_are_those_of_the_reference_arange():
    last = [1 + (number - 1) * distance for number, distance in ZoomBlur.ZOOMS]
    assert [number for number, _ in ZoomBlur.ZOOMS] == [12, 16, 11, 13, 11]
    np.testing.assert_allclose(last, [1.11, 1.15, 1.20, 1.24, 1.30])


def test_motion_kernel():
    weights = np.exp(-(np.arange(21) ** 2) / 18)
    kernel = one_sided_line(10, 3, 0)
    assert kernel.shape == (1, 41)
    np.testing.assert_allclose(kernel[0, 20:], weights / weights.sum(), rtol=1e-5)
    slanted = one_sided_line(10, 3, 45)
    assert slanted.shape == (29, 29)
    assert slanted.sum() == pytest.approx(1, abs=1e-5)
    assert (slanted[:14] == 0).all()  # one-sided


def test_defocus_disk():
    for radius, alias in ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)):
        kernel = disk(radius, alias)
        assert kernel.shape == (2 * max(8, radius) + 1,) * 2
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(kernel, kernel[::-1].T, atol=1e-7)
    # 29 points lie in a disk of radius 3; an edge softened by 0.1 pixels is as good as sharp.
    np.testing.assert_allclose(disk(3, 0.1).max(), 1 / 29, rtol=1e-4)


@pytest.mark.parametrize("border", ["edge", "reflect", "symmetric"])
@pytest.mark.parametrize("size", [(7, 9), (1, 5), (2, 2)])
def test_correlation_by_fourier_is_the_plain_sum(border, size):
    rng = seeded(1)
    pixels = rng.random((*size, 3)).astype(np.float32)
    kernel = rng.random((5, 3)).astype(np.float32)
    padded = np.pad(pixels, ((2, 2), (1, 1), (0, 0)), mode=border)
    expected = sum(kernel[i, j] * padded[i : i + size[0], j : j + size[1]] for i in range(5) for j in range(3))
    np.testing.assert_allclose(correlate(pixels, kernel, border), expected, atol=1e-5)


def test_gaussian_blur_keeps_a_point_and_has_its_width():
    point = np.zeros((101, 101), np.float32)
    point[50, 50] = 1
    blurred = gaussian(point, 4.0)
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert (blurred.sum(0) * (np.arange(101) - 50) ** 2).sum() ** 0.5 == pytest.approx(4, rel=0.01)
    assert np.array_equal(gaussian(point, 0.0), point)


def test_fast_lengths():
    smooth = sorted(2**a * 3**b * 5**c for a in range(12) for b in range(8) for c in range(6))
    for length in range(1, 1500):
        assert fast_length(length) == next(n for n in smooth if n >= length)


def test_remap_at_whole_places_picks_pixels_and_mirrors_outside():
    pixels = seeded(0).random((4, 5, 3)).astype(np.float32)
    rows, columns = np.indices((4, 5), dtype=np.float32)
    np.testing.assert_array_equal(remap(pixels, rows, columns), pixels)
    mirrored = np.pad(pixels, ((2, 0), (0, 0), (0, 0)), mode="symmetric")[:4]
    np.testing.assert_array_equal(remap(pixels, rows - 2, columns), mirrored)
    halfway = remap(pixels, rows[:3] + 0.5, columns[:3])
    np.testing.assert_allclose(halfway, (pixels[:3] + pixels[1:]) / 2, rtol=1e-6)


def test_elastic_moves_by_about_a_pixel_and_is_smooth():
    down, across, _ = operator("elastic").draw((224, 224), 1, seeded(0))
    # Uniform +-1.12 has 0.647, smoothing with sigma 2.24 divides it by 2 sqrt(pi) 2.24, the strength is 12.5.
    for field in (down, across):
        assert field.std() == pytest.approx(0.647 / (2 * np.pi**0.5 * 2.24) * 12.5, rel=0.1)
        assert np.abs(np.diff(field, axis=0)).mean() < 0.5 * field.std()


def test_glass_swaps_or_copies_pixels_within_reach():
    width, height, reach = 30, 20, 2
    swapped = shuffled((width, height), reach, 1, True, seeded(0))
    assert sorted(swapped) == list(range(width * height))
    assert (swapped != np.arange(width * height)).mean() > 0.5
    copied = shuffled((width, height), reach, 1, False, seeded(0))
    assert len(set(copied)) < width * height
    # With a reach of 1 offsets are -1 and 0: every source is up or left, by one pixel.
    rows, columns = np.divmod(shuffled((width, height), 1, 1, False, seeded(0)).reshape(height, width), width)
    down, across = rows - np.indices(rows.shape)[0], columns - np.indices(rows.shape)[1]
    offsets = set(zip(down.ravel().tolist(), across.ravel().tolist(), strict=True))
    assert offsets == {(0, 0), (0, -1), (-1, 0), (-1, -1)}


def test_glass_as_published_hurts_more_at_1_than_at_2():
    picture = images.texture(0)
    first, second = (
        images.psnr(picture, operator({"glass_blur": {"mode": "copy"}})(picture, severity, seeded(0)))
        for severity in (1, 2)
    )
    assert first < second


def test_height_map_covers_its_range_and_gets_rougher_with_less_decay():
    rough = []
    for decay in (2.0, 1.7, 1.4):
        field = height_map((256, 256), decay, seeded(0))
        assert (field.min(), field.max()) == (0, 1)
        rough.append(np.abs(np.diff(field, axis=0)).mean())
    assert rough[0] < rough[1] < rough[2]
    assert height_map((100, 3), 2.0, seeded(0)).shape == (3, 100)


def test_fog_formula():
    pixels = images.noise(20, 10)
    fog = operator("fog")
    drawn = fog.draw((20, 10), 2, seeded(1))
    x = to_floats(pixels)
    np.testing.assert_allclose(
        fog.corrupt(x, 2, drawn, seeded(0)), (x + 2 * drawn) * x.max() / (x.max() + 2), rtol=1e-5
    )


def test_occlusion_blackens_whole_tiles_with_the_given_probability():
    mask = patch_mask((140 * 14 + 5, 50 * 14), 14, 0.6, seeded(0))
    assert mask.shape == (700, 1965)
    tiles = mask[:, :1960].reshape(50, 14, 140, 14)
    assert (tiles.any(axis=(1, 3)) == tiles.all(axis=(1, 3))).all()
    assert tiles.mean() == pytest.approx(0.6, abs=0.03)
    image = images.texture(0, 60)
    blackened = np.asarray(operator({"occlusion": {"probability": 0.5, "patch_size": 7}})(image, 1, seeded(2)))
    hit = patch_mask((60, 60), 7, 0.5, seeded(2))
    assert (blackened[hit] == 0).all()
    assert np.array_equal(blackened[~hit], np.asarray(image)[~hit])
    everything = operator({"occlusion": {"probability": 1.0}})(image, 1, seeded(0))
    assert not np.asarray(everything).any()
    assert images.same(operator({"occlusion": {"probability": 0.0}})(image, 5, seeded(0)), image)
