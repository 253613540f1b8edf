"""Starting the daemon of this user, and knowing that it works.

Owns the start: one attempt by us, or waiting for whoever was faster. A daemon counts as started only when the control
socket answers and the external port does too. Must not print, but for the remark that one was started.

Several may start at the same moment (twenty `ccexecctl run` in a script). The lock on the pidfile decides who is the
daemon; everybody else finds it held, waits for the same answer, and reports success.
"""

import os
import socket
import stat
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ccexecctl import render
from ccexecctl.client import RETRY_INTERVAL, Client, connect
from ccexecctl.errors import CtlError, Exit, NotPermittedError, NotRunningError, UnreachableError
from ccexecctl.place import Place, holder, is_held, locate
from ccexecd.paths import CONTROL_SOCKET_LABEL, absolute

if TYPE_CHECKING:
    import subprocess

START_TIMEOUT = 45.0
"""Seconds from the command to a daemon that answers. Longer than ccexecd's own patience, which gives a reason."""

DAEMON = ("-P", "-m", "ccexecd")
"""Arguments of the interpreter. -P: a module in the caller's directory must not be taken for one of the daemon's."""

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # compared, not bound
"""Where to reach a daemon that listens on every address."""


OTHER_PORT = "on a free port: ccexecctl start --port 0; for good: the key port of your configuration file"
"""Hint for when another daemon, such as that of the machine, has the port: verbs that start a daemon have no --port."""


class Launched(NamedTuple):
    """A daemon that answers on both sockets.

    Attributes:
        is_new: this process has started it; otherwise it was running, or another process was faster.
        status: its answer to `status`.
        place: where it answers.
    """

    is_new: bool
    status: dict[str, Any]
    place: Place


def daemon_flags(arguments: Namespace, place: Place) -> list[str]:
    """The flags that make ccexecd use the place that ccexecctl was told to look at."""
    flags = ["--state-dir", str(absolute(arguments.state_dir))] if arguments.state_dir else []
    return flags + (["--control-socket", str(place.sockets[0])] if place.is_named else [])


def connect_or_launch(arguments: Namespace) -> Client:
    """Connect to the daemon; start one first if none runs and no particular one was named."""
    place = locate(arguments)
    try:
        return connect(place, arguments.timeout)
    except (NotRunningError, NotPermittedError):
        if place.is_named:
            raise
    own = place.own()
    launched = launch(own, daemon_flags(arguments, own), arguments.timeout)
    if launched.is_new:
        render.remark(f"started ccexecd (pid {launched.status['pid']})")
    return connect(launched.place, arguments.timeout)


def launch(
    place: Place, flags: list[str], timeout: float | None = None, environ: Mapping[str, str] | None = None
) -> Launched:
    """Make sure that the daemon of this place runs and answers.

    Args:
        place: where it is, without the fall-back to the machine's daemon (`Place.own`).
        flags: flags of `ccexecd`, for when it has to be started.
        timeout: seconds until it has to answer; None for the default.
        environ: environment of the new daemon; None for our own.

    Raises:
        CtlError: it cannot be started, with the reason that it gave, or does not answer.
    """
    deadline = time.monotonic() + (START_TIMEOUT if timeout is None else timeout)
    while True:
        is_new = False
        if not is_running(place):
            place, is_new = _spawn(place, flags, deadline, environ)
        try:
            status = _await_answer(place, deadline)
        except NotRunningError as error:
            if is_new or time.monotonic() > deadline:
                raise CtlError("ccexecd started, but ended at once", f"its log: {place.paths.log_file}") from error
            continue  # the one we waited for has failed or ended: now it is our turn
        if status["state"] != "draining":
            _check_door(status["address"], deadline, is_tls=status.get("url", "").startswith("wss:"))
            return Launched(is_new, status, place)
        await_end(Path(status["pidfile"]), status["pid"], deadline)


def is_running(place: Place) -> bool:
    """Whether a daemon of this place is there, be it still starting or already ending."""
    return any(map(is_held, place.pidfiles))


def await_end(path: Path, pid: int, deadline: float) -> None:
    """Wait until a daemon has let go of its lock: the last thing it does, and what the next one needs.

    Args:
        path: its pidfile.
        pid: the daemon that is to end; another one that holds the lock by then is no concern of ours.
        deadline: when to give up, on the monotonic clock.

    Raises:
        UnreachableError: it still holds it.
    """
    while holder(path) == pid:
        if time.monotonic() > deadline:
            raise UnreachableError(f"ccexecd (pid {pid}) has not ended yet", "end it with: ccexecctl stop --force")
        time.sleep(RETRY_INTERVAL)


def require_valid(flags: list[str], environ: Mapping[str, str], timeout: float | None = None) -> None:
    """Have `ccexecd` check the configuration that it would be started with.

    Args:
        flags: for `ccexecd`.
        environ: environment of the new daemon.
        timeout: seconds that the check may take; None for the default.

    Raises:
        CtlError: it could not be started, with all that is wrong.
    """
    deadline = time.monotonic() + (START_TIMEOUT if timeout is None else timeout)
    attempt = _call([*flags, "--check"], deadline, environ)
    if attempt.returncode:
        raise _explain(attempt.stderr, attempt.returncode)


def _spawn(place: Place, flags: list[str], deadline: float, environ: Mapping[str, str] | None) -> tuple[Place, bool]:
    """Run `ccexecd`, which returns when the daemon is ready.

    Returns:
        Where the daemon answers, as it has told; whether it is new: False when somebody else's was faster.
    """
    _require_access(place.paths.state_dir)
    attempt = _call(flags, deadline, environ)
    if attempt.returncode == 0:
        told = attempt.stdout.rstrip("\n").partition(CONTROL_SOCKET_LABEL)[2]
        return (place._replace(sockets=[Path(told)]) if told else place), True
    if is_running(place) or _answers(place):
        return place, False
    raise _explain(attempt.stderr, attempt.returncode)


def _call(flags: list[str], deadline: float, environ: Mapping[str, str] | None) -> "subprocess.CompletedProcess[str]":
    import subprocess  # noqa: PLC0415  # only a start pays for it

    try:
        return subprocess.run(  # noqa: S603  # our own daemon, found next to ourselves, with the operator's own flags
            [sys.executable, *DAEMON, *flags],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding=sys.getfilesystemencoding(),
            errors="surrogateescape",  # a path in it may be anything
            env=environ,
            timeout=max(deadline - time.monotonic(), RETRY_INTERVAL),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnreachableError("ccexecd did not become ready in time", "its log may tell more") from error


def _require_access(state_dir: Path) -> None:
    """Check that this user may use a state directory, before anything below it is tried.

    Raises:
        NotPermittedError: it may not be searched or written.
    """
    try:
        is_ours = not stat.S_ISDIR(state_dir.stat().st_mode) or os.access(state_dir, os.W_OK | os.X_OK)
    except PermissionError:
        is_ours = False
    except OSError:  # it is missing, so it will be made; or it cannot be one, and ccexecd says why
        return
    if not is_ours:
        raise NotPermittedError(
            f"the state directory {state_dir} is not accessible: permission denied",
            "choose another with --state-dir DIR, or be its owner",
        )


def _answers(place: Place) -> bool:
    """Whether a daemon answers here although the lock is free, because its pidfile is configured to lie elsewhere."""
    with suppress(CtlError), connect(place):
        return True
    return False


def _explain(said: str, returncode: int) -> CtlError:
    """Turn the output of a failed `ccexecd` into an error with message and hint."""
    lines = [line.removeprefix("ccexecd: ") for line in said.splitlines() if line.strip()]
    hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
    reasons = [line for line in lines if not line.startswith("hint: ")] or [f"it exited with {returncode}"]
    if not hints and "address already in use" in reasons[0]:
        hints = [OTHER_PORT]
    error = CtlError("cannot start ccexecd: " + "\n  ".join(reasons), "\n  ".join(hints))
    if returncode == Exit.USAGE:
        error.exit_code = Exit.USAGE
    return error


def _await_answer(place: Place, deadline: float) -> dict[str, Any]:
    while True:
        try:
            with connect(place, max(deadline - time.monotonic(), RETRY_INTERVAL)) as client:
                client.call("health")
                status: dict[str, Any] = client.call("status")
                return status
        except NotRunningError:
            # The client looked at the lock beside the socket only; one that was named may lie elsewhere.
            if not is_running(place) or time.monotonic() > deadline:
                raise
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
        time.sleep(RETRY_INTERVAL)


def _check_door(address: str, deadline: float, *, is_tls: bool = False) -> None:
    """Send a health check to the external port, as a client on this machine would.

    Raises:
        UnreachableError: nothing answers there, or not as a healthy daemon does.
    """
    host, _, port = address.rpartition(":")
    host = WILDCARDS.get(host.strip("[]"), host.strip("[]"))
    name = f"[{host}]" if ":" in host else host
    request = f"GET /health HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n"
    status_line = b""
    with (
        suppress(OSError),
        socket.create_connection((host, int(port)), max(deadline - time.monotonic(), 1.0)) as plain,
        _wrapped(plain) if is_tls else plain as connection,
        connection.makefile("rb") as answer,
    ):
        connection.sendall(request.encode())
        status_line = answer.readline(100)
    if not status_line.startswith(b"HTTP/1.1 200"):
        raise UnreachableError(
            f"ccexecd answers on its control socket, but {'https' if is_tls else 'http'}://{address}/health does not",
            "does something else, a firewall for instance, stand before that port?",
        )


def _wrapped(plain: socket.socket) -> socket.socket:
    """Begin TLS without checking the certificate: the control socket has named this port, so the daemon is known."""
    import ssl  # noqa: PLC0415  # 20 ms

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)
