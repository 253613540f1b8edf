"""Hooks: the operator's own programs, called at events of an execution.

Begin with `register`, which has the hooks in force. `file` reads and checks the hooks file, `calls` calls one hook,
`answer` checks its answer, and `delivery` delivers events and output to hooks that only listen. `entry` calls a Python
entry point as a hook.
"""
