"""Our own terminal while it shows an execution: its mode, its size and the detach key.

Owns the modes and their restoring on every way out, and the keys that are not passed on. Must not know where the other
keys go.

Signals. In raw mode the terminal makes no signals of keys, but others may send some. What would end us restores the
terminal first; TSTP restores it, stops, and takes it again when we go on. KILL cannot be helped, nor can a crash of the
interpreter: `stty sane`.
"""

import atexit
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from ccexecctl.errors import CtlError

KEYBOARD = 0
"""The descriptor of our standard input: the terminal, if it is one."""

USUAL_SIZE = {"cols": 80, "rows": 24}
"""Size that is assumed for a terminal that does not know its own."""

DETACH_KEYS = (b"\x1d", b"\x1b[93;5u", b"\x1b[27;5;93~")
"""Ctrl-], as terminals send it: as a control character, or by the program's wish as a sequence (fixterms, xterm)."""

DETACH_NAME = "Ctrl-]"

LEAVE_SCREEN = b"\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[<u\x1b[>4m\x1b[0m"
"""What a program that we leave may have asked of our terminal, undone: other screen, no cursor, mouse, paste, keys."""

_HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
_STOPPING = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_FAULTS = {signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
"""Signals of our own crashes: a handler in Python would never run, since the faulty instruction is repeated."""

_ENDING = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP} - _HARMLESS - _STOPPING - _FAULTS
"""Signals that end a process by default (signal(7))."""

_CC = 6  # place of the control characters in what tcgetattr gives


class SignalledError(CtlError):
    """A signal told ccexecctl to end while it had the terminal in another mode."""

    name = "SIGNALLED"

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {_name(number)}")
        self.exit_code = 128 + number


def _name(number: int) -> str:
    """Return the name of a signal; a real-time signal has only its number."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def is_terminal(descriptor: int = KEYBOARD) -> bool:
    """Whether a descriptor is a terminal."""
    return os.isatty(descriptor)


def size() -> dict[str, int]:
    """The size of our terminal, as `execute` and `resize_pty` take it; the usual one where there is none."""
    try:
        cols, rows = os.get_terminal_size(KEYBOARD)
    except OSError:
        return dict(USUAL_SIZE)
    return {"cols": cols, "rows": rows} if cols and rows else dict(USUAL_SIZE)


def up_to_detach_key(typed: bytes) -> tuple[bytes, bool]:
    """Return the bytes before the detach key, all if it is not among them, and whether it is."""
    places = [place for key in DETACH_KEYS if (place := typed.find(key)) >= 0]
    return (typed[: min(places)], True) if places else (typed, False)


def leave_screen() -> None:
    """Undo the terminal settings of a program that we leave running."""
    if is_terminal(sys.stdout.fileno()):
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), LEAVE_SCREEN)


@contextmanager
def raw(resized: Callable[[], None]) -> Iterator[None]:
    """Put the terminal into raw mode while the context is open: every key is passed on, output is not changed.

    Args:
        resized: called, perhaps by a signal handler, when the size may have changed.

    Raises:
        SignalledError: a signal told us to end meanwhile.
    """
    mode = _Mode(lambda: tty.setraw(KEYBOARD, termios.TCSADRAIN))
    with mode.taken(), _signals(mode, resized):
        yield


@contextmanager
def by_line() -> Iterator[None]:
    """Keep the terminal in line mode while the context is open, with the detach key as a further end of line."""

    def take() -> None:
        attributes = termios.tcgetattr(KEYBOARD)
        attributes[_CC][termios.VEOL] = DETACH_KEYS[0]
        termios.tcsetattr(KEYBOARD, termios.TCSADRAIN, attributes)

    mode = _Mode(take)
    with mode.taken(), _signals(mode, lambda: None):
        yield


class _Mode:
    """A temporary mode of our terminal.

    Args:
        take: sets the mode.
    """

    def __init__(self, take: Callable[[], object]) -> None:
        self.take = take
        self._before = termios.tcgetattr(KEYBOARD)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Set the mode while the context is open, then restore the earlier one."""
        atexit.register(self.restore)  # a signal may interrupt us in the midst of restoring
        try:
            self.take()
            yield
        finally:
            self.restore()
            atexit.unregister(self.restore)

    def restore(self) -> None:
        """Restore the earlier mode, unless a shell has the terminal in the foreground, which sets its own."""
        with suppress(OSError):  # ENOTTY: a terminal that does not control our session has no foreground
            if os.tcgetpgrp(KEYBOARD) != os.getpgrp():
                return
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(KEYBOARD, termios.TCSADRAIN, self._before)


@contextmanager
def _signals(mode: _Mode, resized: Callable[[], None]) -> Iterator[None]:
    def end(number: int, _: FrameType | None) -> None:
        raise SignalledError(number)

    def stop(_number: int, _: FrameType | None) -> None:
        mode.restore()
        os.kill(os.getpid(), signal.SIGSTOP)

    def go_on(_number: int, _: FrameType | None) -> None:
        mode.take()
        resized()

    wanted: dict[int, Callable[[int, FrameType | None], None]] = {
        **dict.fromkeys(_ENDING, end),
        signal.SIGTSTP: stop,
        signal.SIGCONT: go_on,
        signal.SIGWINCH: lambda *_: resized(),
    }
    # What is ignored stays so, and what is heeded already.
    taken = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, wanted[number])
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
