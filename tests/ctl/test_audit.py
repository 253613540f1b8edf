"""audit: verify tells by its exit code, tail and search show records; all of it on files, daemon or not."""

import re
from pathlib import Path

import pytest

from ccexecd.storage.audit import Audit
from ccexecd.storage.chain import files_in


@pytest.fixture
def audit(tmp_path: Path):
    """An audit with some records, in the state directory that `ctl` names."""
    (tmp_path / "d").mkdir()
    audit = Audit(tmp_path / "d" / "audit", 1 << 20, 10)
    for number in range(4):
        facts = {"execution_id": f"e{number}", "principal": f"uid {number % 2}", "decision": "allowed"}
        audit.record("decision", {**facts, "command": f"echo {number}"})
        audit.record("outcome", {"execution_id": f"e{number}", "outcome": "exited", "exit_code": number})
    audit.record("decision", {"decision": "refused", "principal": "uid 0", "command": "rm\x1b[31m -rf", "reason": "no"})
    yield audit
    audit.close({})


def edit(audit: Audit, old: bytes, new: bytes) -> None:
    (file,) = files_in(audit.directory)
    file.write_bytes(file.read_bytes().replace(old, new, 1))


def test_a_whole_audit_is_whole(ctl, audit):
    """Exit 0; without anybody who knows the end, that is said."""
    said = ctl("audit", "verify")
    assert said.code == 0
    summary, caution = said.out.splitlines()
    assert summary == f"{audit.directory}: records 1 to 10, whole; head {audit.head}"
    assert "nobody can tell" in caution
    told = ctl("audit", "verify", "--json").json
    assert (told["whole"], told["records"], told["head"]) == (True, 10, str(audit.head))
    assert (told["findings"], told["anchored"]) == ([], False)


def test_what_was_done_to_it_is_told(ctl, audit):
    """Exit 1; what, where, and in which record."""
    edit(audit, b"uid 1", b"uid 0")
    said = ctl("audit", "verify")
    assert said.code == 1
    first, summary, _ = said.out.splitlines()
    assert re.fullmatch(r"edited: audit-\d+\.jsonl:4: record 4 is not what its hash says: it has been edited", first)
    assert "NOT as they were written" in summary
    (finding,) = ctl("audit", "verify", "--json").json["findings"]
    assert (finding["kind"], finding["line"]) == ("edited", 4)


def test_a_cut_end_shows_by_an_anchor(ctl, audit):
    """Which the daemon's log has, or the running daemon tells."""
    anchor = str(audit.head)
    (file,) = files_in(audit.directory)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))
    assert ctl("audit", "verify").code == 0
    said = ctl("audit", "verify", "--anchor", anchor)
    assert said.code == 1
    assert "truncated" in said.out
    assert ctl("audit", "verify", "--anchor", "nonsense").code == 2


def test_a_running_daemon_is_the_anchor(ctl, audit, daemon):
    """It knows its last record, and where the files are."""
    daemon.answers["status"]["audit"] = {"directory": str(audit.directory), "head": str(audit.head), "problem": None}
    assert ctl("audit", "verify", "--json").json["anchored"]
    (file,) = files_in(audit.directory)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))
    assert ctl("audit", "verify").code == 1


def test_an_audit_elsewhere(ctl, audit, tmp_path):
    """A copy, for instance; where there is none, nothing is wrong with it."""
    copy = tmp_path / "copy"
    audit.directory.rename(copy)
    assert ctl("audit", "verify", "--directory", str(copy)).code == 0
    said = ctl("audit", "verify")
    assert (said.code, "no records, whole" in said.out) == (0, True)


def test_the_last_records(ctl, audit):
    """As many as asked for; what could take over a terminal is escaped."""
    said = ctl("audit", "tail", "-n", "2")
    assert said.code == 0
    last = said.out.splitlines()
    assert len(last) == 2
    assert "outcome execution_id=e3 outcome=exited exit_code=3" in last[0]
    assert "\x1b" not in said.out
    assert "decision=refused" in last[1]
    assert ctl("audit", "tail", "-n", "1", "--json").json["command"] == "rm\x1b[31m -rf"
    assert len(ctl("audit", "tail", "-n", "9" * 30).out.splitlines()) == 10
    audit.record("call", {"method": "control", "type": "CANCEL", "execution_id": "e3", "principal": "uid 0"})
    audit.record("call", {"method": "token_revoke", "name": "ci", "decision": "allowed"})
    what = [line.partition(" call ")[2] for line in ctl("audit", "tail", "-n", "2").out.splitlines()]
    assert what[0].startswith("method=control type=CANCEL execution_id=e3")
    assert "name=ci" in what[1]


def test_following_shows_what_comes(ctl_process, audit):
    """Until it is interrupted, which is no failure."""
    process = ctl_process("audit", "tail", "-n", "1", "--follow")
    assert b"refused" in process.stdout.readline()
    audit.record("decision", {"decision": "allowed", "command": "later"})
    assert b"command=later" in process.stdout.readline()
    process.send_signal(2)
    assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--decision", "refused"), [10]),
        (("--principal", "uid 1"), [4, 8]),
        (("--execution", "e2"), [6, 7]),
        (("--kind", "outcome", "--execution", "e0"), [3]),
        (("--text", "echo 3"), [8]),
        (("--since", "2999-01-01"), []),
        (("--until", "2000-01-01"), []),
        (("--kind", "began"), [1]),
    ],
)
def test_records_are_found(ctl, audit, words, found):
    """By all that is asked for, in their order."""
    lines = ctl("audit", "search", *words).out.splitlines()
    assert [int(line.split()[1]) for line in lines] == found


@pytest.mark.parametrize("time", ["yesterday", "20260131", "2026-01-31T08:00+02:00", "2026-13-01"])
def test_a_time_that_is_none_is_told(ctl, audit, time):
    """It would be compared as text, and find anything."""
    said = ctl("audit", "search", "--since", time)
    assert said.code == 2
    assert "2026-01-31T08:00 (UTC)" in said.err
    assert ctl("audit", "search", "--since", "2026-01-31T08:00").code == 0


def test_what_is_not_there_is_not_whole(ctl, tmp_path):
    """A directory that was named wrongly proves nothing."""
    said = ctl("audit", "verify", "--directory", str(tmp_path / "none"))
    assert said.code == 1
    assert "none" in said.err


def test_files_that_cannot_be_read_are_told(ctl, audit):
    """With their name, and what to do."""
    (file,) = files_in(audit.directory)
    file.rename(file.with_suffix(".kept"))
    file.mkdir()
    said = ctl("audit", "verify")
    assert said.code == 1
    assert f"cannot read the audit: {file}" in said.err


def test_what_is_no_file_keeps_nobody_waiting(ctl, audit):
    """Something endless in the place of a file."""
    (file,) = files_in(audit.directory)
    file.rename(file.with_suffix(".kept"))
    file.symlink_to("/dev/zero")
    for deed in ("verify", "tail", "search"):
        said = ctl("audit", deed)
        assert said.code == 1
        assert f"cannot read the audit: {file}" in said.err
