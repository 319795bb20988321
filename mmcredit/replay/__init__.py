"""What other credit methods would have made of frozen rollouts (`mmcredit replay`).

Read `compare` (the command), `methods` (which pipelines), `model` (the policy and its passes), `gradient`, then what is
left behind: `numbers`, `files`, `page`. The frozen batches themselves: `mmcredit.frozen`.
"""
