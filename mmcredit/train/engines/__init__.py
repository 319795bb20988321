"""Training engines behind the protocol of `mmcredit.train.engine`: `local` (one process) and `deepspeed` (several)."""
