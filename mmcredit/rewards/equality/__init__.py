"""Whether two final answers say the same, decided by the kind of answer. Read `clean` (one spelling), `kinds` (what an
answer is), `compare` (like with like), `value` (what an expression is worth)."""
