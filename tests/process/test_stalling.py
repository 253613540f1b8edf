"""When silence is a stall: for a command whose listener understands silence, only if nothing goes on."""

from typing import Any

import pytest
import trio

from ccexecd.core.entries import Note
from ccexecd.core.execution import Reason
from ccexecd.core.spec import Spec
from ccexecd.engine import Engine, Execution
from ccexecd.process.listening import Listener

from .programs import python, sh
from .stage import end_of, lines_of, running_engine

LIMIT = 0.4

BUSY = python("import os\nos.write(1, b'x\\n')\nwhile True: pass")


class Knowing(Listener):
    """Says whether something goes on."""

    understands_silence = True

    def __init__(self) -> None:
        self.at_work = False
        self.asked = trio.Event()

    def is_at_work(self) -> bool:
        """As it was told."""
        self.asked.set()
        return self.at_work


async def begin(engine: Engine, argv: tuple[str, ...], listener: Listener | None, **spec: Any) -> Execution:
    """Have something executed that may be silent for a moment."""
    engine.listener_factories = [lambda _: listener]
    session = await engine.open_session("somebody")
    return engine.admit(session, Spec(argv, argv[0], **{"stall_timeout": LIMIT, "grace": 1.0, **spec}))


def methods_of(execution: Execution) -> list[str]:
    """The state changes in its log."""
    cursor = execution.log.cursor(0)
    found = [each.method for each in iter(cursor.take, None) if isinstance(each, Note)]
    cursor.close()
    return found


def reason_of(execution: Execution) -> Reason:
    """Why it ended."""
    assert execution.outcome is not None
    return execution.outcome.reason


async def test_a_stall_is_warned_of_and_ended():
    """Whether anybody understands its silence or not, where it does nothing."""
    async with running_engine() as engine:
        for listener in (None, Knowing()):
            execution = await begin(engine, sh("echo x; exec sleep 1000"), listener)
            await end_of(execution)
            assert reason_of(execution) is Reason.STALLED
            assert methods_of(execution) == ["process.started", "process.stalled", "process.completed"]


async def test_what_is_at_work_has_not_stalled():
    """However long it is silent; when that is over, the silence begins anew."""
    async with running_engine() as engine:
        listener = Knowing()
        listener.at_work = True
        execution = await begin(engine, sh("echo x; exec sleep 1000"), listener)
        await lines_of(execution, 1)
        for _ in range(4):  # at the warning and at the end of the time, twice
            listener.asked = trio.Event()
            await listener.asked.wait()
        assert execution.intent is None
        assert methods_of(execution) == ["process.started"]
        listener.at_work = False
        await end_of(execution)
        assert reason_of(execution) is Reason.STALLED


@pytest.mark.parametrize(("listener", "reason"), [(None, Reason.STALLED), (Knowing(), Reason.TIMEOUT)])
async def test_what_computes_has_not_stalled(listener, reason):
    """Where somebody understands silence, processor time counts; elsewhere a byte is what counts."""
    async with running_engine() as engine:
        execution = await begin(engine, BUSY, listener, timeout=LIMIT * 4)
        await end_of(execution)
        assert reason_of(execution) is reason


async def test_only_signs_of_life_end_a_silence():
    """What is written to another stream is no progress."""
    async with running_engine() as engine:
        noise = "echo x; while :; do echo noise >&2; sleep 0.05; done"
        execution = await begin(engine, sh(noise), None)
        execution.signs_of_life = ("stdout",)
        await end_of(execution)
        assert reason_of(execution) is Reason.STALLED


async def test_a_pause_is_no_silence():
    """Nor is it a stall when the measuring is overtaken by one."""
    async with running_engine() as engine:
        execution = await begin(engine, sh("echo x; exec sleep 1000"), Knowing())
        await lines_of(execution, 1)
        await execution.pause()
        await trio.sleep(LIMIT * 1.5)
        assert execution.is_live
        assert "process.stalled" not in methods_of(execution)
        await execution.resume()
        await end_of(execution)
        assert reason_of(execution) is Reason.STALLED
