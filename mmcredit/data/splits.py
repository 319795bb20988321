"""A train/test split that is a fixed function of the text: what is in one can never be in the other."""

from __future__ import annotations

import hashlib

TEST_SHARE = 0.2  # fixed: two entries of a config with different shares could meet


def in_test(text: str) -> bool:
    """Whether `text` belongs to the test split (a fifth of all texts) and not to the train split.

    A hash of the text decides, so neither seed nor size nor the order in which texts are made can move one over.
    """
    number = int.from_bytes(hashlib.sha256(b"split " + text.encode("utf-8", "surrogatepass")).digest()[:6], "big")
    return number < TEST_SHARE * 256**6
