"""What a run writes down, and the pages a person opens to see what training did.

Read `records` (the files of a run) with `files` and `samples` (responses with the credit of each token), then the page:
`page`, `summary`, `gallery`, `glossary`. `comparison` puts several runs on one page, which `arms` sorts and `aggregate`
adds up; `pieces` is the text of tokens.
"""

from mmcredit.report.comparison import compare
from mmcredit.report.page import render

__all__ = ["compare", "render"]
