"""`ccexecctl cancel`: end an execution in the civil way."""

from argparse import ArgumentParser, Namespace

from ccexecctl import steering
from ccexecctl.arguments import seconds

DESCRIPTION = """\
End an execution: TERM to all its processes, KILL after the grace to those that remain. Returns when they have gone;
1 when some have not."""

EXAMPLES = """\
examples:
  ccexecctl cancel 1f0c9b2e
  ccexecctl cancel 1f0c9b2e 77ab0c41 --grace 30
  ccexecctl cancel $(ccexecctl ps --quiet --label job=nightly)
"""


def configure(parser: ArgumentParser) -> None:
    """Add the id and the grace."""
    steering.add_ids(parser)
    parser.add_argument(
        "--grace", type=seconds, metavar="TIME", help="between TERM and KILL (default: the execution's own)"
    )


def run(arguments: Namespace) -> int:
    """Do it, and say so when it is true."""
    return steering.steer(arguments, "CANCEL")
