"""Ends the daemon of this user, and makes sure that it has ended.

Owns the order of steps: ask over the control socket, wait until the lock of the pidfile is free, and, only with
`--force`, send signals. Must not print. The daemon has ended when its lock is free: its pid may vanish before that, and
be another process's after.
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
"""Seconds that the release of the lock may take after the daemon's answer, or after a signal."""

LOSS_PATIENCE = 1.0
"""Seconds that the release of the lock may take after the connection was lost, if that means that the daemon died."""


class Stopped(NamedTuple):
    """A daemon that has ended.

    Attributes:
        pid: its pid.
        manner: `stopped` as asked for, or ended by the signal TERM (`terminated`) or KILL (`killed`).
        ended: the executions that it ended, as its report describes them; None if it ended without a report.
    """

    pid: int
    manner: str
    ended: list[dict[str, Any]] | None


def configure(parser: ArgumentParser) -> None:
    """Add the options that all verbs which end the daemon share."""
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
        place: where the daemon is.
        arguments: with the options of `configure`, and `timeout`.

    Returns:
        How the daemon ended; None if none was running.

    Raises:
        UnreachableError: the daemon does not answer or has not ended in time, and `--force` is not set or did not help.
        NotPermittedError: the daemon, or the kernel, does not permit this to this user.
        RefusedError: the daemon refused to stop.
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
    """Add to the hint of an error about a daemon that does not answer how to end it by signals."""
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
            # The daemon may have died meanwhile, which is an end as well; the lock tells.
            await_end(path, pid, time.monotonic() + LOSS_PATIENCE)
            return Stopped(pid, "stopped", None)
    await_end(path, pid, time.monotonic() + EXIT_PATIENCE)
    return Stopped(pid, "stopped", ended)


def _request(client: Client, arguments: Namespace) -> list[dict[str, Any]]:
    """Ask the daemon to stop, and wait for its report, which comes when the last execution has ended."""
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
