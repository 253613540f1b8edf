"""The only code that starts or signals a process.

Begin with `supervisor` (one execution from its pipes to its verified end) and `execution` (its state, log and
watchers). `keeper` is a program of its own, the parent of every command; `keeper_client` is the daemon's side of it.
`pump` reads every pipe. What the keeper imports (`containment`, `control_groups`, `leaves`, `limits`, `starting`,
`packets`, `tree`) needs the standard library only.
"""
