"""Preference optimisation over per-token log-probs: DPO and losses that weigh tokens, on the policy of RL.

A pair is two rows of `Rollouts` with one prompt, so the shared layout computes that prompt once. `mmcredit dpo` is this
package; the loop is that of `mmcredit.supervised`.
"""
