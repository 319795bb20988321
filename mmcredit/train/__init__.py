"""Training: the loop, the update, checkpoints, checks.

Read `loop` (a run, step by step), `sampling` and `prompts` (the rollout stage), `view_passes` (scores), `update` and
`local` (the optimizer), then `checkpoint`, `checks`, `preflight`, `setup`; `metrics`, `progress`, `costs` and
`sample_table` write down what happened.
"""
