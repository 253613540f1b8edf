"""`ccexecctl cancel`: end executions by TERM and, after the grace, KILL."""

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
    """Add the arguments ID and `--grace`."""
    steering.add_ids(parser)
    parser.add_argument(
        "--grace", type=seconds, metavar="TIME", help="between TERM and KILL (default: the execution's own)"
    )


def run(arguments: Namespace) -> int:
    """Cancel the executions, and print each when its last process has been reaped."""
    return steering.steer(arguments, "CANCEL")
