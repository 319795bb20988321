"""What training did to a model, token by token: divergence of checkpoints, cross-sampling, tokenisation drift."""
