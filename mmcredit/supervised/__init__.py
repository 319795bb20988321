"""Supervised training on the policy's own forward: what a model shall write after a prompt, and the loop that teaches.

`mmcredit sft` is this package; `mmcredit dpo` (`mmcredit.preference`) goes through the same loop. A target is a row of
`Rollouts` like a sampled response, so layouts, micro-batches, engines and checkpoints are those of RL.
"""
