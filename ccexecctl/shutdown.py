"""Ending the daemon of this user, and knowing that it has ended.

Owns the order: ask over the control socket, wait until the lock is free, and, only when told to, force it. Must not
print. The lock is what counts, not the pid: a pid may vanish before, or be somebody else's after.
"""

import signal
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NamedTuple

from ccexecctl.arguments import seconds
from ccexecctl.client import Client, connect
from ccexecctl.errors import NotPermittedError, NotRunningError, UnreachableError
from ccexecctl.launch import await_end, is_running
from ccexecctl.place import Place, holder
from ccexecd import pidfile

EXIT_PATIENCE = 10.0
"""Seconds from the daemon's answer (or a signal) to the release of its lock."""

LOSS_PATIENCE = 1.0
"""Seconds between the loss of the connection and that of the lock, when the daemon has died."""


class Stopped(NamedTuple):
    """A daemon that has ended.

    Attributes:
        pid: which it was.
        manner: `stopped` as it should, or by the signal TERM (`terminated`) or KILL (`killed`).
        ended: the executions that it ended on the way; None when it went without a report.
    """

    pid: int
    manner: str
    ended: list[dict[str, Any]] | None


def configure(parser: ArgumentParser) -> None:
    """The options of every verb that ends the daemon."""
    parser.add_argument(
        "--drain", type=seconds, metavar="TIME", help="let executions finish by themselves first, for 60 (seconds), 5m"
    )
    parser.add_argument("--grace", type=seconds, metavar="TIME", help="between TERM and KILL for those that remain")
    parser.add_argument(
        "--force", action="store_true", help="when it does not answer or end in time: signal it, TERM first, then KILL"
    )


def stop(place: Place, arguments: Namespace) -> Stopped | None:
    """End the daemon.

    Args:
        place: which one.
        arguments: with the options of `configure`.

    Returns:
        How it went; None when it was not running.

    Raises:
        UnreachableError: it does not answer, or has not ended in time, and force was not allowed.
        RefusedError: it will not.
    """
    try:
        return _ask(place, arguments)
    except NotRunningError:
        return None
    except UnreachableError as error:
        if not arguments.force:
            propose_force(error, arguments)
            raise
        return _force(place)


def propose_force(error: UnreachableError, arguments: Namespace) -> None:
    """Tell what can be done about a daemon that does not answer, where nobody has yet."""
    if "--force" not in error.hint:
        force = f"ccexecctl {arguments.verb} --force"
        error.hint = f"{error.hint}; or end it by signals: {force}" if error.hint else f"end it by signals: {force}"


def _ask(place: Place, arguments: Namespace) -> Stopped:
    with connect(place, arguments.timeout) as client:
        status = client.call("status")
        pid, path = status["pid"], Path(status["pidfile"])
        try:
            ended = _request(client, arguments)
        except UnreachableError:
            # It may have died on the way, which is an end too; the lock tells.
            await_end(path, pid, time.monotonic() + LOSS_PATIENCE)
            return Stopped(pid, "stopped", None)
    await_end(path, pid, time.monotonic() + EXIT_PATIENCE)
    return Stopped(pid, "stopped", ended)


def _request(client: Client, arguments: Namespace) -> list[dict[str, Any]]:
    """Ask for the end and wait for the report, which comes when the last execution has ended."""
    config = client.call("config")["config"]
    drain = config["drain_timeout"] if arguments.drain is None else arguments.drain
    grace = config["process_cleanup_timeout"] if arguments.grace is None else arguments.grace
    report = client.call("stop", {"drain": arguments.drain, "grace": arguments.grace}, extra=drain + grace)
    ended: list[dict[str, Any]] = report["ended"]
    return ended


def _force(place: Place) -> Stopped | None:
    held = next(((path, pid) for path in place.pidfiles if (pid := holder(path)) is not None), None)
    if held is None and is_running(place):
        raise UnreachableError("a daemon is only just starting, and has no pid yet", "try again when it has started")
    if held is None:
        return None
    path, pid = held
    for number, manner in ((signal.SIGTERM, "terminated"), (signal.SIGKILL, "killed")):
        try:
            pidfile.signal_daemon(path, number)
            await_end(path, pid, time.monotonic() + EXIT_PATIENCE)
        except PermissionError as error:
            raise NotPermittedError(f"cannot signal ccexecd (pid {pid}): it is another user's", "try sudo") from error
        except UnreachableError:
            continue
        return Stopped(pid, manner, None)
    raise UnreachableError(
        f"ccexecd (pid {pid}) outlived SIGKILL", "it hangs in the kernel; look for its state D in ps"
    )
