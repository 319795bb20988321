"""Everything of this package that a config can name. The entry point `mmcredit.components` loads this module."""

from prm.perceval import Perceval

__all__ = ["Perceval"]
