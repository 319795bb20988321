"""Sampling: from prompts to a batch of responses.

Read `engine` (what an engine is: requests in, responses out), `batch` (what is asked and what comes back), `collate`
(responses as `Rollouts`), `reward_item` (what a reward sees of a response), then `drawing/` (how a token is drawn),
`engines/` and `strategies/` (layers around sampling).
"""
