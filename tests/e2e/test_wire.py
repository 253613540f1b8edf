"""The wire as a client sees it: greeting, manners, envelopes, and one golden conversation in each manner.

The files in tests/golden/wire are what both sides say, with everything masked that differs from run to run; a
difference is a decision to be reviewed. After a wanted change: CCEXEC_WRITE_GOLDEN=1 pytest tests/e2e/test_wire.py
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from .client import RefusedError

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"

MANNERS = {"earlier": None, "ccexec-v1": "ccexec.v1"}

_MASKED = {
    **dict.fromkeys(("execution_id", "session_id", "resume_token", "server_epoch", "version"), str),
    **dict.fromkeys(("pid", "pgid", "max_rss_bytes"), int),
    **dict.fromkeys(("duration", "user_s", "system_s"), float),
    "started_at": str,
}


def masked(value: Any, key: str = "") -> Any:
    """A message without what differs from run to run; that it has the right type is still seen."""
    if isinstance(value, dict):
        return {name: masked(each, name) for name, each in value.items()}
    kind = _MASKED.get(key)
    return f"<{kind.__name__}>" if kind is not None and isinstance(value, kind) else value


@pytest.mark.parametrize("manner", MANNERS)
async def test_a_conversation_is_golden(client, manner):
    """What a client reads of one simple execution is, byte for byte but for ids and times, what was reviewed."""
    async with client(subprotocol=MANNERS[manner]) as one:
        await one.run(command="env printf 'one\\ntwo\\n'; exit 3", timeout=60)  # bash's own printf writes twice
        with pytest.raises(RefusedError):
            await one.request("control", type="PAUSE")
        shown = "".join(json.dumps(masked(message)) + "\n" for message in one.received)
    golden = GOLDEN / f"{manner}.jsonl"
    if os.environ.get("CCEXEC_WRITE_GOLDEN"):
        golden.write_text(shown)
    assert golden.read_text() == shown


async def test_the_greeting_comes_first_and_says_what_a_client_needs(client):
    """The first message is `connected`, a notification, with the claim to the session and what this daemon can do."""
    async with client() as one, client() as other:
        first = one.received[0]
        assert first.keys() == {"jsonrpc", "method", "params"}
        assert (first["jsonrpc"], first["method"]) == ("2.0", "connected")
        assert {"execute", "control", "stream"} <= set(one.greeting["capabilities"])
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one.greeting["session_id"])
        assert len(one.greeting["resume_token"]) >= 32
        assert one.greeting["limits"]["max_message_bytes"] == 10 * 1024 * 1024
        assert one.greeting["version"]
        assert one.greeting["server_epoch"] == other.greeting["server_epoch"]
        assert one.greeting["session_id"] != other.greeting["session_id"]
        assert one.greeting["resume_token"] != other.greeting["resume_token"]


@pytest.mark.parametrize(("path", "offered"), [("/ws/mcp", "ccexec.v1"), ("/ws/mcp", None), ("/ws", None)])
async def test_an_offered_subprotocol_that_is_known_is_selected(client, path, offered):
    """`ccexec.v1` is selected where it is offered, nothing where nothing is; earlier clients' second path works."""
    async with client(subprotocol=offered, path=path) as one:
        assert one.subprotocol == offered
        assert (await one.run("true")).reply["status"] == "started"


class TestEarlierManner:
    """Clients without a subprotocol: they were written for the earlier system."""

    async def test_every_line_comes_by_itself(self, client):
        """One line per `process.output`, an empty one and the unfinished last one too."""
        async with client(subprotocol=None) as one:
            done = await one.run(command="printf 'first\\n\\nthird {\"a\": 1}\\nno end'")
            assert [piece["data"] for piece in done.pieces()] == ["first\n", "\n", 'third {"a": 1}\n', "no end"]
            assert {piece["truncated"] for piece in done.pieces()} == {False}

    async def test_a_second_execution_has_to_wait_for_the_first(self, client):
        """While one runs, `execute` is -32602 "A process is already running"; afterwards it is taken."""
        async with client(subprotocol=None) as one:
            first = await one.execute(command="sleep 300")
            with pytest.raises(RefusedError) as refused:
                await one.execute(command="true")
            assert (refused.value.code, refused.value.message) == (-32602, "A process is already running")
            await one.request("control", type="CANCEL")
            await first.completed()
            assert (await one.run(command="echo again")).stdout == "again\n"

    async def test_params_that_nobody_knows_are_passed_over(self, client):
        """Earlier clients send `id`, `path` and more inside params: the command runs all the same."""
        async with client(subprotocol=None) as one:
            assert (await one.run(command="echo fine", id=1, path="/x", stream=True)).stdout == "fine\n"

    async def test_commands_are_bash(self, client):
        """A command string may use what bash has and sh has not."""
        async with client(subprotocol=None) as one:
            done = await one.run(command="for i in {1..5}; do echo $i; done; [[ a == a ]] && echo bash")
            assert done.stdout == "1\n2\n3\n4\n5\nbash\n"

    async def test_control_needs_no_id(self, client):
        """The only live execution is meant, and its notifications come besides the replies."""
        async with client(subprotocol=None) as one:
            execution = await one.execute(command="sleep 300")
            for kind, status in (("PAUSE", "paused"), ("RESUME", "resumed"), ("CANCEL", "cancelled")):
                assert (await one.request("control", type=kind))["status"] == status
                params = await one.notification(f"process.{status}")
                assert (params["status"], params["pid"], params["pgid"]) == (status, execution.pid, execution.pid)
            await execution.completed()

    async def test_a_message_that_is_not_json_rpc_is_answered(self, client):
        """`{"type": "execute"}` and `control` without a type get an error, not silence."""
        async with client(subprotocol=None) as one:
            await one.send({"type": "execute", "command": "echo hi"})
            reply = await one.until(lambda message: "error" in message)
            assert (reply["id"], reply["error"]["code"]) == (None, -32600)
            with pytest.raises(RefusedError, match="-32602"):
                await one.request("control", action="info")

    async def test_a_pong_is_accepted_and_ignored(self, client):
        """The notification of earlier clients' liveness changes nothing."""
        async with client(subprotocol=None) as one:
            await one.send({"jsonrpc": "2.0", "method": "pong", "params": {"whatever": 1}})
            assert (await one.run("echo", "alive")).stdout == "alive\n"
            assert [message for message in one.received if "error" in message] == []


class TestV1Manner:
    """Clients of subprotocol `ccexec.v1`."""

    async def test_whole_lines_come_many_at_a_time(self, client):
        """A notification holds whole lines; a burst of 100,000 comes in far fewer notifications than lines."""
        async with client() as one:
            done = await one.run("seq", "100000")
            assert all(piece["data"].endswith("\n") for piece in done.pieces())
            assert done.stdout == "".join(f"{number}\n" for number in range(1, 100_001))
            assert len(done.pieces()) < 1000

    async def test_several_executions_share_a_connection(self, client):
        """Each has its own sequence, and no output goes astray."""
        async with client() as one:
            started = [await one.execute("sh", "-c", f"seq 1000 | sed s/^/{name}/; exit {name}") for name in range(5)]
            for name, execution in enumerate(started):
                assert (await execution.completed())["exit_code"] == name
                assert execution.stdout == "".join(f"{name}{number}\n" for number in range(1, 1001))

    async def test_params_that_nobody_knows_are_refused(self, client):
        """A misspelt param is -32602 with its path and the names that are known, never silently without effect."""
        async with client() as one:
            with pytest.raises(RefusedError, match="tiemout") as refused:
                await one.execute("true", tiemout=1)
            assert refused.value.code == -32602

    async def test_framing_can_be_chosen(self, client):
        """`framing: "line"` gives this client one line at a time too."""
        async with client() as one:
            done = await one.run("seq", "3", framing="line")
            assert [piece["data"] for piece in done.pieces()] == ["1\n", "2\n", "3\n"]


async def test_the_reply_comes_before_the_start_the_output_and_the_end(client):
    """A client knows the id before anything is said of the execution, and the end is the last that is said."""
    async with client() as one:
        for _ in range(20):
            await one.run("echo", "quick")
        told = [message.get("method", "reply") for message in one.received[1:]]
        assert told == ["reply", "process.started", "process.output", "process.completed"] * 20


class TestEnvelope:
    """JSON-RPC 2.0 as its specification has it."""

    @pytest.mark.parametrize("number", [0, "", "0", "a-b", -1, 1.5, None, 2**53])
    async def test_an_id_comes_back_as_it_was(self, client, number):
        """Zero, empty, null, text or fraction: whatever the client numbers by."""
        async with client() as one:
            await one.send({"jsonrpc": "2.0", "id": number, "method": "list"})
            reply = await one.until(lambda message: "result" in message)
            assert (reply["id"], type(reply["id"])) == (number, type(number))

    async def test_a_notification_is_never_answered(self, client):
        """Not when it works, not when the method is unknown, not when the params are wrong."""
        async with client() as one:
            for method, params in (("list", {}), ("no_such", {}), ("execute", {"command": 7}), ("control", {})):
                await one.send({"jsonrpc": "2.0", "method": method, "params": params})
            await one.request("list")
            assert len(one.received) == 2  # the greeting and that last reply

    async def test_a_batch_is_answered_as_one(self, client):
        """All replies in one array, faulty calls among them; notifications have none."""
        async with client() as one:
            await one.send(
                [
                    {"jsonrpc": "2.0", "id": 0, "method": "list"},
                    {"jsonrpc": "2.0", "method": "pong"},
                    {"jsonrpc": "2.0", "id": "x", "method": "no_such"},
                    7,
                    {"jsonrpc": "2.0", "id": 5, "method": "execute", "params": {"argv": ["true"]}},
                ]
            )
            replies = await one.batch()
            ended = await one.notification("process.completed")
            (executed,) = [each for each in replies if each["id"] == 5]  # the order of a batch's replies is free
            assert ended["execution_id"] == executed["result"]["execution_id"]
            assert [type(each) for each in one.received] == [
                dict,
                list,
                dict,
                dict,
            ]  # the greeting, the replies, its life
            assert {(each["id"], each.get("error", {}).get("code")) for each in replies} == {
                (0, None),
                ("x", -32601),
                (None, -32600),
                (5, None),
            }

    async def test_a_batch_of_notifications_is_not_answered(self, client):
        """Nothing comes back, not even an empty array."""
        async with client() as one:
            await one.send([{"jsonrpc": "2.0", "method": "pong"}] * 2)
            await one.request("list")
            assert len(one.received) == 2

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("", -32700),
            ("{", -32700),
            ("{'a': 1}", -32700),
            ('{"jsonrpc": "2.0", "method": "list", "id": 1', -32700),
            ("NaN", -32700),
            ("[]", -32600),
            ("7", -32600),
            ('"execute"', -32600),
            ("null", -32600),
            ('{"jsonrpc": "1.0", "id": null, "method": "list"}', -32600),
            ('{"jsonrpc": "2.0", "id": {}, "method": "list"}', -32600),
            ('{"jsonrpc": "2.0", "id": null, "method": 1}', -32600),
            ('{"jsonrpc": "2.0", "id": null, "method": "list", "params": 1}', -32600),
            ('{"jsonrpc": "2.0", "id": null, "method": "list", "params": []}', -32602),
            ('{"jsonrpc": "2.0", "id": null, "method": "no_such"}', -32601),
            ('{"jsonrpc": "2.0", "id": null, "method": ""}', -32601),
        ],
    )
    async def test_what_is_no_request_is_answered_with_the_code_for_it(self, client, text, code):
        """Unreadable, not a call, or not a method: each has its own code, and the connection goes on."""
        async with client() as one:
            await one.send(text)
            reply = await one.until(lambda message: "error" in message)
            assert (reply["id"], reply["error"]["code"]) == (None, code)
            assert (await one.request("list"))["executions"] is not None

    async def test_a_binary_message_is_answered(self, client):
        """Messages are text frames; a binary one is told so."""
        async with client() as one:
            await one.send(b'{"jsonrpc": "2.0", "id": 1, "method": "list"}')
            reply = await one.until(lambda message: "error" in message)
            assert (reply["id"], reply["error"]["code"]) == (None, -32600)

    async def test_many_requests_at_once_are_all_answered(self, client):
        """A client may send without waiting: 500 requests, 500 replies."""
        async with client() as one, trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(one.request, "list")
