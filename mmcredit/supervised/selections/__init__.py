"""Which target tokens enter the loss of `mmcredit sft`: one file per method."""
