"""Programs in C that write line by line into a pipe, because they were asked to."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from ccexecd.core.execution import Reason, State
from ccexecd.core.spec import Spec
from ccexecd.engine import Engine
from ccexecd.process import line_buffering
from ccexecd.process.execution import Execution
from ccexecd.process.leader import SpawnError
from ccexecd.process.line_buffering import LineBuffering

from .programs import SLEEPER, sh
from .stage import end_of, lines_of, running_engine, text_of, wait_for

needs_stdbuf = pytest.mark.skipif(not shutil.which("stdbuf"), reason="no stdbuf here (GNU coreutils)")

PATH = os.environ["PATH"]


async def begin(engine: Engine, argv: tuple[str, ...], **spec: object) -> Execution:
    """Have something executed that writes line by line."""
    session = await engine.open_session("somebody")
    chosen = {"display": argv[0], "grace": 5.0, "stdbuf": True, **spec}
    return engine.admit(session, Spec(argv, **chosen))  # type: ignore[arg-type]


async def environment_of(engine: Engine, **spec: object) -> dict[str, str]:
    execution = await begin(engine, ("env", "-0"), **spec)
    await end_of(execution)
    return dict(entry.split("=", 1) for entry in text_of(execution, "stdout").decode().split("\0") if entry)


@needs_stdbuf
@pytest.mark.parametrize("spec", [{}, {"display": "tr a b", "shell": True}], ids=["words", "a string"])
async def test_a_line_arrives_when_it_is_written(spec):
    """Without it, a program in C keeps its lines until there are many; with it, the first comes at once."""
    argv = ("bash", "-c", "tr a b") if spec else ("tr", "a", "b")
    async with running_engine() as engine:
        plain = await begin(engine, argv, stdin_open=True, stdbuf=False, **spec)
        lined = await begin(engine, argv, stdin_open=True, **spec)
        for execution in (plain, lined):
            await execution.stdin.write(b"aha\n")
        await lines_of(lined, 1)
        assert text_of(lined, "stdout") == b"bhb\n"
        assert text_of(plain, "stdout") == b""
        for execution in (plain, lined):
            await execution.stdin.close()
            await end_of(execution)
            assert text_of(execution, "stdout") == b"bhb\n"


@needs_stdbuf
async def test_what_is_preloaded_already_stays():
    """Of the daemon's environment or the request's; what the request removes does not come back."""
    async with running_engine({"PATH": PATH}) as engine:
        found = await environment_of(engine)
        library = found["LD_PRELOAD"]
        assert library.endswith("/libstdbuf.so")
        assert (found["_STDBUF_O"], found["_STDBUF_E"]) == ("L", "L")
        assert (await environment_of(engine, env={"LD_PRELOAD": library}))["LD_PRELOAD"] == f"{library}:{library}"
        assert "LD_PRELOAD" not in await environment_of(engine, stdbuf=False)
    async with running_engine({"PATH": PATH, "LD_PRELOAD": library}) as engine:
        assert (await environment_of(engine))["LD_PRELOAD"] == f"{library}:{library}"
        assert (await environment_of(engine, unset=("LD_PRELOAD",)))["LD_PRELOAD"] == library
        assert (await environment_of(engine, stdbuf=False))["LD_PRELOAD"] == library


@needs_stdbuf
async def test_stdbuf_is_asked_once(monkeypatch):
    """The first execution waits for the answer in the background; later ones begin in the step of their admission."""
    asked = []

    def ask(path: str) -> dict[str, str]:
        asked.append(path)
        return real(path)

    real = line_buffering._ask
    monkeypatch.setattr(line_buffering, "_ask", ask)
    async with running_engine() as engine:
        for _ in range(3):
            await environment_of(engine)
        assert asked == [PATH]


@needs_stdbuf
async def test_what_is_asked_of_the_first_one_meanwhile_is_heard():
    """It is there from its admission on: a cancel or a pause right behind it finds it."""
    async with running_engine() as engine:
        cancelled = await begin(engine, SLEEPER)
        assert cancelled.state is State.STARTING
        cancelled.cancel(Reason.CANCELLED)
        paused = await begin(engine, SLEEPER)
        assert await paused.pause() == []
        assert paused.state is State.PAUSED
        await end_of(cancelled)
        assert cancelled.outcome.reason is Reason.CANCELLED
        paused.cancel(Reason.CANCELLED, 0.0)
        await end_of(paused)


def programs(folder: Path, **scripts: str) -> Mapping[str, str]:
    """An environment whose only programs are these."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


@pytest.mark.parametrize(
    ("scripts", "why"),
    [
        ({}, "there is none on this machine"),
        ({"stdbuf": "exit 1"}, "it names no library"),
        ({"stdbuf": "echo LD_PRELOAD=/nowhere/libstdbuf.so"}, "it names no library"),
        ({"stdbuf": "exec /bin/sleep 1000"}, "timed out"),
    ],
    ids=["none", "it fails", "no library", "it hangs"],
)
async def test_where_there_is_none_it_is_said(tmp_path, monkeypatch, scripts, why):
    """Rather than buffered in silence: the execution has failed to start, and the error says what to install."""
    monkeypatch.setattr(line_buffering, "_PATIENCE", 0.5)
    async with running_engine(programs(tmp_path, **scripts)) as engine:
        execution = await begin(engine, ("/bin/sh", "-c", "true"))
        await end_of(execution)
        error = execution.spawn_error
        assert isinstance(error, SpawnError)
        assert error.subject == "stdbuf"
        assert why in str(error)
        assert "install stdbuf of GNU coreutils" in str(error)
        assert execution.outcome.reason is Reason.SPAWN_FAILED
        other = await begin(engine, ("/bin/sh", "-c", "true"), stdbuf=False)
        await end_of(other)
        assert other.outcome.exit_code == 0


@needs_stdbuf
async def test_it_is_looked_for_again(tmp_path):
    """Whoever installs it need not restart the daemon."""
    found = LineBuffering(str(tmp_path))
    with pytest.raises(SpawnError):
        await found.find()
    for name in ("stdbuf", "env"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    await found.find()
    assert found.is_known


@needs_stdbuf
async def test_the_end_of_everything_does_not_lose_it():
    """Cancelled while the question is under way, an execution comes to an end like any other."""
    async with running_engine() as engine:
        execution = await begin(engine, sh("echo x; sleep 1000"))
        await trio.lowlevel.checkpoint()
        await engine.end_all(0.0)
        await wait_for(lambda: execution.outcome, "it has ended")
        assert execution.outcome.reason is Reason.SHUTDOWN


@needs_stdbuf
@pytest.mark.usefixtures("no_thread")
async def test_without_a_thread_it_is_refused_and_says_so():
    """Nobody is told that stdbuf is missing, or of a fault of the daemon; later it is looked for again."""
    looking = LineBuffering(PATH)
    with pytest.raises(SpawnError, match=r"stdbuf: no thread can be started .*; try again"):
        await looking.find()
    assert not looking.is_known
