"""Listeners: what they are told of an execution, and when."""

from typing import Any

import trio

from ccexecd.core.entries import Note
from ccexecd.core.spec import Spec
from ccexecd.engine import Engine, Execution
from ccexecd.process.description import describe
from ccexecd.process.listening import Listener

from .programs import sh
from .stage import PATIENCE, running_engine


class Record(Listener):
    """Writes down what it is told."""

    reads = ("stdout",)

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.told: list[Any] = []

    def has_started(self) -> None:
        """With a leader."""
        self.told.append(("started", self.execution.pid))

    def has_output(self, stream: str, received: bytes) -> None:
        """In the log already."""
        self.told.append((stream, received, self.execution.log.sizes["stdout"]))

    def is_stalling(self) -> None:
        """Near the stall time-out."""
        self.told.append("stalling")

    def is_ending(self) -> None:
        """Before the end is told."""
        self.execution.note("test.remark", {})
        self.told.append(("ending", self.execution.outcome))

    def has_ended(self) -> None:
        """After it."""
        self.told.append(("ended", self.execution.outcome))

    def facts(self) -> dict[str, object]:
        """Something to tell."""
        return {"told": len(self.told)}


async def heard(engine: Engine, spec: Spec) -> Record:
    """What a listener heard of an execution from its beginning to its end."""
    records: list[Record] = []

    def listen(execution: Execution) -> Listener | None:
        records.append(Record(execution))
        return records[-1]

    engine.listener_factories += [lambda _: None, listen]
    session = await engine.open_session("test")
    await engine.admit(session, spec).finished.wait()
    return records[0]


async def test_a_listener_hears_of_everything_in_its_order():
    """Only of the streams that it reads; what it notes at the end comes before `process.completed`."""
    async with running_engine() as engine:
        record = await heard(engine, Spec(sh("echo out; echo err >&2"), "x"))
        execution = record.execution
        ending, outcome = ("ending", None), execution.outcome
        assert record.told == [("started", execution.pid), ("stdout", b"out\n", 4), ending, ("ended", outcome)]
        assert describe(execution)["told"] == 4
        cursor = execution.log.cursor(0)
        notes = [each.method for each in iter(cursor.take, None) if isinstance(each, Note)]
        cursor.close()
        assert notes == ["process.started", "test.remark", "process.completed"]


async def test_a_listener_hears_of_what_never_ran():
    """Its end is all that there is to tell."""
    async with running_engine() as engine:
        record = await heard(engine, Spec(("/nowhere",), "x"))
        assert record.told == [("ended", record.execution.outcome)]


async def test_a_listener_hears_of_silence():
    """At the moment in which clients hear of it."""
    async with running_engine() as engine:
        record = await heard(engine, Spec(sh("sleep 60"), "x", stall_timeout=0.1, grace=0.1))
        assert "stalling" in record.told


class Faulty(Listener):
    """Breaks its promise."""

    def final_facts(self) -> dict[str, object]:
        """Raise."""
        raise ValueError("no facts")


async def test_a_fault_at_the_end_keeps_nobody_waiting():
    """The daemon's own end waits for every execution that is live: also for one whose end cannot be told."""
    async with running_engine() as engine:
        engine.listener_factories += [lambda _: Faulty()]
        session = await engine.open_session("test")
        execution = engine.admit(session, Spec(sh("exit 0"), "exit 0"))
        with trio.fail_after(PATIENCE):
            assert await engine.end_all(None) == [execution]
        assert not engine.live
