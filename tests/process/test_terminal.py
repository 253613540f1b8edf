"""Executions on a terminal: it controls their session, what is typed arrives, and its end loses nothing."""

import os
import signal
import termios

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.core.execution import Reason
from ccexecd.core.spec import TerminalSize
from ccexecd.process import terminal
from ccexecd.process.execution import Execution
from ccexecd.process.leader import Launch, SpawnError
from ccexecd.process.standard_input import StdinClosedError

from .programs import LAST_WORDS, NEVER, python, sh
from .stage import (
    Stage,
    end_of,
    is_alive,
    open_descriptors,
    open_stage,
    running_keeper,
    spawn,
    state_of,
    text_of,
    wait_for,
)

SIZE = TerminalSize(cols=100, rows=30)

BASH = ("bash", "--norc", "--noprofile", "-i")

RAW = "stty raw -echo; echo ready; "
"""Before a program of which the terminal is to change nothing, neither what is typed nor what is written."""


def begin(stage: Stage, *argv: str, **spec: object) -> Execution:
    """Have something executed on a terminal."""
    wanted = {"pty": SIZE, "stdin_open": True, "framing": "raw", "env": {"PS1": "READY> ", "TERM": "dumb"}, **spec}
    return stage.begin(argv, **wanted)


def shown(execution: Execution) -> bytes:
    """Everything that it has shown."""
    return text_of(execution, "stdout")


async def shows(execution: Execution, text: bytes, times: int = 1) -> None:
    """Wait until it has shown something, so many times."""
    await wait_for(lambda: shown(execution).count(text) >= times, f"{text!r} is shown; there is {shown(execution)!r}")


async def types(execution: Execution, text: bytes) -> None:
    """Type."""
    with trio.fail_after(20):
        await execution.stdin.write(text)


async def run(stage: Stage, *argv: str, **spec: object) -> bytes:
    """Have something executed, and give what it has shown."""
    execution = begin(stage, *argv, **spec)
    await end_of(execution)
    assert execution.outcome is not None
    assert execution.outcome.exit_code == 0, shown(execution)
    return shown(execution)


async def ended(execution: Execution) -> None:
    """End it now."""
    execution.cancel(Reason.CANCELLED, 0.0)
    await end_of(execution)


def foreground_of(pid: int) -> int:
    """The foreground group of the terminal that controls a process."""
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
        return int(stat.read().rpartition(") ")[2].split()[5])


# What it is


async def test_it_controls_the_session_of_its_leader():
    """All three descriptors are one terminal, /dev/tty is that, and the leader is in its foreground."""
    async with open_stage() as stage:
        text = await run(
            stage, *sh('tty; tty <&1; tty <&2; echo "by name" >/dev/tty; ps -o pid=,tpgid=,tty= -p $$; echo >&2 error')
        )
    name, of_output, of_errors, greeting, ids, error = text.decode().split("\r\n")[:6]
    pid, foreground, tty = ids.split()
    assert name == of_output == of_errors == f"/dev/{tty}"
    assert (greeting, error) == ("by name", "error")
    assert pid == foreground


async def test_a_program_gets_nothing_but_its_terminal():
    """No descriptor of the daemon or its keeper: neither our end, nor what kept the terminal there."""
    look = "import os; print(sorted(int(name) for name in os.listdir('/proc/self/fd'))[:-1])"
    async with open_stage() as stage:
        assert await run(stage, *python(look)) == b"[0, 1, 2]\r\n"


async def test_it_has_its_size_from_the_beginning_and_erases_characters():
    """The program never sees another one; a terminal of today speaks UTF-8."""
    async with open_stage() as stage:
        assert await run(stage, *sh("stty size")) == b"30 100\r\n"
        assert b"iutf8" in (await run(stage, *sh("stty -a"))).split()
        largest = TerminalSize(65535, 65535)
        assert await run(stage, *sh("stty size"), pty=largest) == b"65535 65535\r\n"


async def test_a_refused_start_leaves_nothing_open():
    """No descriptor of a terminal for a program that is not there."""
    async with open_stage() as stage:
        await run(stage, "true")
        before = open_descriptors()
        execution = begin(stage, "no_such_program")
        await end_of(execution)
        assert execution.spawn_error is not None
        assert execution.spawn_error.subject == "program"
        assert open_descriptors() == before


async def test_what_is_lacking_on_our_side_is_told(monkeypatch):
    """Where no terminal can be made, the execution could not be started, and why."""

    def refuse() -> tuple[int, int]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "openpty", refuse)
    async with open_stage() as stage:
        execution = begin(stage, "true")
        await end_of(execution)
    assert str(execution.spawn_error) == "terminal: No space left on device"


async def test_a_terminal_that_is_gone_starts_nothing():
    """The keeper is told a path; what is not there any more is an error and not another terminal."""
    async with running_keeper() as keeper:
        with pytest.raises(SpawnError):
            await spawn(keeper, Launch(("true",), None, {}, 1.0, terminal="/dev/pts/nowhere"))


# Job control


async def test_an_interactive_shell_controls_its_jobs():
    """It does not complain; Ctrl-Z stops a job, fg takes it up again, Ctrl-C ends it and not the shell."""
    async with open_stage() as stage:
        shell = begin(stage, *BASH)
        await shows(shell, b"READY> ")
        await types(shell, b"cat\n")
        await wait_for(lambda: foreground_of(shell.pid or 0) != shell.pid, "cat has the terminal")
        await types(shell, b"hello\n")
        await shows(shell, b"hello\r\n", 2)
        await types(shell, b"\x1a")
        await shows(shell, b"Stopped")
        await types(shell, b"fg\n")
        await wait_for(lambda: foreground_of(shell.pid or 0) != shell.pid, "cat has it again")
        await types(shell, b"again\n")
        await shows(shell, b"again\r\n", 2)
        await types(shell, b"\x03")
        await wait_for(lambda: foreground_of(shell.pid or 0) == shell.pid, "the shell has it")
        await types(shell, b"echo code $?\n")
        await shows(shell, b"code 130")
        await types(shell, b"exit 4\n")
        await end_of(shell)
        assert b"job control" not in shown(shell)
        assert shell.outcome is not None
        assert shell.outcome.exit_code == 4


async def test_what_is_typed_as_ctrl_c_and_ctrl_backslash_are_signals():
    """INT and QUIT, to everything in the foreground, as from a terminal on a desk."""
    async with open_stage() as stage:
        for key, signum in ((b"\x03", signal.SIGINT), (b"\x1c", signal.SIGQUIT)):
            execution = begin(stage, *sh("ulimit -c 0; echo ready; exec sleep 1000"))
            await shows(execution, b"ready")
            await types(execution, key)
            await end_of(execution)
            assert execution.outcome is not None
            assert execution.outcome.exit_code == -signum


async def test_a_paused_job_is_still_in_the_foreground_afterwards():
    """The shell above it does not notice: it would take the stop as its job's and the terminal back."""
    async with open_stage() as stage:
        shell = begin(stage, *BASH)
        await shows(shell, b"READY> ")
        await types(shell, b"cat | cat | cat\n")
        await wait_for(lambda: foreground_of(shell.pid or 0) != shell.pid, "cat has the terminal")
        for _ in range(20):
            assert await shell.pause() == []
            assert {state_of(pid) for pid in await shell.processes()} == {"T"}
            await shell.resume()
        await types(shell, b"hello\n")
        await shows(shell, b"hello\r\n", 2)
        assert b"Stopped" not in shown(shell)
        await ended(shell)


# Size


async def test_another_size_is_told_and_seen():
    """SIGWINCH goes to whoever is in the foreground, and the terminal has the new size by then."""
    watch = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"
    async with open_stage() as stage:
        execution = begin(stage, *sh(watch))
        await shows(execution, b"ready")
        assert execution.terminal is not None
        execution.terminal.resize(TerminalSize(cols=7, rows=3))
        await shows(execution, b"3 7\r\n")
        assert execution.terminal.size == TerminalSize(cols=7, rows=3)
        await ended(execution)
        execution.terminal.resize(SIZE)  # nobody is there to be told


async def test_a_size_that_is_set_while_it_is_being_started_counts():
    """The terminal is there from the step in which the execution was admitted."""
    async with open_stage() as stage:
        execution = begin(stage, *sh("sleep 0.05; stty size"))
        assert execution.terminal is not None
        execution.terminal.resize(TerminalSize(cols=11, rows=12))
        await end_of(execution)
        assert shown(execution) == b"12 11\r\n"


# Typing


async def test_what_is_typed_arrives_in_order():
    """Writes that overlap do not mix, however slowly they are read."""
    async with open_stage() as stage:
        execution = begin(stage, *sh(RAW + "head -c 600000"), window=1 << 22)
        await shows(execution, b"ready\n")
        texts = [bytes([letter]) * 100_000 for letter in b"abcdef"]
        async with trio.open_nursery() as nursery:
            for text in texts:
                nursery.start_soon(types, execution, text)
                await wait_all_tasks_blocked()
        await end_of(execution)
        assert shown(execution) == b"ready\n" + b"".join(texts)


async def test_typing_waits_for_a_program_that_does_not_read():
    """As much as the terminal takes, then back-pressure, until somebody reads."""
    async with open_stage() as stage:
        execution = begin(stage, *sh(RAW + "kill -STOP $$; head -c 1000000 | wc -c"))
        await shows(execution, b"ready\n")
        await wait_for(lambda: state_of(execution.pid or 0) == "T", "it has stopped")
        written = trio.Event()

        async def write() -> None:
            await execution.stdin.write(b"x" * 1_000_000)
            written.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_all_tasks_blocked(0.05)
            assert not written.is_set()
            await execution.signal(signal.SIGCONT)
            with trio.fail_after(20):
                await written.wait()
        await end_of(execution)
        assert shown(execution).split()[-1] == b"1000000"


@pytest.mark.parametrize(("typed", "read"), [(b"", b"0"), (b"line\n", b"5"), (b"no line", b"7")])
async def test_closing_types_the_end_of_file(typed, read):
    """The program reads what was typed, and then the end; a line that was not ended, too."""
    async with open_stage() as stage:
        execution = begin(stage, *sh("stty -echo; echo ready; wc -c; read again; echo $again"))
        await shows(execution, b"ready")
        await types(execution, typed)
        await execution.stdin.close()
        await shows(execution, b"ready\r\n" + read + b"\r\n")
        await types(execution, b"more\n")  # the terminal is still there
        await end_of(execution)
        assert shown(execution).endswith(b"more\r\n")


async def test_the_end_of_file_is_whatever_the_program_has_made_it():
    """`stty eof` chooses the character; a program that reads keys gets it once, as if it was typed."""
    async with open_stage() as stage:
        execution = begin(stage, *sh("stty -echo eof q; echo ready; wc -c"))
        await shows(execution, b"ready")
        await execution.stdin.close()
        await end_of(execution)
        assert shown(execution).split() == [b"ready", b"0"]
        keys = begin(stage, *sh(RAW + "head -c 3 | od -An -c"))
        await shows(keys, b"ready")
        await types(keys, b"ab")
        await keys.stdin.close()
        await end_of(keys)
        assert shown(keys).split() == [b"ready", b"a", b"b", b"004"]


async def test_nobody_types_after_the_end():
    """It says so, and nothing keeps our ends open."""
    async with open_stage() as stage:
        await run(stage, "true")
        before = open_descriptors()
        execution = begin(stage, "true")
        await end_of(execution)
        with pytest.raises(StdinClosedError):
            await execution.stdin.write(b"x")
        await execution.stdin.close()
        assert open_descriptors() == before


# The end


async def test_the_last_words_are_never_lost():
    """A hundred programs that write, and exit at once: every byte of each has come."""
    async with open_stage() as stage:
        for number in range(100):
            text = await run(stage, *sh(f"seq 2000; printf 'the end of {number}'"))
            assert text == b"".join(b"%d\r\n" % line for line in range(1, 2001)) + b"the end of %d" % number


async def test_who_keeps_the_terminal_open_does_not_keep_the_execution():
    """A process that is deaf to the hang-up of its leader is ended like any that is left; what the leader wrote is
    there."""
    holder = "trap '' HUP; seq 3000; sleep 1000 & exit 3"
    async with open_stage() as stage:
        execution = begin(stage, *sh(holder))
        with trio.fail_after(5):
            await execution.finished.wait()
        assert execution.outcome is not None
        assert execution.outcome.exit_code == 3
        assert len(execution.outcome.leftovers) == 1
        assert not is_alive(execution.outcome.leftovers[0])
        assert shown(execution).endswith(b"\r\n3000\r\n")


async def test_who_holds_it_from_outside_does_not_either():
    """Somebody who has opened it by its name is no process of it, and keeps nothing waiting."""
    async with open_stage() as stage:
        execution = begin(stage, *sh("tty; read line; echo last words"))
        await shows(execution, b"\r\n")
        stranger = os.open(shown(execution).split()[0], os.O_RDWR | os.O_NOCTTY)
        try:
            await types(execution, b"\n")
            with trio.fail_after(5):
                await execution.finished.wait()
            assert shown(execution).endswith(b"last words\r\n")
            with pytest.raises(termios.error, match="Input/output error"):  # our end is closed
                termios.tcgetattr(stranger)
        finally:
            os.close(stranger)


@pytest.mark.parametrize("argv", [BASH, ("dash", "-i")], ids=lambda argv: argv[0])
async def test_a_cancelled_shell_is_hung_up(argv):
    """Interactive shells are deaf to TERM: they are told as a terminal tells that nobody sits there any more."""
    async with open_stage() as stage:
        shell = begin(stage, *argv, grace=15.0)
        await shows(shell, b"READY> ")
        shell.cancel(Reason.CANCELLED)
        with trio.fail_after(5):
            await shell.finished.wait()
        assert shell.outcome is not None
        assert shell.outcome.reason is Reason.CANCELLED


async def test_who_heeds_term_is_not_hung_up():
    """Its clean-up has the whole grace."""
    async with open_stage() as stage:
        execution = begin(stage, *LAST_WORDS.argv, grace=15.0)
        await shows(execution, b"ready")
        execution.cancel(Reason.CANCELLED)
        await end_of(execution)
        assert shown(execution).endswith(b"last words\r\n")
        assert execution.outcome is not None
        assert execution.outcome.exit_code == 7


async def test_a_killed_program_on_a_terminal_has_ended():
    """No grace, nothing is asked, nothing waits."""
    async with open_stage() as stage:
        execution = begin(stage, *sh("trap '' TERM HUP; echo ready; " + NEVER))
        await shows(execution, b"ready")
        await ended(execution)
        assert execution.outcome is not None
        assert execution.outcome.exit_code == -signal.SIGKILL


def test_who_ignores_a_signal():
    """By what the kernel says of a process; one that is gone ignores none."""
    assert terminal.ignores(os.getpid(), signal.SIGPIPE)  # Python does
    assert not terminal.ignores(os.getpid(), signal.SIGTERM)
    assert not terminal.ignores(2**22 + 1, signal.SIGPIPE)
