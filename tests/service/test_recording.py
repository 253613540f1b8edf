"""Calls that the audit tells of: it says what was decided, whenever that was."""

from contextlib import nullcontext
from typing import Any

import orjson
import pytest
import trio

from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.recording import Undecided, recorded
from ccexecd.storage.chain import files_in
from tests.e2e.client import RefusedError
from tests.in_process import Running, running


def records(daemon: Running, kind: str) -> list[dict[str, Any]]:
    """What the audit has of a kind."""
    lines = [line for file in files_in(daemon.directory / "audit") for line in file.read_bytes().splitlines()]
    return [record for record in map(orjson.loads, lines) if record["kind"] == kind]


async def test_what_is_refused_later_is_recorded_as_refused(tmp_path):
    """Where a name or the disk has to be asked first: somebody else's execution, one that nobody has, a taken name."""
    async with running(tmp_path) as daemon:
        token = (await daemon.ask("token_add", name="ci", scopes=["execute"]))["token"]
        async with daemon.client() as owner, daemon.client(token=token) as other:
            one = await owner.execute("sleep", "60")
            for name in (one.id, "0" * 36, "sk-ant-" + "x" * 40):
                with pytest.raises(RefusedError, match="-32003"):
                    await other.request("control", execution_id=name, type="KILL")
            with pytest.raises(RefusedError, match="-32602"):
                await daemon.ask("token_add", name="ci", scopes=["observe"])
            await owner.request("control", execution_id=one.id, type="KILL")
            with pytest.raises(RefusedError, match="-32005"):
                await owner.request("control", execution_id=one.id, type="KILL")
            two = await owner.execute("sleep", "60", on_disconnect="detach")
        told = [(each["method"], each["decision"], each["principal"]) for each in records(daemon, "call")]
        uid = told[0][2]
        assert told == [
            ("token_add", "allowed", uid),
            *[("control", "refused", "ci")] * 3,
            ("token_add", "refused", uid),
            ("control", "allowed", uid),
            ("control", "refused", uid),
        ]
        assert all(each["reason"] for each in records(daemon, "call") if each["decision"] == "refused")
        for code in ("", "-32005"):  # by the beginning of its id: who looks for what was done to it finds that, too
            with pytest.raises(RefusedError, match=code) if code else nullcontext():
                await daemon.ask("control", execution_id=two.id[:8], type="PAUSE")
            assert records(daemon, "call")[-1]["execution_id"] == two.id
        assert "x" * 40 not in str(records(daemon, "call"))


async def test_what_needs_no_name_is_recorded_with_it(tmp_path):
    """The only execution of a session is meant where none is named; where two could be, none was."""
    async with running(tmp_path) as daemon, daemon.client() as one:
        first = await one.execute("sleep", "60")
        await one.request("control", type="PAUSE")
        second = await one.execute("sleep", "60")
        with pytest.raises(RefusedError, match="-32014"):
            await one.request("control", type="RESUME")
        assert [each.get("execution_id") for each in records(daemon, "call")] == [first.id, None]
        for each in (first, second):
            await one.request("control", execution_id=each.id, type="KILL")


async def test_what_lacks_the_scope_is_counted_and_recorded(tmp_path):
    """At either door, as where HTTP asks for one: in the metrics, and once in the audit."""
    async with running(tmp_path) as daemon:
        token = (await daemon.ask("token_add", name="ci", scopes=["observe"]))["token"]
        async with daemon.client(token=token) as one:
            for _ in range(3):
                with pytest.raises(RefusedError, match="-32110"):
                    await one.request("control", type="KILL")
        assert daemon.daemon._refusals.counts == {"scope": 3}
        (entry,) = records(daemon, "entry")
        assert (entry["door"], entry["decision"]) == ("scope of ci", "refused")
        assert entry["peer"].startswith("127.0.0.1:")


class Peer:
    """Somebody who calls, and what is told of that."""

    def __init__(self) -> None:
        self.told: list[dict] = []
        self.origin = "somewhere"
        self.principal = self.engine = self.gate = self
        self.name = "ci"
        self.session = None

    def asked(self, _principal: str, _peer: str, facts: dict) -> None:
        """Keep it."""
        self.told.append(facts)


async def test_what_was_allowed_and_not_done_has_both():
    """Decided first, and told; then the reason why it could not be done after all."""
    peer = Peer()

    async def late():
        raise RPCError(-32005, "it has finished meanwhile")

    with pytest.raises(RPCError):
        await recorded(peer, "control", object(), late)
    assert [each["decision"] for each in peer.told] == ["allowed", "refused"]


async def test_who_leaves_before_the_decision_is_on_record():
    """A connection that is cut in time does nothing unseen."""
    peer = Peer()

    async def decide():
        await trio.sleep_forever()

    with trio.move_on_after(0):
        await recorded(peer, "token_add", object(), lambda: Undecided(decide()))
    assert [each["decision"] for each in peer.told] == ["allowed"]
