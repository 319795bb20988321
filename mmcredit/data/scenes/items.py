"""Question number i of a split, made on its own: no other one has to be made before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmcredit.data.scenes.layout import LEVELS, Layout, Lots, Setting
from mmcredit.data.scenes.questions import FORMS, Kind, Question
from mmcredit.data.splits import in_test

Difficulty = Literal["easy", "medium", "hard"]
Split = Literal["train", "test"]
DRAWS = 2000  # of a scene for one question; about 2 are needed for train, 7 for test


def setting_of(
    difficulty: Difficulty = "easy", fewest: int = 2, most: int = 5, layout: Layout | None = None
) -> Setting:
    """The setting of a difficulty, with `fewest` to `most` things a picture. `layout` replaces the difficulty's own."""
    level = LEVELS[difficulty]
    return Setting(level, layout or level.layout, fewest, most)


def make_question(setting: Setting, kinds: Sequence[Kind], seed: int, split: Split, index: int) -> Question:
    """Question `index`: a pure function of the arguments. Kinds take turns, a kind's forms are drawn.

    A scene belongs to `test` (a fifth of all) or to `train` by a hash of its graph, whatever the question, seed and
    setting: the splits share no picture. Raises ValueError if no scene of the split fits the question.
    """
    lots = Lots(seed, "scenes", split, index)
    kind = kinds[index % len(kinds)]
    always, later = FORMS[kind]
    form = lots.one(always if setting.level is LEVELS["easy"] else always + later)
    draft = form(lots, setting)
    for _ in range(DRAWS):
        made = draft.make(lots)
        if made is not None and in_test(made[0].key()) == (split == "test"):
            scene, claims = made
            return Question(kind, form.__name__, draft.text, draft.answer, scene, tuple(claims))
    raise ValueError(
        f"scenes: found no picture for {draft.text!r} with the answer {draft.answer!r} in {DRAWS} draws, with "
        f"{setting.fewest} to {setting.most} objects; lower min_objects or change difficulty"
    )
