"""What a run writes down, and the pages a person opens to see what training did.

Read `records` (the files of a run) with `files` and `samples` (responses with the credit of each token), then the page:
`page`, `summary`, `gallery`, `glossary`. `comparison` puts several runs on one page; `pieces` is the text of tokens.
"""

from mmcredit.report.comparison import render_comparison
from mmcredit.report.page import render

__all__ = ["render", "render_comparison"]
