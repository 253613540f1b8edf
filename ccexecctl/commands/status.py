"""`ccexecctl status`: print the status of the daemon, or of one execution."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ccexecctl import execution, render, steering, versions
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit

DESCRIPTION = """\
Show the daemon: its pid, address, files and load. With an ID: an execution, finished or not, and what is known of an
agent: its model, cost and tools, how it went, and how to go on with it. Returns 3 when the daemon is not running."""

EXAMPLES = """\
examples:
  ccexecctl status
  ccexecctl status --json | jq .executions.live
  ccexecctl status 1f0c9b2e
  ccexecctl status 1f0c9b2e --json | jq .agent.verdict
"""


def configure(parser: ArgumentParser) -> None:
    """Add the argument ID, which may be left out."""
    steering.add_id(parser, required=False)


def run(arguments: Namespace) -> int:
    """Print one fact on each line."""
    if arguments.execution_id is not None:
        with connect_to(arguments) as client:
            found = client.call("status", {"execution_id": arguments.execution_id})
        render.show(found, execution.lines(found), as_json=arguments.json)
        return Exit.DONE
    with connect_to(arguments) as client:
        status = client.call("status")
    render.show(status, _lines(status), as_json=arguments.json)
    versions.compare(status["version"])
    return Exit.DONE


def _lines(status: dict[str, Any]) -> list[str]:
    executions = status["executions"]
    connections = render.counted(status["connections"], "connection")
    facts = {
        "listening": status["url"],
        "control": status["control_socket"],
        "pidfile": status["pidfile"],
        "state": status["state_dir"],
        "config": status["config_file"] or "none, defaults",
        "log": status["log_file"] or "standard error",
        "sessions": f"{status['sessions']} of {status['max_sessions']}, {connections}",
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
