"""The pseudo-terminal of one execution, from our side of it: what is typed, and how large it is.

Owns opening a pair and our end that is typed on; the other end is the leader's standard input, output and error, and
controls its session (see `starting`). What is shown on it is read by the pump, like a pipe. Must not know who types.
"""

import contextlib
import fcntl
import os
import struct
import termios
from pathlib import Path

import trio

from ccexecd.core.spec import TerminalSize
from ccexecd.process.standard_input import StandardInput

_IUTF8 = 0o40000
"""Erasing takes whole characters, not bytes (asm-generic/termbits.h); the termios module has no name for it."""

_IFLAG, _LFLAG, _CC = 0, 3, 6  # places in what tcgetattr gives

_LINE_ENDS = b"\r\n"


def open_pair(size: TerminalSize) -> tuple[int, int]:
    """A terminal of this size: our end, non-blocking, and the programs' end.

    The latter is for keeping it there until a program has opened it by its path; it becomes nobody's controlling
    terminal by being held.

    Raises:
        OSError: no descriptors, or no terminals, are left.
    """
    ours, theirs = os.openpty()
    try:
        os.set_blocking(ours, False)
        attributes = termios.tcgetattr(theirs)
        attributes[_IFLAG] |= _IUTF8
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        _set_size(ours, size)
    except (OSError, termios.error) as error:
        os.close(ours)
        os.close(theirs)
        raise OSError(*error.args) from None
    return ours, theirs


def _set_size(fd: int, size: TerminalSize) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.cols, 0, 0))


class Terminal(StandardInput):
    """What one execution reads, where that is a terminal.

    Args:
        execution_id: for what is complained of.
        spawned: set when it runs, or never will.
        size: to begin with.

    Attributes:
        size: at present.
    """

    def __init__(self, execution_id: str, spawned: trio.Event, size: TerminalSize) -> None:
        super().__init__(execution_id, spawned)
        self.size = size
        self._line_is_empty = True

    def resize(self, size: TerminalSize) -> None:
        """Change its size. The kernel tells the foreground processes (SIGWINCH); after the end, there are none."""
        self.size = size
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # EIO: the last program has just gone
                _set_size(self._pipe.fileno(), size)

    async def _write(self, text: bytes, write_id: str | None = None) -> None:
        await super()._write(text, write_id)
        if text:
            self._line_is_empty = text[-1] in _LINE_ENDS

    async def _close(self) -> None:
        """Type the end-of-file character: a terminal has no end, and can be typed on afterwards.

        Where the terminal collects lines, and one has been begun, the first only passes that on (termios(3), VEOF).
        """
        if self._pipe is None:
            return
        try:
            attributes = termios.tcgetattr(self._pipe.fileno())
        except termios.error:  # EIO: the last program has just gone
            return
        end_of_file: bytes = attributes[_CC][termios.VEOF]
        collects_lines = attributes[_LFLAG] & termios.ICANON
        await super()._write(end_of_file * 2 if collects_lines and not self._line_is_empty else end_of_file)
        self._line_is_empty = True


def ignores(pid: int, signum: int) -> bool:
    """Whether a process ignores a signal; one that is gone ignores none. An interactive shell ignores TERM."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
        return bool(ignored & 1 << signum - 1)
    return False
