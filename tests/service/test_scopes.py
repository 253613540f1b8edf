"""The matrix: every method, every kind of principal, every scope; and what one principal can do to another's.

Every caller calls every method with a param that no method takes, so that nothing happens: who may call it is told
about the param, who may not hears that, and a method that is not served at a door is unknown there.
"""

import grp
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ccexecd.control.methods import operator_methods
from ccexecd.core.principals import Scope
from ccexecd.service.methods import EXECUTION_METHODS
from ccexecd.service.scopes import SCOPES
from tests.e2e.client import PATIENCE, Client, RefusedError, Watched
from tests.in_process import Running, running

NOBODY = 65534
CLIENTS = {*EXECUTION_METHODS, "status"}
PERMITTED, UNKNOWN, FORBIDDEN = -32602, -32601, -32110
READERS, WRITERS = (group.gr_name for group in sorted(grp.getgrall(), key=lambda each: each.gr_gid)[1:3])

OBSERVE = {
    *("attach", "detach", "read_output", "wait", "status", "list", "hook_status", "pong"),
    *("health", "version", "config", "policy", "hook_test", "verify", "receipt"),
    *("estimate", "history", "stats"),
    *("prompts_list", "prompts_show", "prompts_history"),
}
EXECUTE = OBSERVE | {
    *("prompts_record", "prompts_count", "prompts_graduate"),
    *("execute", "control", "release", "drop", "write_stdin", "close_stdin", "resize_pty", "resume_session"),
}
ADMIN = EXECUTE | {
    "reload",
    "stop",
    "token_show",
    "token_list",
    "token_add",
    "token_rotate",
    "token_revoke",
    "hook_run",
}

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user can enter."""
    directory = Path(tempfile.mkdtemp(prefix="ccexecd-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
async def daemon(open_place: Path) -> AsyncIterator[Running]:
    """A daemon in a place that every user can reach."""
    async with running(open_place, control_read_groups=[READERS], control_write_groups=[WRITERS]) as one:
        yield one


@asynccontextmanager
async def by_token(daemon: Running, name: str, *scopes: str) -> AsyncIterator[Client]:
    """A client that shows a token of its own."""
    made = await daemon.ask("token_add", name=name, scopes=scopes)
    async with daemon.client(token=made["token"]) as one:
        yield one


_SPEAK = """
import os, socket, sys
path, *groups = sys.argv[1:]
os.setgroups([*map(int, groups)])
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as one:
    one.connect(path)
    try:
        one.sendall(sys.stdin.buffer.read())
        one.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass
    try:
        while received := one.recv(65536):
            sys.stdout.buffer.write(received)
    except ConnectionResetError:  # after all that was said: what we sent has not been read
        pass
"""


async def as_member(daemon: Running, group: str | None, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What another user, in one group or none, hears when it calls these on the control socket."""
    requests = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(calls)
    ]
    groups = [str(grp.getgrnam(group).gr_gid)] if group else []
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [sys.executable, "-I", "-c", _SPEAK, str(daemon.control_socket), *groups],
            stdin=b"".join(json.dumps(request).encode() + b"\n" for request in requests),
            capture_stdout=True,
        )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted((reply for reply in replies if "method" not in reply), key=lambda reply: reply["id"] or 0)


async def code_of(caller: Client, method: str) -> int:
    with pytest.raises(RefusedError) as refused:
        await caller.request(method, no_such_param=True)
    return refused.value.code


def expected(may: set[str], served: set[str]) -> dict[str, int]:
    """What a caller hears of each method that there is."""
    return {method: UNKNOWN if method not in served else PERMITTED if method in may else FORBIDDEN for method in SCOPES}


def test_every_method_is_in_the_table():
    """And nothing else is; the sets of this file say the same, each by itself."""
    every = {*operator_methods(type("Daemon", (), {"status": dict})()), "status"}
    assert SCOPES.keys() == every == ADMIN
    assert {method for method, scope in SCOPES.items() if scope is Scope.OBSERVE} == OBSERVE
    assert {method for method, scope in SCOPES.items() if scope is not Scope.ADMIN} == EXECUTE


class TestEveryMethod:
    """Who may call what, over real sockets."""

    @pytest.mark.parametrize(
        ("scopes", "may"),
        [
            (["observe"], OBSERVE),
            (["execute"], EXECUTE),
            (["observe", "execute"], EXECUTE),
            (["admin"], ADMIN),
            (["observe", "admin"], ADMIN),
        ],
        ids=str,
    )
    async def test_by_a_named_token(self, daemon, scopes, may):
        """Its scopes, and what they include."""
        async with by_token(daemon, "ci", *scopes) as one:
            assert {method: await code_of(one, method) for method in SCOPES} == expected(may, CLIENTS)

    async def test_by_the_default_token(self, daemon):
        """Everything that is served there, as ever."""
        async with daemon.client(token=(await daemon.ask("token_show"))["token"]) as one:
            assert {method: await code_of(one, method) for method in SCOPES} == expected(ADMIN, CLIENTS)

    async def test_by_the_kernels_word_on_the_port(self, daemon):
        """The daemon's own user and root need no token."""
        async with daemon.client() as one:
            assert {method: await code_of(one, method) for method in SCOPES} == expected(ADMIN, CLIENTS)

    async def test_by_the_kernels_word_on_the_socket(self, daemon):
        """The same there, where everything is served."""
        async with daemon.operator() as one:
            assert {method: await code_of(one, method) for method in SCOPES} == expected(ADMIN, ADMIN)

    @root
    @pytest.mark.parametrize(("group", "may"), [(READERS, OBSERVE), (WRITERS, ADMIN)])
    async def test_by_a_group_on_the_socket(self, daemon, group, may):
        """Members of one may look, members of the other do everything."""
        replies = await as_member(daemon, group, *((method, {"no_such_param": True}) for method in SCOPES))
        found = dict(zip(SCOPES, (reply["error"]["code"] for reply in replies), strict=True))
        assert found == expected(may, ADMIN)

    @root
    async def test_by_nobody_on_the_socket(self, daemon):
        """Whoever is in neither group is turned away before anything is read."""
        (reply,) = await as_member(daemon, None, ("health", {}))
        assert (reply["id"], reply["error"]["code"]) == (None, FORBIDDEN)

    @pytest.mark.parametrize(
        ("scopes", "status"), [(["observe"], b"403"), (["execute"], b"200"), (["admin"], b"200"), ([], b"401")], ids=str
    )
    async def test_a_command_over_http(self, daemon, scopes, status):
        """The same scopes count there."""
        token = (await daemon.ask("token_add", name="ci", scopes=scopes))["token"] if scopes else "wrong"
        body = b'{"argv": ["true"]}'
        async with await daemon.dial() as stream:
            await stream.send_all(
                b"POST /execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
                % (token.encode(), len(body), body)
            )
            with trio.fail_after(PATIENCE):
                assert (await stream.receive_some(12))[9:] == status
        started = (await daemon.ask("status"))["executions"]["total_started"]
        assert started == (1 if status == b"200" else 0)


ROUTES = {
    "/health": None,
    "/healthz": None,
    "/readyz": None,
    "/metrics": "observe",
    "/execute": "execute",
}
"""What plain HTTP serves, and the scope that it takes; None is for everybody."""

INCLUDED = {"observe": {"observe"}, "execute": {"observe", "execute"}, "admin": {"observe", "execute", "admin"}}


@pytest.mark.parametrize("scope", [None, *INCLUDED])
async def test_every_route_by_every_scope(daemon, scope):
    """As methods are: let in by the scope, 403 without it, 401 without a right token; and no route is left out."""
    assert daemon.daemon._door._site.routes.keys() == ROUTES.keys()
    token = (await daemon.ask("token_add", name="ci", scopes=[scope]))["token"] if scope else "wrong"
    for path, wanted in ROUTES.items():
        method = b"POST" if path == "/execute" else b"GET"
        async with await daemon.dial() as stream:
            await stream.send_all(
                b"%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\n\r\n"
                % (method, path.encode(), token.encode())
            )
            with trio.fail_after(PATIENCE):
                status = (await stream.receive_some(12))[9:]
        let_in = b"400" if path == "/execute" else b"200"  # a command was not given
        may = wanted is None or wanted in INCLUDED.get(scope, ())
        assert status == (let_in if may else b"403" if scope else b"401"), path


def test_the_documentation_has_every_method_in_its_row():
    """Who reads the table of scopes reads what is in force."""
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    rows = {line.split("`")[1]: set(line.split("`")[3::2]) for line in text.splitlines() if line.startswith("| `")}
    assert rows["observe"] - {"GET /metrics"} == OBSERVE - {"pong"}  # which means nothing
    assert rows["execute"] - {"POST /execute"} == EXECUTE - OBSERVE


ABOUT_ONE = {
    "status": {},
    "attach": {"from_seq": 0},
    "detach": {},
    "read_output": {},
    "wait": {"timeout": 0},
    "verify": {},
    "prompts_count": {},
    "receipt": {},
    "control": {"type": "PAUSE"},
    "release": {},
    "drop": {},
    "write_stdin": {"data": "x"},
    "close_stdin": {},
    "resize_pty": {"cols": 1, "rows": 1},
}
"""Every method that names an execution, with the rest of what it needs."""


async def answer(caller: Client, method: str, execution_id: str) -> tuple[int, str, Any]:
    """A refusal, without the id that it may repeat."""
    with pytest.raises(RefusedError) as refused:
        await caller.request(method, execution_id=execution_id, **ABOUT_ONE[method])
    error = refused.value
    return error.code, error.message.replace(execution_id, "ID"), error.facts


class TestAnothers:
    """What belongs to one principal is not there for another."""

    @pytest.fixture
    async def mine(self, daemon) -> AsyncIterator[tuple[Client, Watched]]:
        """Somebody who runs something, and it."""
        async with by_token(daemon, "owner", "execute") as one:
            execution = await one.execute("cat", stdin="open", labels={"whose": "mine"})
            yield one, execution
            await one.request("control", execution_id=execution.id, type="KILL")

    def test_the_table_has_every_method_about_one(self):
        """A method that takes an id is asked about here."""
        named = {name for name, method in EXECUTION_METHODS.items() if "execution_id" in method.params.__slots__}
        assert {*named, "status"} == ABOUT_ONE.keys()

    @pytest.mark.parametrize("scope", ["observe", "execute"])
    async def test_it_is_spoken_of_as_if_it_did_not_exist(self, daemon, mine, scope):
        """Every method says of its id, code, words and data, what it says of one that nobody has."""
        _, execution = mine
        never = "0" * 8 + execution.id[8:]
        async with by_token(daemon, "other", scope) as one:
            for method in ABOUT_ONE:
                said = await answer(one, method, execution.id)
                assert said == await answer(one, method, never)
                assert said[0] == (-32110 if SCOPES[method].value not in {"observe", scope} else -32003)
            assert (await one.request("list"))["executions"] == []
            assert (await one.request("list", label="whose=mine", resources=True, tree=True))["executions"] == []
        assert (await daemon.ask("status", execution_id=execution.id))["state"] == "RUNNING"

    async def test_its_session_cannot_be_taken(self, daemon, mine):
        """Not even by who has its resume token: that is answered like a wrong one, and its owner stays connected."""
        owner, execution = mine
        claim = {name: owner.greeting[name] for name in ("session_id", "resume_token")}
        async with by_token(daemon, "other", "execute") as one:
            said = []
            for wanted in (claim, {**claim, "resume_token": "x" * 43}, {**claim, "session_id": "nope"}):
                with pytest.raises(RefusedError) as refused:
                    await one.request("resume_session", **wanted)
                said.append((refused.value.code, refused.value.message))
            assert len(set(said)) == 1
        assert (await owner.request("status", execution_id=execution.id))["state"] == "RUNNING"

    async def test_an_admin_sees_and_controls_it(self, daemon, mine):
        """And learns whose it is."""
        _, execution = mine
        async with by_token(daemon, "boss", "admin") as one:
            (listed,) = (await one.request("list"))["executions"]
            assert (listed["execution_id"], listed["principal"]) == (execution.id, "owner")
            await one.request("write_stdin", execution_id=execution.id, data="hello\n")
            await execution.printed("hello")
            assert (await one.request("control", execution_id=execution.id, type="PAUSE"))["status"] == "paused"
            assert (await one.request("control", execution_id=execution.id, type="RESUME"))["status"] == "resumed"

    async def test_an_admin_s_is_not_there_for_others(self, daemon):
        """Root's commands are no more visible to a token than a token's to another."""
        async with daemon.client() as boss, by_token(daemon, "ci", "execute") as one:
            execution = await boss.execute("cat", stdin="open")
            assert (await answer(one, "status", execution.id))[0] == -32003
            await boss.request("close_stdin", execution_id=execution.id)

    @pytest.mark.usefixtures("mine")
    async def test_what_has_finished_is_still_its_owner_s(self, daemon):
        """Also when its session has gone: by then, a new connection of the owner sees it, another's does not."""
        async with by_token(daemon, "brief", "execute") as one:
            finished = await one.run("true")
        token = (await daemon.ask("token_rotate", name="brief"))["token"]
        async with daemon.client(token=token) as again, by_token(daemon, "other", "execute") as other:
            assert (await again.request("status", execution_id=finished.id))["state"] == "FINISHED"
            assert (await answer(other, "status", finished.id))[0] == -32003
            assert [each["execution_id"] for each in (await again.request("list"))["executions"]] == [finished.id]

    @root
    async def test_a_reader_of_the_socket_sees_it_and_cannot_touch_it(self, daemon, mine):
        """Who may look at the operators' socket looks at everything."""
        _, execution = mine
        which = {"execution_id": execution.id}
        listed, status, control = await as_member(
            daemon, READERS, ("list", {}), ("status", which), ("control", {**which, "type": "KILL"})
        )
        assert [each["principal"] for each in listed["result"]["executions"]] == ["owner"]
        assert status["result"]["state"] == "RUNNING"
        assert control["error"]["code"] == FORBIDDEN

    @root
    async def test_a_writer_of_the_socket_controls_it(self, daemon, mine):
        """Who may write there may do everything."""
        _, execution = mine
        (reply,) = await as_member(
            daemon, WRITERS, ("control", {"execution_id": execution.id[:8], "type": "SIGNAL", "signal": "CONT"})
        )
        assert reply["result"]["status"] == "signalled"

    async def test_a_token_named_like_nobody_else(self, daemon):
        """No token can be made that would be a user's principal."""
        with pytest.raises(RefusedError):
            await daemon.ask("token_add", name=f"uid:{os.geteuid()}", scopes=["execute"])
