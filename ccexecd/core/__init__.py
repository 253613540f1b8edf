"""What is allowed and what happens next: pure decisions. No I/O, no Trio, no clock of its own.

Begin with `execution` (the table of states and events) and `output` (the log of an execution, which every watcher
reads through a `cursor`). `spec` is what an execution is to be. `policy`, `rules` and `redaction` decide what may run
and what may be recorded; `queue` decides whose turn it is; `sessions` decides what a lost connection ends. Whoever
acts on a decision lives in another room.
"""
