"""Quantities per token that other rooms ask for by name, one file each. Read `base`, then `plan` (from what is needed
to the passes that are run)."""
