"""Credit against the truth (`mmcredit audit`): what a sampled token is really worth, and how near each method comes.

Read `estimate` (values and advantages from continuations, no model in it), `states` (the points of frozen responses),
`bench` (the model that goes on from them) and `exact` (enumeration in place of sampling); then `measures` and
`gradients` (a credit against the truth), `collect` (rollouts to audit), `work` (a batch through all of it), `command`
(all batches, resumable), `board` (the numbers), `output`.
"""
