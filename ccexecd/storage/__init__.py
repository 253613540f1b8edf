"""What outlives the process: files and databases in the state directory.

Begin with `archive`, which puts together the `spool` (output: one `stored_log` for each execution) and the `history`
(SQLite: what is known of executions). `recovery` completes the history from the logs after a crash. `audit` is a
hash-chained record of decisions; `notary` writes signed receipts, and `verification` holds executions against them.
"""
