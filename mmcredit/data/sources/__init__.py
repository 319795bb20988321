"""Data sources: components of kind `source`, each of which loads a sequence of samples."""

from mmcredit.data.sources.base import Source, TableSource

__all__ = ["Source", "TableSource"]
