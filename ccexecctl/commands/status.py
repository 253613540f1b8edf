"""`ccexecctl status`: what the daemon is and does."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ccexecctl import render, versions
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit

DESCRIPTION = "Show the daemon: its pid, address, files and load. Returns 3 when it is not running."

EXAMPLES = """\
examples:
  ccexecctl status
  ccexecctl status --json | jq .executions.live
"""


def configure(_: ArgumentParser) -> None:
    """No options of its own."""


def run(arguments: Namespace) -> int:
    """Print one fact on each line."""
    with connect_to(arguments) as client:
        status = client.call("status")
    render.show(status, _lines(status), as_json=arguments.json)
    versions.compare(status["version"])
    return Exit.DONE


def _lines(status: dict[str, Any]) -> list[str]:
    executions = status["executions"]
    facts = {
        "listening": status["url"],
        "control": status["control_socket"],
        "pidfile": status["pidfile"],
        "state": status["state_dir"],
        "config": status["config_file"] or "none, defaults",
        "log": status["log_file"] or "standard error",
        "sessions": f"{status['sessions']} of {status['max_sessions']}, {status['connections']} connections",
        "executions": "{live} live, {finished} finished, {total_started} started".format_map(executions),
        "memory": render.size(status["memory_bytes"]),
    }
    if "queued" in executions:  # a daemon of an earlier version has none
        facts["queue"] = "{queued} waiting, {max_running} may run at the same time".format_map(executions)
    if executions.get("held"):
        facts["held"] = f"{executions['held']} since the daemon died: ccexecctl release, ccexecctl drop"
    up = render.duration(status["uptime_seconds"])
    first = f"ccexecd {status['version']} is {status['state']} (pid {status['pid']}), up {up}"
    return [first, *(f"  {name:<12}{render.printable(str(fact))}" for name, fact in facts.items())]
