"""Public files of multimodal benchmarks as samples: `layout` (where files lie, their columns), `table` (rows), `item`
(a row in the common form), `samples`. What benchmarks ask and how they score: `mmcredit.evaluate.benchmarks`."""
