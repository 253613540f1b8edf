"""`ccexecctl release`: let executions that are held wait for their turn again."""

from argparse import ArgumentParser, Namespace

from ccexecctl import steering

DESCRIPTION = """\
Let an execution that is held run after all. What waited for its turn when the daemon died is held by the next one, and
nothing of it starts by itself. It gets the turn that it would have had; whether it may run is judged anew."""

EXAMPLES = """\
examples:
  ccexecctl ps                    what is held
  ccexecctl release 1f0c9b2e
  ccexecctl release --all
"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments: one held execution, or all."""
    steering.add_held(parser)


def run(arguments: Namespace) -> int:
    """Release the executions, and print how many were released."""
    return steering.end_hold(arguments, "release")
