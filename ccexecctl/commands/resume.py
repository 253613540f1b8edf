"""`ccexecctl resume`: let a paused execution go on."""

from argparse import ArgumentParser, Namespace

from ccexecctl import steering

DESCRIPTION = "Let a paused execution go on."

EXAMPLES = """\
example:
  ccexecctl resume 1f0c9b2e
"""


def configure(parser: ArgumentParser) -> None:
    """Add the argument ID."""
    steering.add_ids(parser)


def run(arguments: Namespace) -> int:
    """Resume the executions, and print each when its processes go on."""
    return steering.steer(arguments, "RESUME")
