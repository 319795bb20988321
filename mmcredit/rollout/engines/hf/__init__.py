"""The engine `hf`: sampling from the training model itself.

Read `component` (what it promises, its fields in `settings`), `engine` (a call from requests to responses), then what
it is made of: `waves` (requests cut to memory), `prefill` (prompts read once), `loop` (a token a step) over `cache`,
`attention` and `decoder` (the parts of the policy).
"""

from mmcredit.rollout.engines.hf.component import HF

__all__ = ["HF"]
