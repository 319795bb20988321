"""Training a verifier: annotated responses (`annotate`), filters and balance (`filters`), training (`sft`)."""
