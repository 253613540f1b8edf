"""What the daemon tells systemd, and what systemd hands to it; everywhere else all of this does nothing.

Owns the notification protocol of sd_notify(3) and the socket activation protocol of sd_listen_fds(3). Must not decide
when the daemon is ready.
"""

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

FIRST_FD = 3
"""The first descriptor that is handed over: SD_LISTEN_FDS_START in sd_listen_fds(3)."""

SEND_TIMEOUT = 1.0
"""Seconds that a notification may wait for a busy systemd; the event loop waits with it."""

_VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
)


class Notifier:
    """Tells the service manager how the daemon is; silent when there is none.

    Every method returns whether the notification was sent. One that cannot be sent is no reason to end.

    Args:
        environ: read once, here; so `forget` may follow.

    Attributes:
        watchdog_interval: seconds from one call of `watchdog` to the next; None when nobody watches.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _socket_address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval = _watchdog_interval(environ) if self._address else None

    def ready(self, status: str = "") -> bool:
        """Tell that the start, or a reload, is complete.

        Args:
            status: one line for `systemctl status`.
        """
        return self._send("READY=1", f"MAINPID={os.getpid()}", *_status(status))

    def reloading(self) -> bool:
        """Tell that a reload has begun; `ready` ends it."""
        # The time stamp lets systemd tell this reload's READY from an earlier one's (Type=notify-reload).
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> bool:
        """Tell that the shutdown has begun."""
        return self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> bool:
        """Show one line in `systemctl status`."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """Tell that the event loop is alive."""
        return self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> bool:
        """Ask for more time, from now on, than the start or stop time-out of the unit gives."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def _send(self, *assignments: str) -> bool:
        if self._address is None or not assignments:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(SEND_TIMEOUT)
                sender.sendto("\n".join(assignments).encode(errors="replace"), self._address)
        except OSError:
            return False
        return True


def listen_fds(environ: Mapping[str, str] = os.environ) -> dict[str, list[int]]:
    """Return the sockets that systemd opened for this process, by `FileDescriptorName=`; unnamed ones as "unknown".

    They are marked not to be inherited by programs that the daemon starts. Call this before any fork: the descriptors
    are meant for one process id.

    Raises:
        OSError: one of them is not open.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()) or not environ.get("LISTEN_FDS", "").isdigit():
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[int]] = {}
    for index in range(int(environ["LISTEN_FDS"])):
        os.set_inheritable(FIRST_FD + index, False)
        name = names[index] if index < len(names) else ""
        found.setdefault(name or "unknown", []).append(FIRST_FD + index)
    return found


def forget(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove the variables of both protocols once they were read.

    A program that inherits them would notify systemd in the daemon's name, or take the daemon's sockets for its own.
    """
    for variable in _VARIABLES:
        environ.pop(variable, None)


def _socket_address(text: str) -> str | None:
    if text.startswith("@"):
        return "\0" + text[1:]  # in the abstract namespace
    return text if text.startswith("/") else None  # vsock: addresses speak to the host of a virtual machine


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return a third of the time-out, so that two notifications in a row may be late."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    is_ours = environ.get("WATCHDOG_PID", "") in {"", str(os.getpid())}
    return int(microseconds) / 1_000_000 / 3 if is_ours and microseconds.isdigit() and int(microseconds) else None


def _status(text: str) -> list[str]:
    # A line feed would begin another assignment: whatever is shown must not be able to say STOPPING=1.
    return [f"STATUS={' '.join(text.split())}"] if text else []
