"""Image corruptions with severities and seeds: ImageNet-C's operators and a few more, as components.

    from mmcredit.corruptions import Suite, operator
    operator("jpeg")(image, severity=3, rng=np.random.default_rng(0))
    Suite().draw(seed=0, epoch=0, sample="geo3k/17", view=1).image(image)

Needs numpy and Pillow only. Images are RGB (`mmcredit.data.media.load_image` converts everything else) and keep
their size.
"""

from mmcredit.corruptions.base import SEVERITIES, Corruption, PixelCorruption, corruption_seed
from mmcredit.corruptions.sheet import contact_sheet, run_sheet
from mmcredit.corruptions.suite import IMAGENET_C, IMAGENET_C_EXTRA, Draw, Suite, evaluation_draw, operator

__all__ = [
    "IMAGENET_C",
    "IMAGENET_C_EXTRA",
    "SEVERITIES",
    "Corruption",
    "Draw",
    "PixelCorruption",
    "Suite",
    "contact_sheet",
    "corruption_seed",
    "evaluation_draw",
    "operator",
    "run_sheet",
]
