"""`ccexecctl history`: past executions, how long they took, and how they ended."""

import argparse
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from ccexecctl import render
from ccexecctl.arguments import seconds
from ccexecctl.client import Client, connect_to
from ccexecctl.errors import Exit
from ccexecctl.execution import ending

DESCRIPTION = """\
List finished executions with their durations, newest first, from the daemon's history. `--csv` is for spreadsheets: a
cell that one would take for a formula has an apostrophe in front, and control characters are escaped."""

EXAMPLES = """\
examples:
  ccexecctl history -n 20
  ccexecctl history --category agent --since 24h
  ccexecctl history --csv -n 10000 > runs.csv
  ccexecctl history --json | jq '.[] | select(.reason == "timeout")'
"""

CATEGORIES = ("agent", "test", "build", "install", "transfer", "check", "script", "shell", "brief", "other")
"""The categories of commands, as in docs/protocol.md."""

HEADER = ("ID", "FINISHED", "TOOK", "ENDED", "LOAD", "CATEGORY", "COMMAND")

MOST_AT_ONCE = 1000
"""Executions that one request asks for at most; a reply holds about as many."""


def configure(parser: ArgumentParser) -> None:
    """Add the options that choose executions, and the form of the output."""
    parser.add_argument("-n", "--limit", type=_count, default=100, metavar="N", help="the last N (default: 100)")
    parser.add_argument("--category", choices=CATEGORIES, metavar="NAME", help=f"of one sort: {', '.join(CATEGORIES)}")
    parser.add_argument("--program", metavar="NAME", help="of one program, as `stats` names it")
    parser.add_argument("--reason", metavar="NAME", help="ended so: exited, timeout, cancelled and so on")
    parser.add_argument("--since", type=seconds, metavar="TIME", help="finished within so long: 24h, 7d")
    parser.add_argument("--csv", action="store_true", help="print CSV")


def _count(text: str) -> int:
    """Argparse type of a number of executions, at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of executions")
    return int(text)


def run(arguments: Namespace) -> int:
    """Print a table, a list of objects, or CSV."""
    with connect_to(arguments) as client:
        found = _read(client, arguments)
    if arguments.csv and not arguments.json:
        _print_csv(found)
    else:
        lines = render.table(HEADER, map(_row, found), render.terminal_width())
        render.show(found, lines, as_json=arguments.json)
    return Exit.DONE


def _read(client: Client, arguments: Namespace) -> list[dict[str, Any]]:
    """Return the executions that were asked for, by as many requests as that takes."""
    found: list[dict[str, Any]] = []
    request = {name: getattr(arguments, name) for name in ("category", "program", "reason", "since")}
    before = None
    while len(found) < arguments.limit:
        limit = min(arguments.limit - len(found), MOST_AT_ONCE)
        reply = client.call("history", {**request, "before": before, "limit": limit})
        found += reply["executions"]
        before = reply["before"]
        if not reply["executions"] or (len(reply["executions"]) < limit and not reply["truncated"]):
            break
    return found


def _row(execution: dict[str, Any]) -> tuple[str, ...]:
    load = execution["load"]
    return (
        render.short(execution["execution_id"]),
        render.moment(_stamp(execution["finished_at"])),
        render.duration(execution["duration"]),
        ending(execution["reason"], execution["exit_code"]),
        f"{load:.0f} %" if load is not None else "-",
        execution["category"] or "-",
        execution["command"],
    )


def _stamp(moment: float) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415  # only tables pay for it

    return datetime.fromtimestamp(moment, UTC).isoformat()


def _print_csv(found: list[dict[str, Any]]) -> None:
    import csv  # noqa: PLC0415  # few ask for it

    columns = list(found[0]) if found else ["execution_id"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for execution in found:
        writer.writerow([_cell(execution[column]) for column in columns])


def _cell(value: Any) -> Any:
    """Return a value for a cell of CSV. Text that begins like a formula of a spreadsheet gets a quote in front."""
    if not isinstance(value, str):
        return value
    text = render.printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
