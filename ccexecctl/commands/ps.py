"""`ccexecctl ps`: list the executions."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit
from ccexecctl.execution import ending

DESCRIPTION = "List the live executions, newest first; --all adds the finished ones that the daemon still knows."

EXAMPLES = """\
examples:
  ccexecctl ps
  ccexecctl ps --tree                       each with its processes below it
  ccexecctl ps --label job=nightly          those that `run --label job=nightly` has begun
  ccexecctl cancel $(ccexecctl ps --quiet)
  ccexecctl ps --all --json | jq -r '.[] | select(.exit_code != 0) | .execution_id'
"""

LIMIT = 10_000
"""Executions that are asked for: the highest `limit` that is allowed, and more than a reply holds."""

HEADER = ("ID", "STATE", "PID", "STARTED", "DURATION", "CPU", "MEM", "PROCS", "COMMAND")


def configure(parser: ArgumentParser) -> None:
    """Add the options that choose executions and columns."""
    parser.add_argument("-a", "--all", action="store_true", help="also those that have finished")
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids and nothing else")
    parser.add_argument("--label", metavar="K[=V]", help="only those with this label")
    parser.add_argument("--tree", action="store_true", help="draw the processes of each below it")


def run(arguments: Namespace) -> int:
    """Print a table, or a list of objects."""
    with connect_to(arguments) as client:
        request = {"state": None if arguments.all else "live", "label": arguments.label, "limit": LIMIT}
        reply = client.call("list", {**request, "resources": True, "tree": arguments.tree or None})
    executions = reply["executions"]
    lines = [each["execution_id"] for each in executions] if arguments.quiet else _table(executions)
    render.show(executions, lines, as_json=arguments.json)
    if reply.get("truncated"):
        render.remark(f"these are the newest {len(executions)}; `ccexecctl status` tells how many there are")
    if "missing" in reply:
        render.remark(f"not listed: {reply['missing']}")
    return Exit.DONE


def _table(executions: list[dict[str, Any]]) -> list[str]:
    width = render.terminal_width()
    header, *rows = render.table(HEADER, map(_row, executions), width)
    lines = [header]
    for row, execution in zip(rows, executions, strict=True):
        lines += [row, *_processes(execution, width)]
    return lines


def _processes(execution: dict[str, Any], width: int | None) -> list[str]:
    """Return the processes of an execution as a tree; nothing if they were not asked for."""
    told = execution.get("processes", [])
    untold = execution.get("process_count", 0) - len(told)
    return render.tree(told, width) + ([f"  and {untold} more"] if told and untold > 0 else [])


def _row(execution: dict[str, Any]) -> tuple[str, ...]:
    has_begun = execution["pid"] is not None
    has_use = has_begun and "memory_bytes" in execution
    return (
        render.short(execution["execution_id"]),
        _state(execution),
        str(execution["pid"] or "-"),
        render.moment(execution["started_at"]),
        render.duration(execution["duration"] if has_begun else None),
        render.duration(execution["cpu_seconds"] if has_use else None),
        render.size(execution["memory_bytes"]) if has_use else "-",
        str(execution["process_count"]) if has_use else "-",
        execution["command"],
    )


def _state(execution: dict[str, Any]) -> str:
    """Return the state of an execution in lower case, or how it ended if it has finished."""
    match execution:
        case {"state": "FINISHED", "reason": str(reason), "exit_code": code}:
            return ending(reason, code)
        case {"state": "QUEUED", "queue_position": int(position)}:
            return f"queued {position}" + (f" ({execution['lane']})" if execution.get("lane") else "")
        case {"state": state}:
            return str(state).lower()
    return "-"
