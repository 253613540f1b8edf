"""A terminal as a person has it: a program on it, what it shows, and keys.

Owns the pseudo-terminal and the program. Must not know what is tested.
"""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

PATIENCE = 20.0
"""Seconds until what is waited for is taken as not coming."""

_ON_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Makes our terminal the one that controls a program's session, and becomes the program. A terminal is no nohup."""

_LOOK = 0.01  # seconds between two looks


class Screen:
    """One terminal with one program.

    Args:
        command: the program, and its words.
        environ: its environment.
        rows: the size.
        cols: the size.
        popen: more about the program, its standard output for instance.

    Attributes:
        process: the program.
        seen: everything that it has shown.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], rows: int = 30, cols: int = 100, **popen: Any
    ) -> None:
        self._ours, self._theirs = os.openpty()
        self.resize(rows, cols)
        self.modes_before = self.modes()
        self.seen = b""
        streams = {"stdin": self._theirs, "stdout": self._theirs, "stderr": self._theirs, **popen}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _ON_TERMINAL, *command],
            env=environ,
            start_new_session=True,
            **streams,
        )
        self._wake, self._waker = os.pipe()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.hang_up()

    def type(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def resize(self, rows: int, cols: int) -> None:
        """Another size."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def hang_up(self) -> None:
        """Close the window."""
        if self._watcher.is_alive():
            os.close(self._waker)
            self._watcher.join()
            for fd in (self._ours, self._theirs, self._wake):
                os.close(fd)

    def modes(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self._theirs)

    @property
    def is_raw(self) -> bool:
        """Whether keys come as they are typed."""
        return not self.modes()[3] & (termios.ICANON | termios.ISIG | termios.ECHO)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a condition, and give what it gave."""
        ends = time.monotonic() + PATIENCE
        while not (met := condition()):
            assert time.monotonic() < ends, f"in vain: waited until {what}; there is {self.seen[-500:]!r}"
            time.sleep(_LOOK)
        return met

    def shows(self, text: str, times: int = 1) -> None:
        """Wait until it has shown something, so many times."""
        self.until(lambda: self.seen.count(text.encode()) >= times, f"{text!r} is shown {times} times")

    def ends(self) -> int:
        """Wait for the program's end. Returns its exit code."""
        self.until(lambda: self.process.poll() is not None, "it ends")
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Signal the program."""
        self.process.send_signal(number)

    def _watch(self) -> None:
        """We hold the other end, too: what is shown has no end before the window is closed."""
        while self._wake not in (ready := select.select([self._ours, self._wake], [], [])[0]):
            if ready:
                self.seen += os.read(self._ours, 65536)
