"""What is asked in an evaluation, and the answers as they come.

Read `questions` (the held-out set or a benchmark), `cells` (each question on clean and corrupted images),
`settings` (all that decides the answers), `answer_lines` (answers as JSON lines, picked up again after a kill).
"""
