"""Whether two final answers say the same, decided by the kind of answer. Read `clean` (one spelling), `kinds` and
`units` (what an answer is), `compare` (like with like), `value` and `arithmetic` (what an expression is worth)."""
