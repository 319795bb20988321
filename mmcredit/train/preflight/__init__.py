"""`mmcredit check`: what a run would drop, pay, sample, take and trip over, said before it starts.

Read in this order: `look` puts everything together; `samples` reads a set, `payment` asks the rewards about ideal
responses, `fit` whether model, config and data belong together (the training loop asks it too), `activations` measures
the model, `machine` the memory that is free, `memory` makes an estimate of both; `page` prints, `command` is the
command.
"""
