"""`ccexecctl kill`: end executions by KILL, at once."""

from argparse import ArgumentParser, Namespace

from ccexecctl import steering

DESCRIPTION = """\
End an execution at once: KILL to all its processes, which cannot clean up. Returns when they have gone; 1 when some
have not."""

EXAMPLES = """\
example:
  ccexecctl kill 1f0c9b2e
"""


def configure(parser: ArgumentParser) -> None:
    """Add the argument ID."""
    steering.add_ids(parser)


def run(arguments: Namespace) -> int:
    """Kill the executions, and print each when its last process has been reaped."""
    return steering.steer(arguments, "KILL")
