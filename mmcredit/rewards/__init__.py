"""Rewards: the components that judge answers, and the worker processes in which they run.

Read `base` (what a reward is), a reward (`exact_answer` is the shortest), then how they are run: `pool`, `process`,
`worker`. `equality/` decides for `math_answer`; `ideal` makes the response that a run must be able to pay. Answers are
found and unwrapped by `mmcredit.answers`.
"""
