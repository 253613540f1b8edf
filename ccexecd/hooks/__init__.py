"""The operator's own programs, called at events of an execution.

Begin with `register`, which has the hooks in force. `file` reads and checks the configuration of hooks, `calls` runs
one hook, `answer` checks what it said, and `telling` brings events and output to those that only listen.
"""
