"""The model, and the only place where it is run for scores.

Read `load` and `policy` (what other rooms call), `passes` (views and outputs), `encode` and `prompt`, then a pass:
`batching`, `layout`, `forward`, `attention`, `vision`, `scores`. Views of a prompt: `shown`, `views`, `pixels`,
`teacher`. Checks: `agreement`, `tokenisation`; `costs` counts.
"""
