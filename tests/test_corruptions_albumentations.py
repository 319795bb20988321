"""The family `albumentations` with the library itself (extra `vision`); the suite's tests have a stand-in."""

from __future__ import annotations

import corruption_images as images
import numpy as np
import pytest

from mmcredit.corruptions.suite import Suite

pytest.importorskip("albumentations")


def by_severity(values):
    return {"by_severity": [[value, value] for value in values]}


PIPELINES = {
    "noise": [{"name": "GaussNoise", "params": {"std_range": by_severity((0.05, 0.1, 0.15, 0.2, 0.3))}}],
    "fog and compression": [
        {"name": "RandomFog", "params": {"fog_coef_range": [0.4, 0.4], "alpha_coef": 0.2}},
        {"name": "ImageCompression", "params": {"quality_range": by_severity((50, 35, 20, 12, 6))}},
    ],
    "blur": [{"name": "GaussianBlur", "params": {"blur_limit": 0, "sigma_limit": by_severity(range(1, 6))}}],
}


def operator(transforms):
    return Suite(seen=[{"albumentations": transforms}], unseen=[]).seen[0]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_is_seeded_keeps_the_size_and_hurts_more_with_severity(name):
    corruption, image = operator(PIPELINES[name]), images.texture(0, 96)
    made = [corruption(image, severity, np.random.default_rng(0)) for severity in range(1, 6)]
    assert {m.size for m in made} == {image.size}
    assert (np.diff([images.psnr(image, m) for m in made]) < 0).all()
    assert images.same(corruption(image, 3, np.random.default_rng(0)), made[2])
    frames = corruption.apply_frames([image, image], 3, np.random.default_rng(0))
    assert images.same(frames[0], frames[1])


def test_a_transform_that_crops_is_refused():
    with pytest.raises(ValueError, match="the size must stay"):
        operator([{"name": "RandomCrop", "params": {"height": 10, "width": 10}}])(
            images.texture(0, 40), 1, np.random.default_rng(0)
        )


def test_a_wrong_argument_is_named():
    with pytest.raises(ValueError, match="std_rang"):
        operator([{"name": "GaussNoise", "params": {"std_rang": [0.1, 0.1]}}])(
            images.texture(0, 40), 1, np.random.default_rng(0)
        )
