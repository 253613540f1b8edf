"""`ccexecctl stats`: how long past executions took, in percentiles."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ccexecctl import render
from ccexecctl.arguments import seconds
from ccexecctl.client import connect_to
from ccexecctl.commands.history import CATEGORIES
from ccexecctl.errors import Exit

DESCRIPTION = """\
Show how long programs took, in percentiles of the runs that came to their end by themselves, successfully. The others
are counted, those that a time-out ended apart."""

EXAMPLES = """\
examples:
  ccexecctl stats --by category --since 7d
  ccexecctl stats --by form --category agent --json | jq '.groups[0].p95'
"""

HEADER = ("RUNS", "ENDED WELL", "TIMED OUT", "P50", "P90", "P95", "P99", "LONGEST", "TOTAL", "NAME")


def configure(parser: ArgumentParser) -> None:
    """Add the options that choose executions, and how these are grouped."""
    parser.add_argument(
        "--by",
        choices=("category", "program", "form"),
        default="program",
        metavar="WHAT",
        help="tell them apart by category, program or form (default: program)",
    )
    parser.add_argument("--category", choices=CATEGORIES, metavar="NAME", help=f"of one sort: {', '.join(CATEGORIES)}")
    parser.add_argument("--since", type=seconds, metavar="TIME", help="finished within so long: 24h, 7d")


def run(arguments: Namespace) -> int:
    """Print a table, or an object."""
    request = {"by": arguments.by, "category": arguments.category, "since": arguments.since}
    with connect_to(arguments) as client:
        told = client.call("stats", request)
    lines = render.table(HEADER, map(_row, told["groups"]), render.terminal_width())
    render.show(told, lines, as_json=arguments.json)
    return Exit.DONE


def _row(group: dict[str, Any]) -> tuple[str, ...]:
    spans = (group[name] for name in ("p50", "p90", "p95", "p99", "longest", "total_seconds"))
    counts = (str(group[name]) for name in ("runs", "complete", "timed_out"))
    return (*counts, *map(render.duration, spans), group["name"] or "-")
