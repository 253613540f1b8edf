"""`ccexecctl pause`: stop every process of an execution until it is resumed."""

from argparse import ArgumentParser, Namespace

from ccexecctl import steering

DESCRIPTION = "Stop every process of an execution until it is resumed. Returns when all of them have stopped."

EXAMPLES = """\
example:
  ccexecctl pause 1f0c9b2e
"""


def configure(parser: ArgumentParser) -> None:
    """Add the argument ID."""
    steering.add_ids(parser)


def run(arguments: Namespace) -> int:
    """Pause the executions, and print each when its processes have stopped."""
    return steering.steer(arguments, "PAUSE")
