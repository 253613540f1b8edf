"""`ccexecctl drop`: end executions that are held, without running them."""

from argparse import ArgumentParser, Namespace

from ccexecctl import steering

DESCRIPTION = """\
End an execution that is held: it never runs, and counts as cancelled. What waited for its turn when the daemon died is
held by the next one; what runs or waits is not touched."""

EXAMPLES = """\
examples:
  ccexecctl ps                    what is held
  ccexecctl drop 1f0c9b2e
  ccexecctl drop --all
"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments: one held execution, or all."""
    steering.add_held(parser)


def run(arguments: Namespace) -> int:
    """Drop the executions, and print how many were dropped."""
    return steering.end_hold(arguments, "drop")
