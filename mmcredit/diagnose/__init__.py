"""What training did to a model, token by token.

Read `command`, `models` and `run_samples` (what is compared), then the three questions: `divergence`, `cross_sampling`,
`sparsity`. `output` says and draws what was found.
"""
