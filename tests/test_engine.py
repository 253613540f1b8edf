"""Sessions and executions: who may start one, what a parting means, what a program inherits, what is remembered."""

import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import ccexecd
from ccexecd import engine as engine_module
from ccexecd import records
from ccexecd.config import Config
from ccexecd.core.execution import Reason, State
from ccexecd.core.sessions import Parting
from ccexecd.core.spec import Limits, Spec, TerminalSize
from ccexecd.engine import AdmissionError, Engine, Refusal, Session
from ccexecd.process.execution import Execution

from .process.lone_engine import GRACE
from .process.programs import HOSTILE, LEADER_FIRST, PIPE_HOLDER, SLEEPER, TERM_PROOF, sh
from .process.stage import (
    OF_GLIBC,
    PATIENCE,
    described,
    end_of,
    lines_of,
    living,
    nothing_left,
    running_engine,
    text_of,
    wait_for,
)


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """Walk what is below this process once a test is over, and fail on whatever it left."""
    with nothing_left():
        yield


def begin(engine: Engine, session: Session, argv: tuple[str, ...], **spec: object) -> Execution:
    """Have something executed."""
    return engine.admit(session, Spec(argv, argv[0], **{"grace": 5.0, **spec}))  # type: ignore[arg-type]


async def run(engine: Engine, session: Session, argv: tuple[str, ...], **spec: object) -> Execution:
    """Have something executed, and wait for its end."""
    execution = begin(engine, session, argv, **spec)
    await end_of(execution)
    return execution


async def connected(engine: Engine) -> tuple[Session, list[Parting]]:
    """A session that a connection holds, and how that is dropped."""
    session = await engine.open_session("somebody")
    dropped: list[Parting] = []
    engine.sessions.take_over(session, dropped.append)
    return session, dropped


def reason_of(execution: Execution) -> Reason | None:
    """Why it ended; None while it lives."""
    return execution.outcome.reason if execution.outcome else None


# What a program inherits


async def environment_of(engine: Engine, **spec: object) -> dict[str, str]:
    session = await engine.open_session("somebody")
    execution = await run(engine, session, ("env", "-0"), **spec)
    text = text_of(execution, "stdout").decode()
    found = dict(entry.split("=", 1) for entry in text.split("\0") if entry)
    assert found.pop("CCEXEC_SESSION_ID", session.id) == session.id
    assert found.pop("CCEXEC_EXECUTION_ID", execution.id) == execution.id
    return found


async def test_a_program_knows_its_session_and_itself():
    """Whatever the client or the daemon's own environment says of them."""
    lies = {"CCEXEC_SESSION_ID": "another", "CCEXEC_EXECUTION_ID": "another"}
    async with running_engine(os.environ | lies) as engine:
        session = await engine.open_session("somebody")
        script = 'echo "$CCEXEC_SESSION_ID $CCEXEC_EXECUTION_ID"'
        execution = await run(engine, session, sh(script), env=lies)
        assert text_of(execution, "stdout").decode() == f"{session.id} {execution.id}\n"


async def test_a_program_inherits_the_daemons_environment_with_changes():
    """Names are added, replaced and removed; Python programs write at once unless somebody says otherwise."""
    environ = {"PATH": os.environ["PATH"], "KEPT": "1", "REPLACED": "1", "REMOVED": "1", "SECRET": "1"}
    async with running_engine(environ, unset_environment=("SECRET",)) as engine:
        assert await environment_of(
            engine, env={"REPLACED": "2", "ADDED": "", "ODD": "a=b\nc"}, unset=("REMOVED", "NEVER_THERE")
        ) == {
            "PATH": os.environ["PATH"],
            "KEPT": "1",
            "REPLACED": "2",
            "ADDED": "",
            "ODD": "a=b\nc",
            "PYTHONUNBUFFERED": "1",
            "PWD": "/",
        }
        assert (await environment_of(engine, env={"PYTHONUNBUFFERED": ""}))["PYTHONUNBUFFERED"] == ""
        assert "PYTHONUNBUFFERED" not in await environment_of(engine, unset=("PYTHONUNBUFFERED",))


async def test_a_program_is_told_where_it_is(tmp_path):
    """Not where the daemon was started; a client that says otherwise is heeded."""
    async with running_engine({"PATH": os.environ["PATH"], "PWD": "/elsewhere"}) as engine:
        for wanted, told in (("/", "/"), (str(tmp_path), str(tmp_path)), ("tmp", "/tmp")):
            assert (await environment_of(engine, cwd=wanted))["PWD"] == told
        assert (await environment_of(engine, env={"PWD": "/mine"}))["PWD"] == "/mine"
        assert "PWD" not in await environment_of(engine, unset=("PWD",))


@pytest.mark.parametrize(
    ("config", "changes", "by_bash"),
    [
        ({}, {}, False),
        ({}, {"env": {"BASH_ENV": "/dev/null"}}, True),
        ({}, {"env": {"odd.name": "1"}}, True),
        ({}, {"env": {"PATH": "bin:/bin"}}, True),
        ({"shell": shutil.which("bash")}, {}, True),
    ],
    ids=["plain", "a setting of Bash", "an odd name", "a relative PATH", "configured"],
)
async def test_a_command_string_gets_the_least_shell_that_will_do(config, changes, by_bash):
    """A program is started itself, unless that could make a difference. Bash counts how deep it is."""
    async with running_engine({"PATH": os.environ["PATH"]}, **config) as engine:
        session = await engine.open_session("somebody")
        shell = shutil.which("bash") or ""
        execution = engine.admit(session, Spec((shell, "-c", "env"), "env", shell=True, **changes))
        await end_of(execution)
        assert ("SHLVL=" in text_of(execution, "stdout").decode()) is by_bash


@pytest.mark.parametrize(
    ("name", "wanted", "kind"),
    [
        ("claude", {}, "file"),
        ("x", {"agent": "claude"}, "file"),
        ("x", {"stdio": "file"}, "file"),
        ("x", {}, "pipe"),
        ("claude", {"agent": "none"}, "pipe"),
        ("claude", {"stdio": "pipe"}, "pipe"),
        ("claude", {"policy": "block"}, "pipe"),
    ],
)
async def test_an_agent_that_does_not_wait_for_its_pipe_writes_into_a_file(tmp_path, name, wanted, kind):
    """Told by its name, or by the client; not where a file would break another promise."""
    program = tmp_path / name
    program.write_text("#!/bin/sh\nreadlink /proc/self/fd/1 >&2\n")
    program.chmod(0o755)
    async with running_engine() as engine:
        session, _ = await connected(engine)
        execution = await run(engine, session, (str(program),), **wanted)
        assert (b"ccexecd-output" in text_of(execution, "stderr")) is (kind == "file")


@pytest.mark.parametrize(("value", "arrives"), [("", False), ("sk-1", True)])
@pytest.mark.parametrize("source", ["daemon", "client"])
async def test_an_empty_key_is_no_key(value, arrives, source):
    """Claude Code waits for ever where ANTHROPIC_API_KEY is set and empty."""
    environ = {"PATH": os.environ["PATH"]} | ({"ANTHROPIC_API_KEY": value} if source == "daemon" else {})
    async with running_engine(environ) as engine:
        found = await environment_of(engine, env={"ANTHROPIC_API_KEY": value} if source == "client" else {})
        assert ("ANTHROPIC_API_KEY" in found) is arrives


async def test_a_key_that_a_client_empties_is_not_the_daemons():
    """It asked for none: neither an empty one nor another is passed on; nor one that the configuration removes."""
    environ = {"PATH": os.environ["PATH"], "ANTHROPIC_API_KEY": "sk-daemon"}
    async with running_engine(environ) as engine:
        assert (await environment_of(engine))["ANTHROPIC_API_KEY"] == "sk-daemon"
        assert "ANTHROPIC_API_KEY" not in await environment_of(engine, env={"ANTHROPIC_API_KEY": ""})
    async with running_engine(environ, unset_environment=("ANTHROPIC_API_KEY",)) as engine:
        assert "ANTHROPIC_API_KEY" not in await environment_of(engine)


async def test_what_is_removed_is_removed_from_a_clients_additions_too():
    """The configuration's list and the request's are the last word, for words and for a command string."""
    async with running_engine({"PATH": os.environ["PATH"]}, unset_environment=("SECRET",)) as engine:
        for spec in ({}, {"shell": True}):
            session = await engine.open_session("somebody")
            changes = {"env": {"SECRET": "1", "OWN": "1", "KEPT": "1"}, "unset": ("OWN",)}
            execution = engine.admit(session, Spec(("env",), "env", **changes, **spec))  # type: ignore[arg-type]
            await end_of(execution)
            names = {line.partition("=")[0] for line in text_of(execution, "stdout").decode().splitlines()}
            assert names & {"SECRET", "OWN", "KEPT"} == {"KEPT"}


async def test_a_python_program_writes_at_once():
    """Its output is a pipe, which Python would fill before it writes: it is told not to."""
    async with running_engine() as engine:
        session = await engine.open_session("somebody")
        code = "import time; print('now'); time.sleep(1000)"
        execution = begin(engine, session, (sys.executable, "-c", code))
        await lines_of(execution, 1)
        assert text_of(execution, "stdout") == b"now\n"
        execution.cancel(Reason.CANCELLED, 0.0)
        await end_of(execution)


LOOK_AROUND = "ls /proc/$$/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; umask"


@pytest.mark.parametrize("is_string", [False, True], ids=["words", "a string"])
async def test_nothing_of_the_daemon_is_in_a_program(is_string):
    """No descriptor, even one that it lets its children inherit; no signal that it ignores or blocks; not its umask."""
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    own_umask = os.umask(0o077)
    try:
        async with running_engine() as engine:
            session = await engine.open_session("somebody")
            other = begin(engine, session, SLEEPER, stdin_open=True)
            await other.spawned.wait()
            spec = Spec(("sh", "-c", LOOK_AROUND), LOOK_AROUND, shell=is_string)
            execution = engine.admit(session, spec)
            await end_of(execution)
            lines = text_of(execution, "stdout").decode().splitlines()
            masks = {line.split()[0]: int(line.split()[1], 16) & ~OF_GLIBC for line in lines if line.startswith("Sig")}
            assert [line for line in lines if line.isdigit() and len(line) < 4] == ["0", "1", "2"]
            assert masks == {"SigBlk:": 0, "SigIgn:": 0}
            assert lines[-1] == "0022"
    finally:
        os.umask(own_umask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        signal.signal(signal.SIGUSR1, before)
        os.close(leaked)


async def test_an_environment_that_is_no_text_reaches_a_program():
    """The daemon was started with bytes that are no UTF-8; its programs find them."""
    async with running_engine(os.environ | {os.fsdecode(b"ODD_\xff"): os.fsdecode(b"v\xfe")}) as engine:
        session = await engine.open_session("somebody")
        execution = await run(engine, session, ("env", "-0"))
        assert b"ODD_\xff=v\xfe" in text_of(execution, "stdout").split(b"\0")


async def test_a_large_environment_reaches_a_program():
    """Far more than one message to the keeper may hold."""
    async with running_engine() as engine:
        added = {f"NAME_{number}": "v" * 10_000 for number in range(60)}
        found = await environment_of(engine, env=added)
        assert added.items() <= found.items()


# Who may


async def test_a_session_beyond_the_limit_may_not_execute():
    """It is told the limit; when another has ended, it may."""
    async with running_engine(max_sessions=2) as engine:
        first, _ = await connected(engine)
        await connected(engine)
        third, _ = await connected(engine)
        with pytest.raises(AdmissionError, match="all 2 sessions are taken") as refused:
            begin(engine, third, SLEEPER)
        assert refused.value.refusal is Refusal.SESSION_LIMIT
        assert refused.value.facts == {"max_sessions": 2}
        assert engine.started_total == 0
        assert not engine.executions
        engine.sessions.connection_lost(first, Parting.CLOSED)
        await wait_for(lambda: first not in engine.sessions, "a session has ended")
        assert reason_of(await run(engine, third, ("true",))) is Reason.EXITED


async def test_a_session_that_is_ending_counts_until_it_has_ended():
    """Its programs have their grace, and their place."""
    async with running_engine(max_sessions=1) as engine:
        first, _ = await connected(engine)
        execution = begin(engine, first, TERM_PROOF.argv, grace=0.3)
        await lines_of(execution, 1)
        second, _ = await connected(engine)
        engine.sessions.connection_lost(first, Parting.CLOSED)
        with pytest.raises(AdmissionError):
            begin(engine, first, SLEEPER)
        with pytest.raises(AdmissionError):
            begin(engine, second, SLEEPER)
        await end_of(execution)
        await wait_for(lambda: first not in engine.sessions, "the first has ended")
        assert reason_of(await run(engine, second, ("true",))) is Reason.EXITED


async def test_a_daemon_that_drains_takes_nothing_new():
    """What runs goes on until it is ended; what is asked for is refused."""
    async with running_engine() as engine:
        session, _ = await connected(engine)
        execution = begin(engine, session, SLEEPER)
        await execution.spawned.wait()
        engine.draining = True
        with pytest.raises(AdmissionError) as refused:
            begin(engine, session, SLEEPER)
        assert refused.value.refusal is Refusal.DRAINING
        assert execution.is_live
        assert await engine.end_all(None) == [execution]


async def test_an_engine_that_has_ended_opens_no_session():
    """The control socket answers longer than it: who asks there for a command is told why there is none."""
    async with running_engine() as engine:
        pass
    with pytest.raises(AdmissionError) as refused:
        await engine.open_session("somebody")
    assert refused.value.refusal is Refusal.DRAINING
    assert not engine.sessions


async def test_an_allow_list_is_kept():
    """A listed program runs, and a command string of simple words without its shell; nothing else does."""
    async with running_engine(allowed_commands=("echo",)) as engine:
        session, _ = await connected(engine)
        execution = engine.admit(session, Spec(("bash", "-c", "echo 'a  b'"), "echo 'a  b'", shell=True))
        await end_of(execution)
        assert text_of(execution, "stdout") == b"a  b\n"
        assert execution.spec.argv == ("echo", "a  b")
        for spec in [
            Spec(("true",), "true"),
            Spec(("bash", "-c", "echo a; true"), "echo a; true", shell=True),
            Spec(("echo",), "echo", env={"LD_PRELOAD": "x"}),
        ]:
            with pytest.raises(AdmissionError) as refused:
                engine.admit(session, spec)
            assert refused.value.refusal is Refusal.NOT_ALLOWED
        assert engine.started_total == 1


async def test_an_allow_list_judges_what_a_client_changes():
    """A loader's name with the value that is inherited anyway is no change; another value, or a withheld name, is."""
    environ = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": "/lib"}
    async with running_engine(environ, allowed_commands=("echo",), unset_environment=("LD_LIBRARY_PATH",)) as engine:
        session, _ = await connected(engine)
        same = await run(engine, session, ("echo", "same"), env={"PATH": os.environ["PATH"], "HOME": "/x"})
        assert text_of(same, "stdout") == b"same\n"
        for env in ({"PATH": "/tmp"}, {"LD_LIBRARY_PATH": "/lib"}):
            with pytest.raises(AdmissionError) as refused:
                begin(engine, session, ("echo",), env=env)
            assert refused.value.facts == {"environment": list(env)}
        with pytest.raises(AdmissionError) as refused:  # the program would be looked for elsewhere
            begin(engine, session, ("echo",), unset=("PATH",))
        assert refused.value.facts == {"environment": ["PATH"]}
        begin(engine, session, ("echo",), unset=("HOME", "LD_PRELOAD"))  # neither is inherited
        with pytest.raises(AdmissionError, match="'true' is not an allowed command") as refused:
            begin(engine, session, ("true",))
        assert refused.value.facts == {}


async def test_another_configuration_is_for_what_comes():
    """What runs keeps what it was started with."""
    async with running_engine(max_buffer_size=4096) as engine:
        session, _ = await connected(engine)
        before = begin(engine, session, sh("head -c 100000 /dev/zero; exec sleep 1000"))
        engine.reconfigure(Config(max_buffer_size=1 << 20))
        after = await run(engine, session, sh("head -c 100000 /dev/zero"))
        assert after.log.dropped_bytes == 0
        await wait_for(lambda: before.log.sizes["stdout"] > 50_000, "it has written")
        before.cancel(Reason.CANCELLED)
        await end_of(before)
        assert before.log.dropped_bytes > 0


# Partings

TABLE = {
    ("auto", "closed"): Reason.DISCONNECTED,
    ("auto", "cut"): None,
    ("auto", "expired"): Reason.SESSION_EXPIRED,
    ("auto", "shutdown"): Reason.SHUTDOWN,
    ("cancel", "closed"): Reason.DISCONNECTED,
    ("cancel", "cut"): Reason.DISCONNECTED,
    ("cancel", "expired"): Reason.DISCONNECTED,  # by the cut before
    ("cancel", "shutdown"): Reason.SHUTDOWN,
    ("detach", "closed"): None,
    ("detach", "cut"): None,
    ("detach", "expired"): None,
    ("detach", "shutdown"): Reason.SHUTDOWN,
}
"""Why an execution ends by a parting; None where it goes on."""


@pytest.mark.parametrize(("on_disconnect", "parting"), TABLE)
async def test_what_a_parting_ends(on_disconnect, parting):
    """The contract's table, with real programs; a session that is left in peace leaves its programs in peace."""
    async with running_engine(resume_window=0.1 if parting == "expired" else 1000.0) as engine:
        session, _ = await connected(engine)
        other, _ = await connected(engine)
        execution = begin(engine, session, SLEEPER, on_disconnect=on_disconnect)
        untouched = begin(engine, other, SLEEPER)
        await execution.spawned.wait()
        await untouched.spawned.wait()
        match parting:
            case "closed":
                engine.sessions.connection_lost(session, Parting.CLOSED)
                await wait_for(lambda: session not in engine.sessions, "the session has ended")
            case "cut":
                engine.sessions.connection_lost(session, Parting.CUT)
            case "expired":
                engine.sessions.connection_lost(session, Parting.CUT)
                await wait_for(lambda: session not in engine.sessions, "the session has ended")
            case "shutdown":
                await engine.end_all(None)
        expected = TABLE[on_disconnect, parting]
        if expected is not None:
            await end_of(execution)
        assert reason_of(execution) is expected
        assert reason_of(untouched) is (Reason.SHUTDOWN if parting == "shutdown" else None)
        if parting == "cut":
            assert session in engine.sessions
        await engine.end_all(0.0)


async def test_a_session_that_was_cut_can_be_taken_over():
    """In time: its programs never notice, and its clock stops."""
    async with running_engine(resume_window=0.2) as engine:
        session, dropped = await connected(engine)
        execution = begin(engine, session, SLEEPER)
        await execution.spawned.wait()
        engine.sessions.connection_lost(session, Parting.CUT)
        engine.sessions.take_over(session, dropped.append)
        await trio.sleep(0.4)
        assert execution.is_live
        assert session in engine.sessions
        assert not dropped


async def test_a_session_without_executions_ends_with_its_connection():
    """There is nothing to resume, cut or not."""
    async with running_engine() as engine:
        for parting in (Parting.CLOSED, Parting.CUT):
            session, _ = await connected(engine)
            engine.sessions.connection_lost(session, parting)
            await wait_for(lambda session=session: session not in engine.sessions, "it has ended")


async def test_a_cut_session_whose_work_is_done_can_still_be_asked():
    """The client may come back for the output, until the window has passed."""
    async with running_engine(resume_window=0.3) as engine:
        session, _ = await connected(engine)
        execution = await run(engine, session, sh("echo done"))
        engine.sessions.connection_lost(session, Parting.CUT)
        await wait_all_tasks_blocked()
        assert engine.sessions.get(session.id).executions == {execution.id: execution}
        await wait_for(lambda: session not in engine.sessions, "the window has passed")
        assert engine.find(execution.id) is execution


async def test_whoever_takes_over_takes_it_from_somebody():
    """The connection that held the session is dropped, and its going changes nothing."""
    async with running_engine() as engine:
        session, dropped = await connected(engine)
        execution = begin(engine, session, SLEEPER)
        await execution.spawned.wait()
        engine.sessions.take_over(session, lambda _: None)
        assert dropped == [Parting.CUT]
        assert execution.is_live


# Time


async def test_an_idle_session_ends():
    """After its time-out, counted anew from the end of its last execution; its connection is dropped."""
    async with running_engine(session_timeout=0.3) as engine:
        session, dropped = await connected(engine)
        await run(engine, session, sh("sleep 0.5"))
        assert session in engine.sessions
        await wait_for(lambda: session not in engine.sessions, "it has ended")
        assert dropped == [Parting.EXPIRED]
        with pytest.raises(AdmissionError):
            begin(engine, session, SLEEPER)


@pytest.mark.parametrize("holder", ["a connection", "a request of its own"])
async def test_a_session_that_works_is_not_idle(holder):
    """However long its program runs, and whoever waits for it: a POST has no connection that could be dropped."""
    async with running_engine(session_timeout=0.2) as engine:
        if holder == "a connection":
            session, _ = await connected(engine)
        else:
            session = await engine.open_session("somebody")
        first = begin(engine, session, sh("sleep 0.5"))
        second = begin(engine, session, sh("sleep 0.6"))
        await end_of(first)
        await end_of(second)
        assert reason_of(first) is reason_of(second) is Reason.EXITED
        await wait_for(lambda: session not in engine.sessions, "it has become idle, and ended")


async def test_a_session_that_is_cut_again_has_its_window_again():
    """Each time."""
    async with running_engine(resume_window=0.3) as engine:
        session, _ = await connected(engine)
        execution = begin(engine, session, SLEEPER)
        await execution.spawned.wait()
        for _ in range(3):
            engine.sessions.connection_lost(session, Parting.CUT)
            await trio.sleep(0.15)
            engine.sessions.take_over(session, lambda _: None)
        assert execution.is_live
        engine.sessions.connection_lost(session, Parting.CUT)
        await end_of(execution)
        assert reason_of(execution) is Reason.SESSION_EXPIRED


# Endings


async def test_everything_is_ended_when_told_to():
    """All sessions at once, hostile programs included, each with the grace that was asked for."""
    async with running_engine() as engine:
        sessions = [(await connected(engine))[0] for _ in range(3)]
        executions = []
        for number, program in enumerate(HOSTILE.values()):
            executions.append(begin(engine, sessions[number % 3], program.argv, grace=1000.0))
        for execution, program in zip(executions, HOSTILE.values(), strict=True):
            await lines_of(execution, program.lines)
        with trio.fail_after(PATIENCE):
            ended = await engine.end_all(0.2)
        assert all(not each.is_live for each in executions)
        assert {reason_of(each) for each in ended} <= {Reason.SHUTDOWN}
        assert not engine.live
        assert not described(living(engine._keeper.pid))


async def test_two_hundred_running_ones_are_ended_in_two_seconds():
    """In the middle of their work."""
    async with running_engine() as engine:
        session, _ = await connected(engine)
        executions = [begin(engine, session, SLEEPER) for _ in range(200)]
        for execution in executions:
            await execution.spawned.wait()
        with trio.fail_after(2):
            assert len(await engine.end_all(None)) == 200


async def test_a_burst_that_loses_its_client_in_the_middle():
    """Two hundred asked for, and the connection closes while they start: each has ended, and none is left."""
    async with running_engine() as engine:
        session, _ = await connected(engine)
        executions = [begin(engine, session, SLEEPER) for _ in range(200)]
        await executions[50].spawned.wait()
        engine.sessions.connection_lost(session, Parting.CLOSED)
        for execution in executions:
            await end_of(execution)
        assert {reason_of(each) for each in executions} == {Reason.DISCONNECTED}
        assert not living(engine._keeper.pid)


async def test_an_engine_that_is_cancelled_ends_what_it_runs():
    """Every execution gets its end, also one that outlives sessions."""
    async with running_engine() as engine:
        session, _ = await connected(engine)
        executions = [begin(engine, session, TERM_PROOF.argv, grace=0.2) for _ in range(3)]
        executions.append(begin(engine, session, SLEEPER, on_disconnect="detach"))
        await executions[-1].spawned.wait()
        for execution in executions[:3]:
            await lines_of(execution, 1)
    assert {reason_of(each) for each in executions} == {Reason.SHUTDOWN}
    assert not engine.sessions
    assert not engine.live


async def test_a_fault_of_ours_ends_one_execution_only(monkeypatch, caplog):
    """It is logged, the execution is lost, and the others go on."""
    supervise = engine_module.supervise

    async def fail_for_some(execution: Execution, *words: object) -> None:
        if execution.spec.argv == ("sleep", "1001"):
            raise RuntimeError("a fault of ours")
        await supervise(execution, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_module, "supervise", fail_for_some)
    async with running_engine() as engine:
        session, _ = await connected(engine)
        good = begin(engine, session, SLEEPER)
        bad = await run(engine, session, ("sleep", "1001"))
        assert reason_of(bad) is Reason.LOST
        assert bad.outcome is not None
        assert "a fault of ours" not in bad.outcome.error
        assert bad.spawned.is_set()
        assert good.is_live
        await wait_for(lambda: living(engine._keeper.pid) == {good.pid}, "nothing of it is left")
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None


# What is remembered


async def test_what_has_finished_is_remembered_for_a_while(monkeypatch):
    """So many, the oldest going first; what lives is never forgotten."""
    monkeypatch.setattr(records, "REMEMBERED_EXECUTIONS", 5)
    async with running_engine() as engine:
        session, _ = await connected(engine)
        running = begin(engine, session, SLEEPER)
        finished = [await run(engine, session, ("true",)) for _ in range(12)]
        expected = {execution.id: execution for execution in [running, *finished[-5:]]}
        assert engine.executions == session.executions == expected
        assert engine.live == session.live == {running.id: running}
        assert engine.started_total == 13


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"stdin_open": True},
        {"pty": TerminalSize(80, 24), "stdin_open": True},
        {"limits": Limits(cpu_seconds=100.0)},
        {"stall_timeout": 100.0, "timeout": 100.0},
        {"agent": "claude", "post_result_grace": 100.0},
        {"leftovers": "detach"},
    ],
    ids=lambda wanted: ", ".join(wanted) or "plain",
)
async def test_what_has_been_forgotten_is_gone(monkeypatch, wanted):
    """No cycle of references keeps a finished execution, and its output, until the collector comes around to it."""
    monkeypatch.setattr(records, "REMEMBERED_EXECUTIONS", 1)
    async with running_engine() as engine:
        session = await engine.open_session("test")
        gc.collect()
        gc.disable()
        try:
            kept = [weakref.ref(await run(engine, session, sh("echo x"), **wanted)) for _ in range(3)]
            await run(engine, session, ("true",))
            await wait_for(lambda: len(engine.executions) == 1, "the others have been forgotten")
            await wait_all_tasks_blocked()
            assert [ref() for ref in kept] == [None] * 3
        finally:
            gc.enable()


async def test_the_memory_of_what_has_finished_is_bounded(monkeypatch):
    """In bytes: the output of the oldest goes first, and the newest always stays."""
    monkeypatch.setattr(records, "REMEMBERED_BYTES", 500_000)
    async with running_engine() as engine:
        session, _ = await connected(engine)
        finished = [await run(engine, session, sh("head -c 100000 /dev/zero")) for _ in range(12)]
        assert sum(each.log.held_bytes for each in engine.executions.values()) <= 500_000
        assert list(engine.executions.values()) == finished[-4:]
        huge = await run(engine, session, sh("head -c 2000000 /dev/zero"))
        assert engine.executions == session.executions == {huge.id: huge}
        assert huge.log.sizes["stdout"] == 2_000_000


async def test_what_outlives_its_session_is_remembered_too():
    """Its client may ask for it by its id, from another session."""
    async with running_engine() as engine:
        session, _ = await connected(engine)
        execution = begin(engine, session, sh("sleep 0.2; echo late"), on_disconnect="detach")
        engine.sessions.connection_lost(session, Parting.CLOSED)
        await wait_for(lambda: session not in engine.sessions, "the session has ended")
        await end_of(execution)
        assert reason_of(execution) is Reason.EXITED
        assert engine.find(execution.id) is execution
        assert text_of(execution, "stdout") == b"late\n"


async def test_an_execution_is_found_by_its_id_or_the_only_one_that_starts_so():
    """Four characters at least, where a prefix is asked for; never one of several."""
    async with running_engine() as engine:
        session, _ = await connected(engine)
        first, second = [begin(engine, session, ("true",)) for _ in range(2)]
        for execution, name in ((first, "abcd1111"), (second, "abcd2222")):
            del engine.executions[execution.id]
            engine.executions[name] = execution
        assert engine.find("abcd1111") is first
        assert engine.find("abcd1") is None
        assert engine.find("abcd1", prefix=True) is first
        assert engine.find("abcd", prefix=True) is None
        assert engine.find("abc", prefix=True) is None
        assert engine.find("ffff", prefix=True) is None
        engine.executions = {execution.id: execution for execution in (first, second)}
        await end_of(first)
        await end_of(second)
        assert first.state is second.state is State.FINISHED


# What is left running


async def test_a_stop_ends_what_was_left_running():
    """By TERM, grace and KILL, as what still executes; only the one that is deaf to TERM takes all of its grace."""
    async with running_engine() as engine:
        session, _ = await connected(engine)
        for program in LEAVING:
            execution = await run(engine, session, program.argv, leftovers="detach", grace=0.3)
            assert execution.leaves_running
        assert len(living()) == len(LEAVING) + 1  # and the keeper
        assert engine.leftovers.longest_grace(None) == 0.3
        began = time.monotonic()
        assert await engine.end_all(None) == []
        assert 0.3 <= time.monotonic() - began < 2
        assert not any(each.leaves_running for each in engine.executions.values())
        assert len(living()) == 1
        assert engine.leftovers.longest_grace(None) == 0


async def test_what_was_left_running_outlives_its_session():
    """The execution is over, so no parting ends anything of it."""
    async with running_engine() as engine:
        session, _ = await connected(engine)
        execution = await run(engine, session, PIPE_HOLDER.argv, leftovers="detach")
        engine.sessions.connection_lost(session, Parting.CLOSED)
        await wait_for(lambda: session not in engine.sessions, "the session has ended")
        assert execution.leaves_running
        assert set(await execution.processes()) == set(execution.outcome.leftovers)


# The daemon's sudden death


LEAVING = (LEADER_FIRST, PIPE_HOLDER)
"""Programs that end, and leave something."""


@pytest.fixture(params=["walk", "control groups"])
def doomed(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in a process of its own, with fifty hostile programs and what two others have left running."""
    programs = [(program, "kill") for program in [*HOSTILE.values()] * 3 + [TERM_PROOF] * 5]
    programs += [(program, "detach") for program in LEAVING]
    daemon = subprocess.Popen(
        [sys.executable, "-m", "tests.process.lone_engine", request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": str(Path(ccexecd.__file__).parents[1])},
    )
    assert daemon.stdin
    assert daemon.stdout
    daemon.stdin.write(
        json.dumps([[program.argv, program.lines, leftovers] for program, leftovers in programs]).encode()
    )
    daemon.stdin.close()
    assert daemon.stdout.readline().startswith(b"up ")
    yield daemon
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()


async def test_nothing_outlives_a_daemon_that_is_killed(doomed):
    """Fifty hostile trees, and what was left running: nothing is there within their grace and two seconds."""
    assert len(living(doomed.pid)) > 50
    doomed.kill()
    doomed.wait()
    began = time.monotonic()
    await wait_for(lambda: not living(), "everything is gone")
    assert time.monotonic() - began < GRACE + 2
