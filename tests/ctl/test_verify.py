"""verify and receipt: the exit status tells, people and programs can read it, and a daemon is not always needed."""

import json
from pathlib import Path

import pytest

from ccexecd.storage.chain import files_in
from ccexecd.storage.digests import digested
from ccexecd.storage.receipts import Receipts

FULL = "1aa007fe-ca15-47fb-b4e8-3ed6f5a0dfaf"

RECEIPT = {
    "execution_id": FULL,
    "command": "printf '|%s`'",
    "finished_at": "2026-01-02T03:04:05.678+00:00",
    "exit_code": 0,
    "duration": 1.5,
    "labels": {"job": "a|b"},
    "output": {},
}


def verdict(word: str, name: str = FULL) -> dict:
    findings = [] if word == "verified" else [{"verdict": word, "text": f"it is {word}\x1b[31m"}]
    told = {"execution_id": name, "verdict": word, "verified": word == "verified", "findings": findings}
    return {**told, "output": "whole", "receipt": RECEIPT}


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("verified", 0),
        ("edited", 10),
        ("forged", 11),
        ("truncated", 12),
        ("missing", 13),
        ("unrepeated", 14),
        ("unfinished", 15),
        ("of a later daemon", 1),
    ],
)
def test_the_exit_status_tells(ctl, daemon, word, code):
    """Each word has its own; what was found is printed, and cannot take over the terminal."""
    daemon.answers["verify"] = verdict(word)
    said = ctl("verify", "1aa0", "--expect-uuid", FULL)
    assert said.code == code
    first, *rest = said.out.splitlines()
    assert first == f"{word} {FULL} 2026-01-02T03:04:05 exit 0, 1.5s: printf '|%s`'"
    assert rest == ([] if word == "verified" else [f"  {word}: it is {word}\\x1b[31m"])
    assert daemon.asked("verify") == [{"execution_id": "1aa0", "expect_uuid": FULL}]
    assert ctl("verify", "1aa0", "--json").json == verdict(word)


def test_the_worst_of_several_counts(ctl, daemon):
    """Also where one of them does not exist, as a made-up one."""
    words = {"e1": "verified", "e2": "unrepeated", "e3": "edited"}

    def verify(conversation, request):
        name = request["params"]["execution_id"]
        if name not in words:
            error = {"code": -32003, "message": f"no execution {name!r}"}
            conversation.send({"id": request["id"], "error": error})
        else:
            conversation.reply(request, verdict(words[name], name))

    daemon.answers |= {"verify": verify, "list": {"executions": [{"execution_id": each} for each in words]}}
    assert ctl("verify", "e1").code == 0
    assert ctl("verify", "e1", "e2").code == 14
    assert ctl("verify", "--last", "3").code == 10
    assert daemon.asked("list") == [{"state": "FINISHED", "limit": 3}]
    daemon.answers["list"] = {"executions": [{"execution_id": "e1"}], "truncated": True}
    pages = [
        {"executions": [{"execution_id": each} for each in part], "before": 7} for part in (["e1", "e2"], ["e3"], [])
    ]
    daemon.answers["history"] = lambda conversation, request: conversation.reply(request, pages.pop(0))
    last = ctl("verify", "--last", "10", "--json").json["executions"]  # a list is one frame; the history has the rest
    assert [each["execution_id"] for each in last] == ["e1", "e2", "e3"]
    assert [each.get("before") for each in daemon.asked("history")] == [None, 7, 7]
    made_up = ctl("verify", "e1", "none", "--json")
    assert made_up.code == 13
    assert [each["verdict"] for each in made_up.json["executions"]] == ["verified", "missing"]
    daemon.answers["list"] = {"executions": []}
    assert ctl("verify", "--last", "3").code == 13
    daemon.answers["receipt"] = {"key": "0123456789abcdef"}
    report = ctl("verify", "e1", "e3", "--report")
    assert report.code == 10
    assert "2 executions at " in report.out
    assert ": 1 verified, 1 edited." in report.out
    assert "| verified | e1 | 2026-01-02T03:04:05 | 0 | 1.5s | whole | printf '\\|%s\\`' |" in report.out
    lost = {**verdict("verified"), "receipt": {**RECEIPT, "exit_code": None, "reason": "lost"}}
    daemon.answers["verify"] = lost
    assert "| 2026-01-02T03:04:05 | lost | 1.5s |" in ctl("verify", "e1", "--report").out
    daemon.answers["verify"] = lambda conversation, request: conversation.reply(
        request,
        verdict({"e1": "verified"}.get(request["params"]["execution_id"], "edited"), request["params"]["execution_id"]),
    )
    document = ctl("verify", "e1", "e3", "--report", "--json").json
    assert (document["counts"]["edited"], len(document["executions"])) == (1, 2)


@pytest.mark.parametrize("words", [[], ["e1", "--last", "3"], ["--public-key", "x"], ["--last", "-1"], ["--last", "0"]])
def test_what_does_not_go_together_is_refused(ctl, words):
    """Before anything is asked."""
    assert ctl("verify", *words).code == 2
    assert ctl("receipt").code == ctl("receipt", "e1", "--public-key").code == 2


@pytest.fixture
def written(tmp_path: Path):
    """Receipts in the state directory that `ctl` names, of one output."""
    (tmp_path / "d").mkdir()
    output = tmp_path / "output"
    output.mkdir()
    (output / "stdout").write_bytes(b"hello\n")
    receipts = Receipts(tmp_path / "d" / "receipts")
    work = digested(output)
    try:
        while True:
            next(work)
    except StopIteration as done:
        numbers = receipts.write([{**RECEIPT, "output": done.value}, {**RECEIPT, "execution_id": "e2"}])
    document = receipts.find(numbers[0]).document(receipts.public_key().pem)
    (tmp_path / "key.pem").write_text(document["public_key"])
    (tmp_path / "receipt.json").write_text(json.dumps(document))
    yield receipts
    receipts.close()


def test_a_receipt_is_verified_without_a_daemon(ctl, tmp_path, written):
    """By the key that is given, and with its output where that is at hand; whatever was done to it is told."""
    key, path, output = (str(tmp_path / name) for name in ("key.pem", "receipt.json", "output"))
    said = ctl("verify", "--public-key", key, path)
    assert said.code == 0
    assert "only the receipt was looked at" in said.out
    assert ctl("verify", "--public-key", key, path, "--output", output).code == 0
    (tmp_path / "output" / "stdout").write_bytes(b"hallo\n")
    assert ctl("verify", "--public-key", key, path, "--output", output).code == 10
    (tmp_path / "output" / "stdout").write_bytes(b"h")
    assert ctl("verify", "--public-key", key, path, "--output", output).code == 12
    other = Receipts(tmp_path / "other").public_key().pem
    (tmp_path / "other.pem").write_text(other)
    assert ctl("verify", "--public-key", str(tmp_path / "other.pem"), path).code == 11
    document = json.loads((tmp_path / "receipt.json").read_text())
    document["receipt"]["exit_code"] = 1
    (tmp_path / "receipt.json").write_text(json.dumps(document))
    assert ctl("verify", "--public-key", key, path).code == 10
    (tmp_path / "receipt.json").write_text("[garbage")
    assert ctl("verify", "--public-key", key, path).code == 10
    assert ctl("verify", "--public-key", key, str(tmp_path / "none")).code == 1
    assert ctl("verify", "--public-key", str(tmp_path / "receipt.json"), path).code == 1


def test_all_receipts_are_verified_without_a_daemon(ctl, tmp_path, written):
    """Edited, removed, and signed by somebody else; by the key that is there, or a better one from elsewhere."""
    said = ctl("verify", "--chain")
    assert said.code == 0
    assert "4 records, whole" in said.out
    assert "nobody can tell" in said.out
    assert ctl("verify", "--chain", "--public-key", str(tmp_path / "key.pem"), "--json").json["whole"]
    (tmp_path / "other.pem").write_text(Receipts(tmp_path / "other").public_key().pem)
    assert ctl("verify", "--chain", "--public-key", str(tmp_path / "other.pem")).code == 11
    [file] = files_in(written.directory)
    text = file.read_bytes()
    file.write_bytes(text.replace(b'"exit_code":0', b'"exit_code":1', 1))
    assert ctl("verify", "--chain").code == 10
    lines = text.splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:1], *lines[2:]]))
    assert ctl("verify", "--chain").code == 13
    file.write_bytes(b"".join(lines[:-1]))
    unsigned = ctl("verify", "--chain", "--directory", str(written.directory))
    assert unsigned.code == 11
    assert "has no signature" in unsigned.out
    absent = ctl("verify", "--chain", "--directory", str(tmp_path / "none"))
    assert absent.code == 1
    assert f"cannot read the receipts: {tmp_path / 'none'}: " in absent.err


def test_a_running_daemon_knows_the_last_receipt(ctl, tmp_path, written, daemon):
    """So a missing end shows."""
    status = {"directory": str(written.directory), "head": str(written.head), "key": "k"}
    daemon.answers["receipt"] = {**status, "public_key": written.public_key().pem}
    assert ctl("verify", "--chain", "--json").json["anchored"]
    [file] = files_in(written.directory)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:1]))
    said = ctl("verify", "--chain")
    assert said.code == 12
    assert "truncated" in said.out


def test_a_receipt_is_handed_out(ctl, tmp_path, written, daemon):
    """As JSON that can be verified, or as Markdown; and the key, as a file."""
    document = json.loads((tmp_path / "receipt.json").read_text())
    daemon.answers["receipt"] = document
    said = ctl("receipt", "1aa0")
    assert json.loads(said.out) == ctl("receipt", "1aa0", "--json").json == document
    markdown = ctl("receipt", "1aa0", "--markdown").out
    assert markdown.startswith(f"# Receipt of execution {FULL}\n\n````\nprintf '|%s`'\n````\n".replace("````", "```"))
    assert "| label job | a\\|b |" in markdown
    assert document["record"] in markdown
    daemon.answers["receipt"] = {"public_key": document["public_key"], "key": "k"}
    assert ctl("receipt", "--public-key").out == document["public_key"]
