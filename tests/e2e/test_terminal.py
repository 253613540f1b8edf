"""Programs on a terminal, by way of ccexecctl on another: as a person works with them, with the real daemon."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.screen import Screen

from .test_ctl import Ctl, eventually, is_gone, process_state

BASH = ("bash", "--norc", "--noprofile", "-i")

DETACH = "\x1d"


@pytest.fixture(scope="module")
def ctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctl]:
    """A running daemon for all of these."""
    place = tmp_path_factory.mktemp("terminal") / "d"
    ctl = Ctl(place)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CCEXECD_")}
    ctl.ok("start", env={**environ, "CCEXECD_PORT": "0"})
    yield ctl
    for child in ctl.children:
        child.kill()
        child.communicate()
    ctl("stop", "--grace", "0", "--force")


@pytest.fixture
def screen(ctl: Ctl) -> Iterator[Callable[..., Screen]]:
    """Call ccexecctl on a terminal of its own; all of them are gone afterwards, and what they ran is, too."""
    opened: list[Screen] = []

    def call(*words: str, **more: Any) -> Screen:
        environ = {"PATH": os.environ["PATH"], "TERM": "xterm", "PS1": "READY> ", "HOME": str(ctl.state_dir)}
        opened.append(Screen(ctl._command(words), environ, **more))
        return opened[-1]

    yield call
    for one in opened:
        with one:
            pass
    for left in ctl.json("ps"):
        ctl("kill", left["execution_id"])


def on_bash(screen: Callable[..., Screen]) -> Screen:
    """A shell at its prompt."""
    shell = screen("run", "-t", "--", *BASH)
    shell.shows("READY> ")
    return shell


IN_FRONT = "sh -c \"echo run''ning; exec sleep 1000\"\r"
"""Typed in a shell: a program that says when it has the terminal, so that Ctrl-C is for it and not for the shell."""


def test_a_shell_is_as_at_home(screen):
    """Job control, Ctrl-C, Ctrl-Z, Ctrl-D and the size; afterwards, the code is its own and the terminal as before."""
    shell = on_bash(screen)
    assert shell.is_raw
    shell.type("stty size; tty; echo $TERM\r")
    shell.shows("30 100\r\n/dev/pts/")
    shell.shows("\r\nxterm\r\n")
    shell.type(IN_FRONT)
    shell.shows("running\r\n")
    shell.type("\x03")
    shell.shows("^C")
    shell.type("echo code $?\r")
    shell.shows("code 130")
    shell.type("cat\r")
    shell.shows("cat\r\n")
    shell.type("hello\r")
    shell.shows("hello\r\n", 2)
    shell.type("\x1a")
    shell.shows("Stopped")
    shell.type("fg\r")
    shell.shows("cat\r\n", 3)
    shell.type("again\r")
    shell.shows("again\r\n", 2)
    prompts = shell.seen.count(b"READY> ")
    shell.type("\x04")
    shell.shows("READY> ", prompts + 1)
    shell.type("exit 7\r")
    assert shell.ends() == 7
    assert b"job control" not in shell.seen
    assert shell.modes() == shell.modes_before


def test_another_size_is_the_programs(screen):
    """The window is made larger: the program is told, and sees it."""
    shell = on_bash(screen)
    shell.type("trap 'echo told; stty size' WINCH; echo r''eady\r")
    shell.shows("ready")
    shell.resize(rows=41, cols=121)
    shell.type("\r")
    shell.shows("told\r\n41 121")
    shell.type("exit\r")
    assert shell.ends() == 0


@pytest.mark.skipif(not shutil.which("vim"), reason="vim is not installed")
def test_an_editor_edits(screen, tmp_path):
    """A program that uses all of a terminal: another screen, cursor keys, Escape."""
    file = tmp_path / "text"
    editor = screen("run", "-t", "--", "vim", "-u", "NONE", "-N", str(file))
    editor.shows("[New]")
    editor.type("ione\rthree\x1b")
    editor.shows("three")
    editor.type("kotwo\x1b")
    editor.type(":wq\r")
    assert editor.ends() == 0
    assert file.read_text() == "one\ntwo\nthree\n"
    assert editor.modes() == editor.modes_before


@pytest.mark.skipif(not shutil.which("top"), reason="top is not installed")
def test_a_program_that_draws_by_itself(screen):
    """It shows what it draws, heeds a single key, and ends by one."""
    top = screen("run", "-t", "--", "top", "-d", "0.2")
    top.shows("load average")
    top.type("h")
    top.shows("Help for Interactive Commands")
    drawn = top.seen.count(b"load average")
    top.type("q")
    top.shows("load average", drawn + 1)
    top.type("q")
    assert top.ends() == 0
    assert top.modes() == top.modes_before


def test_a_refused_start_is_told_on_a_terminal_as_before(screen):
    """The message is readable, the code a shell's."""
    one = screen("run", "-t", "--", "/no/such/program")
    assert one.ends() == 127
    one.shows("cannot run /no/such/program")
    assert one.modes() == one.modes_before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGQUIT, 131), (signal.SIGTERM, 129), (signal.SIGINT, 129)]
)
def test_signals_from_elsewhere_restore_the_terminal(screen, ctl, number, code):
    """TERM and INT cancel the command, which for a shell is a hang-up; the others end us, and so the command."""
    shell = on_bash(screen)
    (known,) = ctl.json("ps")
    shell.signal(number)
    assert shell.ends() == code
    assert shell.modes() == shell.modes_before
    eventually(lambda: is_gone(known["pid"]))


def test_a_closed_window_ends_the_command(screen, ctl):
    """Nobody sits there any more: the shell is hung up, at once and not after its grace."""
    shell = on_bash(screen)
    (known,) = ctl.json("ps")
    shell.hang_up()
    shell.ends()
    eventually(lambda: is_gone(known["pid"]), 5.0)
    assert ctl.known(known["execution_id"])["reason"] == "disconnected"


def test_stopped_from_elsewhere_the_terminal_is_the_shells(screen):
    """TSTP restores the terminal before we stop, and CONT takes it again, with the size that it has then."""
    shell = on_bash(screen)
    shell.signal(signal.SIGTSTP)
    shell.until(lambda: process_state(shell.process.pid) == "T", "it has stopped")
    assert shell.modes() == shell.modes_before
    shell.resize(rows=33, cols=44)
    shell.signal(signal.SIGCONT)
    shell.until(lambda: shell.is_raw, "it has the terminal again")
    shell.type("stty size\r")
    shell.shows("33 44")
    shell.type("exit\r")
    assert shell.ends() == 0


def test_output_may_go_elsewhere(screen, tmp_path):
    """Keys come from the terminal, output goes where ours goes, byte for byte as the terminal shows it."""
    with (tmp_path / "out").open("wb") as out:
        one = screen("run", "-t", "--", "sh", "-c", "read line; echo got $line", stdout=out)
        one.until(lambda: one.is_raw, "it has the terminal")
        one.type("something\r")
        assert one.ends() == 0
    assert (tmp_path / "out").read_bytes() == b"something\r\ngot something\r\n"


def test_keys_reach_a_program_that_writes_all_the_time(screen):
    """A flood of output holds no key up: Ctrl-C ends it."""
    one = screen("run", "-t", "--", "yes")
    one.shows("y\r\n", 1000)
    one.type("\x03")
    assert one.ends() == 128 + signal.SIGINT


# attach


def detached_bash(ctl: Ctl) -> str:
    """A shell that nobody is with. Returns its id."""
    return ctl.ok("run", "--detach", "-t", "--env", "PS1=READY> ", "--env", "TERM=xterm", "--", *BASH)


def test_whoever_attaches_has_the_keys(screen, ctl):
    """The size becomes ours, the prompt is drawn anew, Ctrl-] leaves, and the next one finds all as it was."""
    shell_id = detached_bash(ctl)
    eventually(lambda: ctl.known(shell_id)["stdout_bytes"] > 0)
    first = screen("attach", shell_id, rows=20, cols=70)
    first.shows("Ctrl-] leaves it running")
    first.shows("READY> ")
    first.type("stty size; here=yes\r")
    first.shows("20 70")
    assert ctl.known(shell_id)["pty"] == {"cols": 70, "rows": 20}
    first.type(IN_FRONT)
    first.shows("running\r\n")
    first.type("\x03")
    first.shows("^C")
    first.type(DETACH)
    assert first.ends() == 0
    first.shows(f"left execution {shell_id[:8]} running")
    assert first.modes() == first.modes_before
    assert ctl.known(shell_id)["state"] == "RUNNING"
    second = screen("attach", shell_id[:8])
    second.type("echo still $here; exit 5\r")
    second.shows("still yes")
    assert second.ends() == 5
    assert second.modes() == second.modes_before


def test_what_was_shown_is_shown_again(screen, ctl):
    """--since-seq 0 begins at the beginning, also of what has ended."""
    shell_id = ctl.ok("run", "--detach", "-t", "--", "sh", "-c", "echo earlier; read line; exit 3")
    eventually(lambda: ctl.known(shell_id)["stdout_bytes"] > 0)
    one = screen("attach", shell_id, "--since-seq", "0")
    one.shows("earlier")
    one.type("\r")
    assert one.ends() == 3
    again = ctl("attach", shell_id, "--since-seq", "0", stdin=subprocess.DEVNULL)
    assert (again.returncode, again.stdout) == (3, "earlier\n\n")  # universal newlines
    later = ctl("attach", shell_id, stdin=subprocess.DEVNULL)
    assert (later.returncode, later.stdout) == (3, "")


def test_lines_go_to_an_open_input(screen, ctl):
    """Without a terminal of its own, a program gets whole lines of ours, and its end with Ctrl-D; Ctrl-] leaves."""
    cat = ctl.ok("run", "--detach", "-i", "--", "sh", "-c", "cat; exit 6")
    one = screen("attach", cat)
    one.shows("leaves it running")
    one.until(lambda: one.modes() != one.modes_before, "it reads")
    one.type("a line\r")
    one.shows("a line\r\n", 2)
    one.type(DETACH)
    assert one.ends() == 0
    assert one.modes() == one.modes_before
    two = screen("attach", cat)
    two.until(lambda: two.modes() != two.modes_before, "it reads")
    two.type("\x04")
    assert two.ends() == 6


def test_ctrl_c_leaves_what_takes_no_keys(screen, ctl):
    """Attached to a program without input, we only watch; going does not end it."""
    running = ctl.detached("sh", "-c", "echo ready; exec sleep 1000")
    one = screen("attach", running, "--since-seq", "0")
    one.shows("ready")
    one.type("\x03")
    assert one.ends() == 128 + signal.SIGINT
    assert ctl.known(running)["state"] == "RUNNING"


def test_without_a_terminal_it_is_followed(screen, ctl):
    """A script waits for the end, with its output and its code."""
    running = ctl.ok("run", "--detach", "-i", "--", "sh", "-c", "read line; echo $line; exit 9")
    follower = ctl.begin("attach", running, "--since-seq", "0")
    as_json = ctl.begin("attach", running, "--since-seq", "0", "--json")
    with screen("attach", running) as one:
        one.until(lambda: one.modes() != one.modes_before, "it reads")
        one.type("some words\r")
        assert one.ends() == 9
    assert follower.communicate(timeout=20)[0] == b"some words\n"
    assert follower.returncode == 9
    told = json.loads(as_json.communicate(timeout=20)[0])
    assert as_json.returncode == 9
    assert (told["execution_id"], told["stdout"], told["exit_code"]) == (running, "some words\n", 9)


def test_a_lost_daemon_leaves_the_terminal_as_it_was(tmp_path):
    """Whatever ends us, the terminal is restored."""
    ctl = Ctl(tmp_path / "d")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CCEXECD_")}
    ctl.ok("start", env={**environ, "CCEXECD_PORT": "0"})
    try:
        with Screen(ctl._command(("run", "-t", "--", *BASH)), {**environ, "PS1": "READY> ", "TERM": "xterm"}) as shell:
            shell.shows("READY> ")
            os.kill(ctl.json("status")["pid"], signal.SIGKILL)
            assert shell.ends() == 1
            shell.shows("lost the connection")
            assert shell.modes() == shell.modes_before
    finally:
        ctl("stop", "--force")


# -i


def test_what_is_piped_in_is_the_commands_input(ctl):
    """Byte for byte to its end, in both directions at once."""
    some = os.urandom(3_000_000)
    program = ctl.begin("run", "-i", "--", "cat", stdin=subprocess.PIPE)
    out, errors = program.communicate(some, timeout=60)
    assert (program.returncode, errors) == (0, b"")
    assert out == some
    empty = ctl.begin("run", "-i", "--", "wc", "-c", stdin=subprocess.DEVNULL)
    assert empty.communicate(timeout=60)[0] == b"0\n"


def test_a_command_that_does_not_read_holds_up_whoever_writes(ctl):
    """Nothing is read that nobody takes: a megabyte or so is on its way, and no more."""
    program = ctl.begin("run", "-i", "--", "sleep", "1000", stdin=subprocess.PIPE)
    assert program.stdin is not None
    os.set_blocking(program.stdin.fileno(), False)
    written, last = 0, time.monotonic()
    while time.monotonic() < last + 1.0:
        try:
            written += os.write(program.stdin.fileno(), b"x" * 65536)
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        assert written < 2_000_000
    assert written >= 65536


def test_a_command_that_has_read_enough_ends_it(ctl):
    """The rest is not read: whoever writes gets a broken pipe, as with any `head`."""
    feed = f"{sys.executable} -c 'import sys\nwhile True: print(1)' | \"$@\""
    done = subprocess.run(
        ["bash", "-c", f"{feed}; echo ${{PIPESTATUS[*]}}", "bash", *ctl._command(("run", "-i", "--", "head", "-1"))],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    first, codes = done.stdout.split("\n")[:2]
    assert first == "1"
    assert codes.split()[1] == "0"
    assert codes.split()[0] != "0"
