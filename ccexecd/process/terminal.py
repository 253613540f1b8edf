"""The pseudo-terminal of one execution, from the daemon's side: its input and its size.

Owns opening a pair, and the daemon's end that input is written to. The other end is the leader's standard input, output
and error, and controls its session (see `starting`). The pump reads the output, as from a pipe. Must not know who
writes.
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
"""Flag that makes erase work on characters, not bytes (asm-generic/termbits.h); termios has no name for it."""

_IFLAG, _LFLAG, _CC = 0, 3, 6  # indices into the result of tcgetattr

_LINE_ENDS = b"\r\n"


def open_pair(size: TerminalSize) -> tuple[int, int]:
    """Open a terminal of this size; returns our end, non-blocking, and the program's end.

    The program's end only keeps the terminal alive until a program has opened it by its path. To hold it makes it
    nobody's controlling terminal.

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
    """The standard input of an execution that runs on a terminal.

    Args:
        execution_id: its id, for error messages.
        spawned: set when the execution has started, or could not be started.
        size: initial size, in rows and columns.

    Attributes:
        size: present size.
    """

    def __init__(self, execution_id: str, spawned: trio.Event, size: TerminalSize) -> None:
        super().__init__(execution_id, spawned)
        self.size = size
        self._line_is_empty = True

    def resize(self, size: TerminalSize) -> None:
        """Change the size. The kernel sends SIGWINCH to the foreground processes; after the end it has no effect."""
        self.size = size
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # EIO: the last program has just gone
                _set_size(self._pipe.fileno(), size)

    async def _write(self, text: bytes, write_id: str | None = None) -> None:
        await super()._write(text, write_id)
        if text:
            self._line_is_empty = text[-1] in _LINE_ENDS

    async def _close(self) -> None:
        """Write the end-of-file character; more can be written afterwards, since a terminal has no end.

        In canonical mode, after an unfinished line, the first one only passes that line on (VEOF, termios(3)).
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
    """Whether a process ignores a signal, as interactive shells do with TERM; False if the process has ended."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
        return bool(ignored & 1 << signum - 1)
    return False
