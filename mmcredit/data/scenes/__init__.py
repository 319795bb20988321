"""Procedural pictures with an exact scene graph, questions that need the picture, claims that can be checked."""

from mmcredit.data.scenes.claims import Claim, check, claims, unread
from mmcredit.data.scenes.drawing import draw
from mmcredit.data.scenes.errors import first_error
from mmcredit.data.scenes.graph import Bar, Scene, Thing, Verdict
from mmcredit.data.scenes.items import make_question, setting_of
from mmcredit.data.scenes.questions import KINDS, Kind, Question

__all__ = [
    "KINDS", "Bar", "Claim", "Kind", "Question", "Scene", "Thing", "Verdict", "check", "claims", "draw",
    "first_error", "make_question", "setting_of", "unread",
]  # fmt: skip
