"""Our own terminal: its modes and how they come back, its size, and the key that is ours.

Programs are run on a terminal of the test's, so that what is set there can be looked at from outside.
"""

import os
import signal
import sys
import termios
from pathlib import Path

import pytest

from ccexecctl import terminal
from tests.screen import Screen

ENV = {"PATH": os.environ["PATH"]}


def on_screen(code: str) -> Screen:
    """Python code on a terminal."""
    program = f"import os, signal, sys, time\nfrom ccexecctl import terminal\n{code}"
    return Screen((sys.executable, "-c", program), {**ENV, "PYTHONPATH": str(Path(terminal.__file__).parents[1])})


TAKEN = """
with terminal.raw(lambda: os.write(1, f'resized {{terminal.size()}}\\r\\n'.encode())):  # in the middle of a print, too
    print('taken', end='\\r\\n', flush=True)
    {}
print('left')
"""


def test_every_key_is_passed_and_nothing_shown_is_changed():
    """Control characters make no signals, keys come one by one, a line feed stays one; and then all is as before."""
    with on_screen(TAKEN.format("print(repr(os.read(0, 1)), end='\\n'); sys.stdout.flush(); time.sleep(0)")) as screen:
        screen.shows("taken")
        assert screen.is_raw
        screen.type("\x03")
        screen.shows("b'\\x03'\n")
        assert screen.ends() == 0
        screen.shows("left\r\n")
        assert b"'\r\n" not in screen.seen
        assert screen.modes() == screen.modes_before


@pytest.mark.parametrize("leaving", ["sys.exit(3)", "raise KeyboardInterrupt", "1 / 0"])
def test_an_exception_restores_it(leaving):
    """However it is left."""
    with on_screen(TAKEN.format(leaving)) as screen:
        assert screen.ends() != 0
        assert screen.modes() == screen.modes_before


def test_an_exit_without_unwinding_restores_it_too():
    """What is taken and never given back, because somebody exits in between, is restored at exit."""
    with on_screen("mode = terminal.raw(lambda: None); mode.__enter__(); print('taken')") as screen:
        assert screen.ends() == 0
        assert screen.modes() == screen.modes_before


SPARED = {
    *("SIGKILL", "SIGSTOP"),  # cannot be caught
    *("SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGTSTP", "SIGTTIN", "SIGTTOU"),  # end nobody
    *("SIGPIPE", "SIGXFSZ"),  # Python ignores them
    *("SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"),  # crashes
}


@pytest.mark.parametrize("number", sorted(signal.valid_signals() - {getattr(signal, name) for name in SPARED}))
def test_a_signal_that_ends_us_restores_it(number):
    """All that can be caught, those of real time, too."""
    with on_screen(TAKEN.format("time.sleep(1000)")) as screen:
        screen.shows("taken")
        screen.signal(number)
        assert screen.ends() != 0
        assert screen.modes() == screen.modes_before


def test_what_was_ignored_stays_ignored():
    """Under nohup, a hang-up is none."""
    code = f"signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{TAKEN.format('os.read(0, 1)')}"
    with on_screen(code) as screen:
        screen.shows("taken")
        screen.signal(signal.SIGHUP)
        screen.type("x")
        assert screen.ends() == 0


def test_its_size_and_that_it_has_changed():
    """As the methods of the daemon take it; told by the signal."""
    with on_screen(TAKEN.format("os.read(0, 1)")) as screen:
        screen.shows("taken")
        screen.resize(rows=12, cols=34)
        screen.shows("resized {'cols': 34, 'rows': 12}")


def test_without_a_size_it_is_the_usual_one(monkeypatch):
    """A serial line knows none, and neither does a pipe."""
    monkeypatch.setattr(os, "get_terminal_size", lambda _: (0, 0))
    assert terminal.size() == {"cols": 80, "rows": 24}
    monkeypatch.undo()
    monkeypatch.setattr(terminal, "KEYBOARD", os.open(os.devnull, os.O_RDONLY))
    assert terminal.size() == {"cols": 80, "rows": 24}
    assert not terminal.is_terminal(terminal.KEYBOARD)
    os.close(terminal.KEYBOARD)


@pytest.mark.parametrize("key", [b"\x1d", b"\x1b[93;5u", b"\x1b[27;5;93~"])
def test_the_key_that_leaves(key):
    """Whichever way a terminal sends it; what was typed before is still the program's."""
    assert terminal.up_to_detach_key(b"before" + key + b"after") == (b"before", True)
    assert terminal.up_to_detach_key(key) == (b"", True)


@pytest.mark.parametrize("typed", [b"", b"]", b"\x1b", b"\x1b[A", "ä€\N{GRINNING FACE}".encode(), b"\x1b[93;6u"])
def test_other_keys_do_not(typed):
    """Nothing else is ours."""
    assert terminal.up_to_detach_key(typed) == (typed, False)


def test_lines_come_as_always_and_the_key_at_once():
    """Where a program takes lines, they can be edited; the key that leaves needs no Return."""
    with on_screen("with terminal.by_line():\n    print('taken')\n    print(os.read(0, 99), os.read(0, 99))") as screen:
        screen.shows("taken")
        assert screen.modes()[3] & termios.ICANON
        assert screen.modes()[3] & termios.ISIG
        screen.type("ax\x7fb\r")
        screen.type("c\x1d")
        screen.shows("b'ab\\n' b'c\\x1d'")
        assert screen.ends() == 0
        assert screen.modes() == screen.modes_before


def test_what_was_asked_of_the_terminal_is_undone():
    """A program that goes on without us may have hidden the cursor or switched screens: only a terminal is told."""
    with on_screen("terminal.leave_screen()") as screen:
        assert screen.ends() == 0
        screen.shows("\x1b[?1049l\x1b[?25h")
    with on_screen(
        "os.dup2(os.open('/dev/null', os.O_WRONLY), 1)\nterminal.leave_screen()\nos.write(2, b'done')"
    ) as screen:
        screen.shows("done")
        assert b"\x1b" not in screen.seen
