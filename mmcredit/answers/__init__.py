"""Final answers as text: found in a response, taken out of their wrapping, brought to one spelling. No judging.

Read `extract` (where the answer of a response stands), `references` (the accepted answers of an item), then the
spellings: `latex_text`, `expression`, `prm_grade`. Data, rewards and evaluation all read answers with these.
"""
