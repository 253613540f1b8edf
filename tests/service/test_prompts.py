"""The methods about prompts: only what was verified counts, and what was counted is what ran."""

import hashlib

import pytest

from ccexecd.protocol.errors import ErrorCode
from tests.e2e.client import refused

pytestmark = pytest.mark.anyio


def labels(name: str, version: int, text: str) -> dict[str, str]:
    """Those of an execution that runs a version."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"prompt": name, "prompt_version": str(version), "prompt_sha256": digest}


async def test_runs_count_when_they_are_verified(daemon, client):
    """Succeeded or failed as the receipt says, once, and for the version that ran."""
    recorded = await client.request("prompts_record", name="greet", text="hello", why="first")
    assert recorded == {"name": "greet", "version": 1}
    mine = labels("greet", 1, "hello")
    good = await client.run("echo", "hello", labels=mine)
    told = await client.request("prompts_count", execution_id=good.id)
    assert (told["succeeded"], told["counted"], told["successes"], told["failures"]) == (True, True, 1, 0)
    assert not (await client.request("prompts_count", execution_id=good.id))["counted"]
    bad = await client.run("false", labels=mine)
    told = await client.request("prompts_count", execution_id=bad.id)
    assert (told["succeeded"], told["failures"]) == (False, 1)
    edited = await client.run("echo", "hello", labels=mine)
    await client.request("verify", execution_id=edited.id)
    (daemon.directory / "output" / edited.id / "stdout").write_bytes(b"other\n")
    assert "not verified (edited)" in (await refused(client, "prompts_count", execution_id=edited.id)).message
    for wrong, text in (
        ({}, "has not run a prompt"),
        (labels("greet", 1, "other"), "has run another text"),
        (labels("greet", 2, "hello"), "no version 2"),
        (labels("none", 1, "hello"), "no prompt 'none'"),
    ):
        done = await client.run("echo", "hello", labels=wrong)
        assert text in (await refused(client, "prompts_count", execution_id=done.id)).message
    shown = await client.request("prompts_show", name="greet")
    assert (shown["successes"], shown["failures"], shown["rate"], shown["text"]) == (1, 1, 0.5, "hello")
    [listed] = (await client.request("prompts_list"))["prompts"]
    assert (listed["name"], listed["newest"]["version"], listed["production_version"]) == ("greet", 1, None)


async def test_an_agent_has_to_say_that_it_succeeded(client):
    """Exit code 0 is not enough for one that reports."""
    await client.request("prompts_record", name="ask", text="p", why="first")
    event = '{"type":"result","subtype":"success","is_error":%s,"result":"x","session_id":"s"}'
    for is_error, succeeded in (("false", True), ("true", False)):
        init = '{"type":"system","subtype":"init","session_id":"s","model":"m"}'
        program = f"printf '%s\\n' '{init}' '{event % is_error}'"
        agent = {"agent": "claude", "labels": labels("ask", 1, "p")}
        done = await client.run("sh", "-c", program, "--output-format=stream-json", **agent)
        assert (await client.request("prompts_count", execution_id=done.id))["succeeded"] is succeeded


async def test_a_version_graduates_and_is_demoted(client):
    """By its runs alone; all of it is in its history."""
    await client.request("prompts_record", name="greet", text="hello", why="first")
    mine = labels("greet", 1, "hello")
    early = await refused(client, "prompts_graduate", name="greet")
    assert (early.code, "10 more successes" in early.message) == (ErrorCode.INVALID_STATE, True)
    for _ in range(10):
        done = await client.run("true", labels=mine)
        await client.request("prompts_count", execution_id=done.id)
    assert (await client.request("prompts_graduate", name="greet"))["production"]
    for number in range(2):
        done = await client.run("false", labels=mine)
        assert (await client.request("prompts_count", execution_id=done.id))["demoted"] == (number == 1)
    events = (await client.request("prompts_history", name="greet"))["events"]
    assert [each["event"] for each in events[-4:]] == ["graduated", "failed", "failed", "demoted"]
    assert (await refused(client, "prompts_history", name="none")).code == ErrorCode.INVALID_STATE


async def test_a_ledger_is_its_principal_s(daemon, client):
    """Another one has prompts of its own, by the same names, and counts only its own runs."""
    await client.request("prompts_record", name="greet", text="hello", why="first")
    token = (await daemon.ask("token_add", name="boss", scopes=["admin"]))["token"]
    async with daemon.client(token=token) as other:
        assert (await other.request("prompts_list"))["prompts"] == []
        await other.request("prompts_record", name="greet", text="hello", why="mine")
        done = await client.run("true", labels=labels("greet", 1, "hello"))
        assert "only its own" in (await refused(other, "prompts_count", execution_id=done.id)).message
        shown = await other.request("prompts_show", name="greet")
        assert (shown["why"], shown["successes"]) == ("mine", 0)


@pytest.mark.parametrize("wrong", [{"name": ""}, {"text": " "}, {"why": ""}, {"name": "n" * 101}, {"kind": "song"}])
async def test_what_is_recorded_is_complete(client, wrong):
    """A name, a text, and a reason."""
    params = {"name": "n", "text": "t", "why": "w", **wrong}
    assert (await refused(client, "prompts_record", **params)).code == ErrorCode.INVALID_PARAMS
