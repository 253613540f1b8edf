"""`ccexecctl drop`: what is held is not to run any more."""

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
    """Add which."""
    steering.add_held(parser)


def run(arguments: Namespace) -> int:
    """Do it, and say with how many."""
    return steering.end_hold(arguments, "drop")
