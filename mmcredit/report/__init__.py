"""What a run writes down (`records`), and the pages a person opens to see what training did."""

from mmcredit.report.comparison import render_comparison
from mmcredit.report.page import render

__all__ = ["render", "render_comparison"]
