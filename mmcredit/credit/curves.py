"""Schedules over training that several credit methods share."""

from __future__ import annotations

import math
from typing import Literal

Curve = Literal["linear", "sigmoid", "gamma"]

SIGMOID_STEEPNESS = 8.0  # RLVR-Schedule's k


def decay(curve: Curve, done: float, start: float = 1.0, gamma: float = 2.0) -> float:
    """From `start` at done <= 0 to 0 at done >= 1.

    linear: start*(1-u); gamma: (start*(1-u))^gamma, with `start` inside the power; sigmoid: start times a logistic
    curve of steepness 8, shifted and scaled to run from 1 to 0. Source: arXiv 2605.25381, released code.
    """
    u = min(1.0, max(0.0, done))
    if curve == "gamma":
        return (start * (1 - u)) ** gamma
    if curve == "linear":
        return start * (1 - u)
    return start * (_logistic(u) - _logistic(1)) / (_logistic(0) - _logistic(1))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(SIGMOID_STEEPNESS * (x - 0.5)))
