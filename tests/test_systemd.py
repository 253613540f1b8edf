"""The talk with systemd, over a real datagram socket, and the silence without it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccexecd import systemd
from ccexecd.systemd import Notifier, forget, listen_fds


class Manager:
    """Stands in for systemd: receives what is sent to NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(address.replace("@", "\0"))
        self.environ = {"NOTIFY_SOCKET": address}

    def heard(self) -> list[str]:
        return self.socket.recv(65536).decode().split("\n")


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path: Path) -> Iterator[Manager]:
    """A service manager that listens at a path or in the abstract namespace."""
    manager = Manager(str(tmp_path / "notify") if request.param == "path" else f"@ccexecd-test-{os.getpid()}")
    yield manager
    manager.socket.close()


def test_ready(manager: Manager):
    """READY comes with the pid of the daemon and a line for people."""
    assert Notifier(manager.environ).ready("listening on 127.0.0.1:8003") is True
    assert manager.heard() == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=listening on 127.0.0.1:8003"]


def test_reload(manager: Manager):
    """A reload is announced with the monotonic time, in microseconds, at which it began."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert Notifier(manager.environ).reloading()
    reloading, stamp = manager.heard()
    assert reloading == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_stop_status_watchdog_and_extension(manager: Manager):
    """The other notifications are worded as sd_notify(3) has them."""
    notifier = Notifier(manager.environ)
    assert notifier.stopping("ending 3 executions")
    assert manager.heard() == ["STOPPING=1", "STATUS=ending 3 executions"]
    assert notifier.status("busy")
    assert manager.heard() == ["STATUS=busy"]
    assert notifier.watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    assert notifier.extend(1.5)
    assert manager.heard() == ["EXTEND_TIMEOUT_USEC=1500000"]


def test_status_cannot_say_more_than_status(manager: Manager):
    """Text with line feeds, such as a command, makes no further assignment."""
    Notifier(manager.environ).status("running\nSTOPPING=1\rx\ud800")
    assert manager.heard() == ["STATUS=running STOPPING=1 x?"]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234"])
def test_silent_without_a_manager(address: str):
    """Without an address that can be used nothing is sent, and nothing raised."""
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not notifier.ready("x")
    assert not notifier.status("")
    assert notifier.watchdog_interval is None
    assert not Notifier({}).stopping()


def test_manager_that_is_gone(tmp_path: Path):
    """A notification that cannot be delivered is reported, not raised."""
    assert Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready() is False


def test_busy_manager_is_not_waited_for_long(manager: Manager, monkeypatch):
    """When the manager's queue is full, the daemon goes on after a bounded time."""
    monkeypatch.setattr(systemd, "SEND_TIMEOUT", 0.05)
    notifier = Notifier(manager.environ)
    started = time.monotonic()
    while notifier.watchdog():
        assert time.monotonic() - started < 60
    assert notifier.watchdog() is False


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval(variables: dict[str, str], interval: float | None):
    """The watchdog is fed three times per time-out, and only by the process that it watches."""
    assert Notifier({"NOTIFY_SOCKET": "/x", **variables}).watchdog_interval == interval


LISTEN = """
import os, sys
os.environ["LISTEN_PID"] = sys.argv[1] if len(sys.argv) > 1 else str(os.getpid())
from ccexecd.systemd import listen_fds
found = listen_fds()
print(found, [os.get_inheritable(fd) for fds in found.values() for fd in fds])
"""


def activated(variables: dict[str, str], *arguments: str) -> str:
    """Start a program as systemd does with three sockets, and return what `listen_fds` found."""
    environ = {"PATH": os.environ["PATH"], **variables}
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        # pass_fds keeps numbers and makes no room: a shell puts the sockets where systemd would.
        fds = (first.fileno(), second.fileno(), third.fileno())
        moves = " ".join(f"{3 + index}>&{fd}" for index, fd in enumerate(fds, 10))
        moves += " " + " ".join(f"{3 + index}>&{13 + index}" for index in range(3))
        command = ["bash", "-c", f'exec {moves}; exec "$@"', "bash", sys.executable, "-c", LISTEN, *arguments]
        told = subprocess.run(command, env=environ, pass_fds=fds, capture_output=True, text=True, check=True)
    return told.stdout.strip()


def test_sockets_are_found_by_name():
    """Handed over sockets are grouped by name, and programs that the daemon starts do not inherit them."""
    told = activated({"LISTEN_FDS": "3", "LISTEN_FDNAMES": "ws:control:ws"})
    assert told == "{'ws': [3, 5], 'control': [4]} [False, False, False]"


def test_sockets_without_names():
    """Sockets without a name are there as unknown ones."""
    assert activated({"LISTEN_FDS": "2"}).startswith("{'unknown': [3, 4]}")
    assert activated({"LISTEN_FDS": "3", "LISTEN_FDNAMES": "ws:"}).startswith("{'ws': [3], 'unknown': [4, 5]}")


def test_sockets_of_another_process():
    """Variables that were meant for another process, or make no sense, hand over nothing."""
    assert activated({"LISTEN_FDS": "3"}, "1") == "{} []"
    assert activated({"LISTEN_FDS": "many"}) == "{} []"
    assert activated({}) == "{} []"


def test_missing_socket_is_an_error():
    """A descriptor that was announced and is not open is not taken for a socket."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        listen_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "100000"})


def test_children_do_not_inherit_the_conversation(manager: Manager):
    """After `forget` no variable is left with which a child could speak for the daemon; the notifier still works."""
    environ = {
        **manager.environ,
        "WATCHDOG_PID": "1",
        "WATCHDOG_USEC": "1",
        "LISTEN_PID": "1",
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "x",
        "PATH": "/bin",
    }
    notifier = Notifier(environ)
    forget(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier.ready()
    forget(environ)


def test_nothing_is_left_open(manager: Manager):
    """Notifying opens no descriptor that stays."""
    notifier = Notifier(manager.environ)
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(10):
        notifier.watchdog()
    assert set(Path("/proc/self/fd").iterdir()) == before
