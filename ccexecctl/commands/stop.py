"""`ccexecctl stop`: end the daemon and everything it runs, and return when it has ended."""

from argparse import Namespace
from typing import Any

from ccexecctl import render, shutdown
from ccexecctl.errors import Exit
from ccexecctl.place import locate

DESCRIPTION = """\
End ccexecd. Executions that run get TERM, then after the grace KILL; what was ended is listed. Returns when the
daemon has gone. One that is not running counts as stopped: exit code 0."""

EXAMPLES = """\
examples:
  ccexecctl stop
  ccexecctl stop --drain 60      let executions finish by themselves for a minute
  ccexecctl stop --force         also when it does not answer
"""

configure = shutdown.configure


def run(arguments: Namespace) -> int:
    """End the daemon, and print which executions it has ended."""
    stopped = shutdown.stop(locate(arguments).own(), arguments)
    if stopped is None:
        render.show({"result": "not_running"}, ["ccexecd is not running"], as_json=arguments.json)
        return Exit.DONE
    render.show(
        {"result": stopped.manner, "pid": stopped.pid, "ended": stopped.ended},
        [f"ccexecd {stopped.manner} (pid {stopped.pid})", *report(stopped.ended)],
        as_json=arguments.json,
    )
    return Exit.DONE


def report(ended: list[dict[str, Any]] | None) -> list[str]:
    """Return lines for people about the executions that a daemon has ended; None stands for no report."""
    if ended is None:
        return ["it went without a report of what it ended"]
    return [
        f"ended {render.short(each['execution_id'])} ({each['reason']}): {render.printable(each['command'])}"
        for each in ended
    ]
