"""Requests that are sent again: what their keys stand for, and that nothing runs twice."""

from collections.abc import Iterator

import pytest
import trio
import trio.testing

from ccexecd import records
from ccexecd.admission import AdmissionError, Refusal
from ccexecd.core.spec import Once, Spec
from ccexecd.engine import Engine, Execution, Session
from ccexecd.idempotency import IdempotencyKeys
from ccexecd.keys import Config
from ccexecd.records import retention_of
from ccexecd.storage.archive import Archive
from ccexecd.storage.audit import Audit

from .process.stage import end_of, nothing_left, running_engine


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """Walk what is below this process once a test is over, and fail on whatever it left."""
    with nothing_left():
        yield


def begin(engine: Engine, session: Session, key: str, fingerprint: str = "one") -> Execution:
    """Have something executed under a key."""
    return engine.admit(session, Spec(("true",), "true", once=Once(key, fingerprint)))


async def test_a_key_stands_for_its_execution():
    """Of its principal alone, and for these params alone."""
    async with running_engine() as engine:
        session = await engine.open_session("somebody")
        execution = begin(engine, session, "k")
        assert await engine.idempotency_keys.find("somebody", Once("k", "one")) is execution
        assert await engine.idempotency_keys.find("somebody", Once("other", "one")) is None
        assert await engine.idempotency_keys.find("else", Once("k", "one")) is None
        with pytest.raises(AdmissionError, match="with other params") as refused:
            await engine.idempotency_keys.find("somebody", Once("k", "two"))
        assert refused.value.refusal is Refusal.CONFLICT
        assert refused.value.facts == {"execution_id": execution.id}
        await end_of(execution)
        assert await engine.idempotency_keys.find("somebody", Once("k", "one")) is execution


async def test_a_key_is_forgotten_with_its_execution(monkeypatch):
    """Where nothing outlives the memory; a key that is used anew stands for the new one."""
    monkeypatch.setattr(records, "REMEMBERED_EXECUTIONS", 1)
    async with running_engine() as engine:
        session = await engine.open_session("somebody")
        for key in ("a", "b"):
            await end_of(begin(engine, session, key))
        assert await engine.idempotency_keys.find("somebody", Once("a", "one")) is None
        assert await engine.idempotency_keys.find("somebody", Once("b", "one")) is not None
        assert list(engine.idempotency_keys._executions) == [("somebody", "b")]


async def test_a_key_is_known_of_what_a_crash_left_nothing_else_of(tmp_path):
    """With any params, since nobody knows its own: it was asked for, and must not run again."""
    audit = Audit(tmp_path / "audit", 1 << 20, 3)
    told = {"execution_id": "e", "session_id": "s", "principal": "somebody", "command": "true", "idempotency_key": "k"}
    audit.record("decision", {"decision": "allowed", **told})
    archive = Archive(tmp_path, retention_of(Config()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(archive.run)
        found = await IdempotencyKeys(archive).find("somebody", Once("k", "one"))
        assert found is not None
        assert found.id == "e"
        assert await IdempotencyKeys(archive).find("else", Once("k", "one")) is None
        nursery.cancel_scope.cancel()
    audit.close({})


async def test_one_at_a_time_finds_out_what_a_key_stands_for():
    """Two who come at once do not both find that it is new; other keys are not held up, and nothing is kept."""
    async with running_engine() as engine:
        held: list[str] = []

        async def ask(name: str, key: str, release: trio.Event) -> None:
            async with engine.idempotency_keys.locked("somebody", key):
                held.append(name)
                await release.wait()

        first, others = trio.Event(), trio.Event()
        others.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first", "k", first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, "second", "k", others)
            nursery.start_soon(ask, "another", "l", others)
            await trio.testing.wait_all_tasks_blocked()
            assert held == ["first", "another"]
            first.set()
        assert held == ["first", "another", "second"]
        assert not engine.idempotency_keys._locks
