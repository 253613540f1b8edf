"""`verify` and `receipt`: what happened is verified, and whatever was done to the evidence is told apart."""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from ccexecd.protocol.errors import ErrorCode
from ccexecd.storage import notary as notary_module
from ccexecd.storage.chain import files_in, opened, sealed, unsealed
from ccexecd.storage.proof import judged, proof_of
from ccexecd.storage.signing import PublicKey, Signer
from tests.e2e.client import refused
from tests.in_process import Running, running

pytestmark = pytest.mark.anyio


def outputs(daemon: Running, execution_id: str) -> Path:
    return daemon.directory / "output" / execution_id


def receipts(daemon: Running) -> Path:
    return files_in(daemon.directory / "receipts")[-1]


def change_history(daemon: Running, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(daemon.directory / "history.db")) as db, db:
        db.execute(statement, values)


async def test_what_happened_is_verified(daemon, client):
    """When, with which command, how it ended, and what it wrote; also what wrote nothing, and what never started."""
    done = await client.run("sh", "-c", "echo hello; echo world >&2; exit 3", labels={"job": "nightly"})
    told = await client.request("verify", execution_id=done.id)
    known = await client.request("status", execution_id=done.id)
    assert (told["verdict"], told["verified"], told["output"], told["findings"]) == ("verified", True, "whole", [])
    receipt = told["receipt"]
    for name in ("command", "argv", "started_at", "finished_at", "exit_code", "reason", "principal", "labels", "pid"):
        assert receipt[name] == known[name]
    assert receipt["made"] == "at the end"
    assert receipt["output"]["stdout"]["bytes"] == receipt["output"]["stderr"]["bytes"] == 6
    assert receipt["argv_sha256"] == hashlib.sha256(b"\0".join(each.encode() for each in known["argv"])).hexdigest()
    assert "argv_sha256" not in known
    secret = await client.run("true", "--password", "hunter2hunter2", "x" * 3000)
    told = await client.request("verify", execution_id=secret.id)
    assert told["verified"]
    assert "hunter2" not in json.dumps(told)
    quiet = await client.run("true")
    told = await daemon.ask("verify", execution_id=quiet.id[:8])
    assert (told["verdict"], told["output"]) == ("verified", "none")
    with pytest.raises(Exception, match="-32006"):
        await client.execute("/no/such/program")
    [never] = [each["execution_id"] for each in (await daemon.ask("list"))["executions"] if each["pid"] is None]
    assert (await daemon.ask("verify", execution_id=never))["receipt"]["reason"] == "spawn_failed"


async def test_what_runs_has_no_receipt_yet(daemon, client):
    """That is no fault, and not verified."""
    running = await client.execute("sleep", "60")
    told = await client.request("verify", execution_id=running.id)
    assert (told["verdict"], told["verified"]) == ("unfinished", False)
    assert (await refused(client, "receipt", execution_id=running.id)).code == ErrorCode.INVALID_STATE


async def test_a_made_up_id_is_not_known(daemon, client):
    """Nothing vouches for it."""
    for method in ("verify", "receipt"):
        assert (await refused(client, method, execution_id=str(uuid.uuid4()))).code == ErrorCode.PROCESS_NOT_FOUND


async def test_a_reply_repeats_what_it_was_asked_to(daemon, client):
    """As a label says, or who verifies; of an agent its final result counts, and not what it printed on the way."""
    wanted = str(uuid.uuid4())
    asked = {"expect_uuid": wanted}
    event = json.dumps({"type": "result", "result": f"done: {wanted}"})
    aside = json.dumps({"type": "assistant", "text": wanted}) + '\n{"type":"result","result":"done"}'
    for text, verdict in (
        (wanted.upper(), "verified"),
        ("no", "unrepeated"),
        (event, "verified"),
        (aside, "unrepeated"),
    ):
        done = await client.run("printf", "%s\n", text, labels=asked)
        told = await client.request("verify", execution_id=done.id)
        assert (told["verdict"], told["receipt"]["repeated"]) == (verdict, verdict == "verified")
    own = await client.run("sh", "-c", "echo $CCEXEC_EXECUTION_ID", labels={"expect_uuid": "id"})
    assert (await client.request("verify", execution_id=own.id))["verdict"] == "verified"
    other = await client.request("verify", execution_id=own.id, expect_uuid=wanted)
    assert other["verdict"] == "unrepeated"
    shutil.rmtree(outputs(daemon, own.id))  # then the receipt is all that tells of the reply
    gone = await client.request("verify", execution_id=own.id)
    assert [each["verdict"] for each in gone["findings"]] == ["missing", "verified"]
    unknown = (await client.request("verify", execution_id=own.id, expect_uuid=wanted))["findings"][-1]
    assert (unknown["verdict"], "not there any more" in unknown["text"]) == ("unrepeated", True)
    assert (await refused(client, "verify", execution_id=own.id, expect_uuid="1")).code == ErrorCode.INVALID_PARAMS


def _edit(path: Callable[[Running, str], Path], old: bytes, new: bytes) -> Callable[[Running, str], None]:
    def edit(daemon: Running, execution_id: str) -> None:
        file = path(daemon, execution_id)
        assert old in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(old, new))

    return edit


def _forge(daemon: Running, execution_id: str) -> None:
    """Give the receipt another exit code, and make all hashes and the signature anew, with another key."""
    other = Signer(daemon.directory / "other.pem")
    lines, anew = receipts(daemon).read_bytes().splitlines(keepends=True), {}
    for at, line in enumerate(lines):
        record = opened(line)
        body = unsealed(line).replace(b'"exit_code":3', b'"exit_code":0')
        for before, after in anew.items():
            body = body.replace(before, after)
        if b'"signature":"' in body:
            unsigned = re.sub(rb',"signature":"[^"]*"', b"", body)
            body = unsigned[:-1] + b',"signature":"%b"}' % other.sign(unsigned).encode()
        lines[at], digest = sealed(body)
        anew[record.head.hash.encode()] = digest.encode()
    receipts(daemon).write_bytes(b"".join(lines))


def _without_receipt(daemon: Running, execution_id: str) -> None:
    lines = receipts(daemon).read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not (b'"kind":"receipt"' in line and execution_id.encode() in line)]
    receipts(daemon).write_bytes(b"".join(kept))


def _without_end(daemon: Running, execution_id: str) -> None:
    text = receipts(daemon).read_bytes()
    receipts(daemon).write_bytes(text[: text.index(execution_id.encode())])


def _history_says(column: str, value: object) -> Callable[[Running, str], None]:
    def change(daemon: Running, execution_id: str) -> None:
        change_history(daemon, f"UPDATE executions SET {column} = ? WHERE id = ?", value, execution_id)

    return change


def _names_another(daemon: Running, execution_id: str) -> None:
    """The receipt before this one; between them is the signature of that."""
    change_history(daemon, "UPDATE executions SET receipt = receipt - 2 WHERE id = ?", execution_id)


def _another_command(daemon: Running, execution_id: str) -> None:
    statement = "UPDATE executions SET description = replace(description, 'exit 3', 'exit 0') WHERE id = ?"
    change_history(daemon, statement, execution_id)


def stdout(daemon: Running, execution_id: str) -> Path:
    return outputs(daemon, execution_id) / "stdout"


DEEDS = {
    "output edited": (_edit(stdout, b"hello", b"hallo"), "edited", "bytes 0 to 6"),
    "output grown": (lambda d, i: stdout(d, i).write_bytes(b"hello\nmore\n"), "edited", "added"),
    "output cut": (lambda d, i: os.truncate(stdout(d, i), 3), "truncated", "has 3 bytes, and had 6"),
    "one file removed": (lambda d, i: stdout(d, i).unlink(), "missing", "stdout is not there"),
    "all files removed": (lambda d, i: shutil.rmtree(outputs(d, i)), "missing", "output is not there"),
    "journal edited": (_edit(lambda d, i: outputs(d, i) / "journal", b"exited", b"killed"), "edited", "journal"),
    "receipt edited": (_edit(lambda d, _: receipts(d), b'"exit_code":3', b'"exit_code":0'), "edited", "hash"),
    "receipt forged": (_forge, "forged", "not by the key"),
    "receipt removed": (_without_receipt, "missing", "removed"),
    "receipts cut": (_without_end, "truncated", "end before it"),
    "all receipts removed": (lambda d, _: receipts(d).unlink(), "truncated", "end before it"),
    "history edited": (_another_command, "edited", "differs in command"),
    "history names another": (_names_another, "edited", "of another execution"),
    "history names none": (_history_says("receipt", 0), "missing", "no receipt was written"),
    "gone by retention": (_history_says("output_bytes", 0), "verified", "gone by its age"),
}


class TestDeeds:
    """What somebody who can write into the state directory may do."""

    @pytest.fixture(scope="class")
    async def shared(self, tmp_path_factory):
        """One daemon, and one client of it, for all that is done to evidence."""
        async with running(tmp_path_factory.mktemp("d")) as daemon, daemon.client() as one:
            yield daemon, one

    @pytest.mark.parametrize("deed", DEEDS)
    async def test_whatever_is_done_to_evidence_is_told_apart(self, shared, deed):
        """Forged, edited, truncated, missing; what retention took is none of these. The next one is verified again."""
        daemon, one = shared
        await daemon.ask("verify", execution_id=(await one.run("true")).id)  # the first receipt is another one's
        done = await one.run("sh", "-c", "echo hello; exit 3")
        assert (await one.request("verify", execution_id=done.id))["verified"]
        do, verdict, text = DEEDS[deed]
        await trio.to_thread.run_sync(do, daemon, done.id)
        told = await one.request("verify", execution_id=done.id)
        assert told["verdict"] == verdict
        assert text in " ".join(each["text"] for each in told["findings"])
        after = await one.run("echo", "after")
        assert (await one.request("verify", execution_id=after.id))["verified"]


async def test_a_receipt_is_verified_elsewhere(daemon, client):
    """With nothing but the public key that was asked for before."""
    key = PublicKey((await client.request("receipt"))["public_key"])
    done = await client.run("echo", "hello")
    document = await client.request("receipt", execution_id=done.id)
    assert judged(proof_of(document), key, document) == []
    status = await daemon.ask("status")
    assert status["receipts"]["directory"] == str(daemon.directory / "receipts")
    assert status["receipts"]["head"].startswith(f"{document['receipt']['n'] + 1}:")


async def test_evidence_is_its_principals(daemon, client):
    """To others it is not there; an admin sees it."""
    done = await client.run("echo", "hello")
    token = (await daemon.ask("token_add", name="ci", scopes=["execute"]))["token"]
    async with daemon.client(token=token) as other:
        theirs = await other.run("echo", "theirs")
        assert (await other.request("verify", execution_id=theirs.id))["verified"]
        for method in ("verify", "receipt"):
            assert (await refused(other, method, execution_id=done.id)).code == ErrorCode.PROCESS_NOT_FOUND
    assert (await daemon.ask("verify", execution_id=theirs.id))["verified"]


async def test_a_long_output_does_not_hold_up_the_history(daemon, client, monkeypatch):
    """What ends meanwhile is written; the digests come in steps."""
    monkeypatch.setattr(notary_module, "BUDGET", 1 << 20)
    long = await client.run("head", "-c", "8000000", "/dev/zero", framing="raw")
    short = await client.run("echo", "short")
    told = {name: await client.request("verify", execution_id=name) for name in (short.id, long.id)}
    assert all(each["verified"] for each in told.values())
    assert len(told[long.id]["receipt"]["output"]["stdout"]["sha256"]) == 8


async def test_where_receipts_are_off_there_are_none(tmp_path):
    """A reload turns them on; what ended before has none, and that is said."""
    async with running(tmp_path, receipts=False) as daemon, daemon.client() as one:
        done = await one.run("echo", "hello")
        told = await one.request("verify", execution_id=done.id)
        assert (told["verdict"], told["receipt"]) == ("missing", None)
        assert "off" in told["findings"][0]["text"]
        assert (await refused(one, "receipt", execution_id=done.id)).code == ErrorCode.PROCESS_NOT_FOUND
        assert not (tmp_path / "receipts").exists()


async def test_a_key_that_cannot_be_used_is_a_problem(tmp_path):
    """Everything else goes on; `health` says so, and receipts are written when it can be used again."""
    async with running(tmp_path) as daemon, daemon.client() as one:
        (tmp_path / "receipts").mkdir()
        (tmp_path / "receipts" / "key.pem").write_text("garbage")
        (tmp_path / "receipts" / "key.pem").chmod(0o600)
        done = await one.run("echo", "hello")
        assert (await one.request("verify", execution_id=done.id))["verdict"] == "unfinished"
        assert (await refused(one, "receipt")).code == ErrorCode.INTERNAL_ERROR
        assert (await daemon.ask("health"))["problems"] == ["receipts are not written"]
        assert "no private key" in (await daemon.ask("status"))["problems"]["receipts are not written"]
        (tmp_path / "receipts" / "key.pem").unlink()
        daemon.daemon._archive.notary._retry_at = 0.0
        after = await one.run("echo", "after")
        for each in (after, done):
            assert (await one.request("verify", execution_id=each.id))["verified"]
        daemon.errors.clear()


async def test_output_that_went_before_it_was_digested_is_told(tmp_path):
    """What is left of it is vouched for."""
    async with running(tmp_path, spool_execution_bytes=3 << 20) as daemon, daemon.client() as one:
        done = await one.run("head", "-c", "12000000", "/dev/zero", framing="raw")
        told = await one.request("verify", execution_id=done.id)
        assert (told["verdict"], told["output"]) == ("verified", "partly gone")
        assert "given up" in told["findings"][0]["text"]
