"""What a view of the prompt shows, as settings: read when a config is checked, without torch.

`images` declares the masked and the corrupted view, `teacher` the prompt with a hint. Methods and regularizers name
them in `Needs.views`; `mmcredit.policy` makes the prompts.
"""
