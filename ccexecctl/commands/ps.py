"""`ccexecctl ps`: list the executions."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit

DESCRIPTION = "List the live executions, newest first; --all adds the finished ones that the daemon still knows."

EXAMPLES = """\
examples:
  ccexecctl ps
  ccexecctl ps --all --json | jq -r '.[] | select(.exit_code != 0) | .execution_id'
"""

LIMIT = 100_000
"""Executions that are asked for: all of them. A daemon remembers a thousand and runs what its descriptors allow."""

HEADER = ("ID", "STATE", "PID", "STARTED", "DURATION", "COMMAND")


def configure(parser: ArgumentParser) -> None:
    """Add what to list."""
    parser.add_argument("-a", "--all", action="store_true", help="also those that have finished")


def run(arguments: Namespace) -> int:
    """Print a table, or a list of objects."""
    with connect_to(arguments) as client:
        request = {"state": None if arguments.all else "live", "limit": LIMIT}
        executions = client.call("list", request)["executions"]
    table = render.table(HEADER, map(_row, executions), render.terminal_width())
    render.show(executions, table, as_json=arguments.json)
    return Exit.DONE


def _row(execution: dict[str, Any]) -> tuple[str, ...]:
    return (
        render.short(execution["execution_id"]),
        _state(execution),
        str(execution["pid"] or "-"),
        render.moment(execution["started_at"]),
        render.duration(execution["duration"]),
        execution["command"],
    )


def _state(execution: dict[str, Any]) -> str:
    """The state in lower case; for a finished one how it ended, which says more."""
    match execution:
        case {"state": "FINISHED", "reason": "exited", "exit_code": code}:
            return f"exit {code}"
        case {"state": "FINISHED", "reason": "signaled", "signal": number}:
            return f"signal {number}"
        case {"state": "FINISHED", "reason": str(reason)}:
            return reason
        case {"state": state}:
            return str(state).lower()
    return "-"
