"""`ccexecctl release`: let what is held run after all."""

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
    """Add which."""
    steering.add_held(parser)


def run(arguments: Namespace) -> int:
    """Do it, and say with how many."""
    return steering.end_hold(arguments, "release")
