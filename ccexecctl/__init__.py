"""ccexecctl: the command line by which people and systemd manage ccexecd.

Begin with `__main__` and `arguments`; each verb is a file in `commands`, and talks to the daemon through `client`. The
Python API is in `api`, the self-test in `stress`. Blocking code without Trio, which has to start in 50 ms.
"""
