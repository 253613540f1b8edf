"""Tokens as an operator changes them in a running daemon, and what that does to whoever came in by one."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from ccexecd.external import connection
from ccexecd.external.websocket import WebSocket
from tests.e2e.client import PATIENCE, RefusedError
from tests.e2e.daemon_process import eventually
from tests.in_process import Running, running


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one


async def add(daemon: Running, name: str = "ci", *scopes: str, **params: object) -> str:
    """A new token's text."""
    return (await daemon.ask("token_add", name=name, scopes=scopes or ("execute",), **params))["token"]


async def listed(daemon: Running) -> dict[str, dict]:
    return {token["name"]: token for token in (await daemon.ask("token_list"))["tokens"]}


async def is_let_in(daemon: Running, token: str) -> bool:
    """Whether a request with that token gets past the door."""
    async with await daemon.dial() as stream:
        await stream.send_all(
            b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n" % token.encode()
        )
        with trio.fail_after(PATIENCE):
            status = (await stream.receive_some(12))[9:]
    assert status in {b"404", b"401"}
    return status == b"404"


async def test_the_default_token(daemon):
    """`token_show` gives what is in the file."""
    assert (await daemon.ask("token_show"))["token"] == (daemon.directory / "token").read_text().strip()


async def test_a_token_is_in_force_at_once(daemon):
    """Made, changed, withdrawn: each counts for the next request, on a daemon that just goes on."""
    first = await add(daemon)
    assert await is_let_in(daemon, first)
    second = (await daemon.ask("token_rotate", name="ci"))["token"]
    assert not await is_let_in(daemon, first)
    assert await is_let_in(daemon, second)
    assert await daemon.ask("token_revoke", name="ci") == {"name": "ci"}
    assert not await is_let_in(daemon, second)


async def test_the_default_token_is_rotated_unless_another_is_named(daemon):
    """The old text admits nobody, the new one is in the file."""
    old = (await daemon.ask("token_show"))["token"]
    new = (await daemon.ask("token_rotate"))["token"]
    assert [await is_let_in(daemon, token) for token in (old, new)] == [False, True]
    assert (await daemon.ask("token_show"))["token"] == new


async def test_the_list_has_everything_but_the_text(daemon):
    """Names, scopes and times; neither texts nor hashes, which are shown nowhere."""
    text = await add(daemon, "ci", "observe", "execute", lifetime=3600)
    await add(daemon, "gone", lifetime=0)
    tokens = await listed(daemon)
    assert list(tokens) == ["default", "ci", "gone"]
    assert tokens["ci"].keys() == {"name", "scopes", "created_at", "expires_at", "expired"}
    assert (tokens["default"]["scopes"], tokens["default"]["expires_at"]) == (["admin"], None)
    assert tokens["ci"]["scopes"] == ["observe", "execute"]
    assert [tokens[name]["expired"] for name in tokens] == [False, False, True]
    assert text not in json.dumps(tokens)


@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("token_add", {"name": "uid:0", "scopes": ["admin"]}, "$.name"),
        ("token_add", {"name": "default", "scopes": ["admin"]}, "$.name"),
        ("token_add", {"name": "ci", "scopes": []}, "$.scopes"),
        ("token_add", {"name": "ci", "scopes": ["root"]}, "$.scopes[0]"),
        ("token_add", {"name": "ci", "scopes": ["admin"], "lifetime": -1}, "$.lifetime"),
        ("token_revoke", {"name": "default"}, "$.name"),
        ("token_revoke", {"name": "nope"}, "$.name"),
        ("token_rotate", {"name": "nope"}, "$.name"),
    ],
)
async def test_what_will_not_do_is_refused(daemon, method, params, path):
    """A wrong name, scope or time is -32602 with its path, and no token comes of it."""
    with pytest.raises(RefusedError) as refused:
        await daemon.ask(method, **params)
    assert (refused.value.code, refused.value.facts[0]["path"]) == (-32602, path)
    assert list(await listed(daemon)) == ["default"]


async def test_a_disk_that_takes_nothing(daemon):
    """The operator learns why, and that nothing has changed."""
    await add(daemon)
    (daemon.directory / "token").unlink()
    with pytest.raises(RefusedError, match="is gone; rotate it to have another; the tokens are as they were"):
        await daemon.ask("token_show")


async def test_an_open_connection_ends_with_its_token(daemon):
    """Whoever came in by it is closed with 4401, others stay; what it runs is kept as after a cut."""
    text = await add(daemon)
    async with daemon.client(token=text) as one, daemon.client() as other:
        execution = await one.execute("sleep", "60")
        await daemon.ask("token_revoke", name="ci")
        assert await one.closed() == 4401
        assert (await other.request("status", execution_id=execution.id))["state"] == "RUNNING"
        await other.request("control", execution_id=execution.id, type="KILL")


async def test_a_rotated_token_s_client_comes_back_to_its_session(daemon):
    """With the new text it is the same principal, and resumes what it had."""
    old = await add(daemon)
    async with daemon.client(token=old) as one:
        execution = await one.execute("cat", stdin="open")
        new = (await daemon.ask("token_rotate", name="ci"))["token"]
        assert await one.closed() == 4401
        claim = {name: one.greeting[name] for name in ("session_id", "resume_token")}
    async with daemon.client(token=new) as two:
        resumed = await two.request("resume_session", **claim)
        assert [each["execution_id"] for each in resumed["executions"]] == [execution.id]
        await two.request("close_stdin", execution_id=execution.id)


async def test_an_open_connection_ends_when_its_token_expires(daemon, monkeypatch):
    """Not only at the door: who is in already has to leave, too; others stay."""
    text, for_ever = await add(daemon, lifetime=3600), await add(daemon, "other")
    monkeypatch.setattr(connection, "time_left", lambda _: 0.05)
    async with daemon.client(token=for_ever) as other, daemon.client(token=text) as one:
        assert await one.closed() == 4401
        assert (await other.request("list"))["executions"] == []


async def test_an_expired_token_admits_nobody(daemon):
    """From the moment of its expiry on."""
    assert not await is_let_in(daemon, await add(daemon, lifetime=0))


async def test_a_command_over_http_ends_with_its_token(daemon):
    """The answer breaks off, and what ran for it is cancelled, as for every client that goes."""
    text = await add(daemon)
    body = b'{"argv": ["sleep", "60"]}'
    async with await daemon.dial() as stream:
        await stream.send_all(
            b"POST /execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
            % (text.encode(), len(body), body)
        )
        engine = daemon.daemon._engine
        await eventually(lambda: [each for each in engine.live.values() if each.pid], "it runs")
        await daemon.ask("token_revoke", name="ci")
        received = b""
        with trio.fail_after(PATIENCE):
            while data := await stream.receive_some():
                received += data
    assert b"200 OK" in received
    assert not received.endswith(b"0\r\n\r\n"), "an answer that looks complete"
    await eventually(lambda: not engine.live, "it has been cancelled")


async def test_a_token_that_is_withdrawn_while_its_websocket_opens(daemon, monkeypatch):
    """Who has been let in and is not there yet has to leave as well: between the two there is no gap."""
    text = await add(daemon)
    accept = WebSocket.accept

    async def revoke_first(*args: object) -> WebSocket:
        await daemon.daemon.tokens.revoke("ci")
        return await accept(*args)

    monkeypatch.setattr(WebSocket, "accept", revoke_first)
    async with daemon.client(token=text) as one:
        assert await one.closed() == 4401


async def test_a_token_that_is_withdrawn_while_its_request_arrives(daemon):
    """A body that comes afterwards starts nothing; the answer says why."""
    text = await add(daemon)
    async with await daemon.dial() as stream:
        head = b"POST /execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 20\r\n\r\n"
        await stream.send_all(head % text.encode())
        await eventually(lambda: daemon.daemon._door._site.token_lifetimes._scopes, "the head has been accepted")
        await daemon.ask("token_revoke", name="ci")
        with trio.fail_after(PATIENCE):
            assert (await stream.receive_some(12))[9:] == b"401"
    assert daemon.daemon._engine.started_total == 0


async def test_no_text_is_in_the_log(daemon, caplog: pytest.LogCaptureFixture):
    """Neither of a token that is made, shown, rotated or refused."""
    with caplog.at_level(logging.DEBUG):
        texts = [await add(daemon), (await daemon.ask("token_rotate", name="ci"))["token"]]
        texts += [(await daemon.ask("token_rotate"))["token"], (await daemon.ask("token_show"))["token"]]
        assert not await is_let_in(daemon, texts[0])
        assert await is_let_in(daemon, texts[1])
    for text in texts:
        assert text not in caplog.text
        assert text not in str([vars(record) for record in caplog.records])
