"""The ledger of prompts: versions, runs that count once, and a place in production that is earned and lost."""

import sqlite3

import pytest

from ccexecd.core.standing import Tally
from ccexecd.storage.ledger import Ledger, LedgerError


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "prompts.db")


def counted(ledger: Ledger, name: str, successes: int, failures: int, version: int | None = None) -> None:
    """So many more runs."""
    known = ledger.version("me", name, version)
    start = known.tally.runs
    for number in range(successes + failures):
        run = f"{name}/{known.version}/{start + number}"
        assert ledger.count("me", known, run, succeeded=number < successes)


def test_versions_are_kept_with_their_reasons(ledger, tmp_path):
    """Numbered from 1, each owner's by itself; the same text is no new version; and nothing is made by a look."""
    assert ledger.versions("me") == []
    assert ledger.history("me", "review") == []
    assert not (tmp_path / "prompts.db").exists()
    assert [ledger.add("me", "review", "prompt", text, "why") for text in ("one", "two")] == [1, 2]
    assert ledger.add("you", "review", "tasks", "two", "why") == 1
    with pytest.raises(LedgerError, match="version 2 of review says just that"):
        ledger.add("me", "review", "prompt", "two", "again")
    assert [(each.version, each.text) for each in ledger.versions("me", "review")] == [(1, "one"), (2, "two")]
    assert ledger.version("me", "review").version == 2
    assert ledger.version("me", "review", 1).text == "one"
    for name, version, text in (("review", 3, "no version 3"), ("none", None, "no prompt 'none'")):
        with pytest.raises(LedgerError, match=text):
            ledger.version("me", name, version)
    assert (tmp_path / "prompts.db").stat().st_mode & 0o777 == 0o600


def test_a_run_counts_once(ledger):
    """For the version that it ran."""
    ledger.add("me", "review", "prompt", "one", "why")
    known = ledger.version("me", "review")
    assert ledger.count("me", known, "e1", succeeded=True)
    assert not ledger.count("me", known, "e1", succeeded=True)
    assert not ledger.count("me", known, "e1", succeeded=False)
    ledger.add("me", "review", "prompt", "two", "why")
    assert [each.tally for each in ledger.versions("me")] == [Tally(1, 0), Tally()]


def test_production_is_earned_and_lost(ledger):
    """Ten to one in ten runs; below that, a version goes; another one takes its place."""
    ledger.add("me", "review", "prompt", "one", "first")
    counted(ledger, "review", 9, 0)
    with pytest.raises(LedgerError, match="1 more successes needed"):
        ledger.graduate("me", ledger.version("me", "review"))
    counted(ledger, "review", 1, 0)
    ledger.graduate("me", ledger.version("me", "review"))
    with pytest.raises(LedgerError, match="in production already"):
        ledger.graduate("me", ledger.version("me", "review"))
    ledger.add("me", "review", "prompt", "two", "second")
    assert ledger.version("me", "review").version == 1  # the one in production
    counted(ledger, "review", 0, 1)
    assert ledger.version("me", "review", 1).is_production
    counted(ledger, "review", 0, 1, version=1)
    assert ledger.version("me", "review").version == 2
    events = [(each["version"], each["event"]) for each in ledger.history("me", "review")]
    assert [each for each in events if each[1] not in {"succeeded", "failed"}] == [
        (1, "recorded"),
        (1, "graduated"),
        (2, "recorded"),
        (1, "demoted"),
    ]
    counted(ledger, "review", 10, 0, version=2)
    ledger.graduate("me", ledger.version("me", "review", 2))
    assert ledger.version("me", "review").version == 2


def test_a_ledger_of_a_later_version_is_left_alone(ledger, tmp_path):
    """Nothing in it is changed."""
    ledger.add("me", "review", "prompt", "one", "why")
    with sqlite3.connect(tmp_path / "prompts.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match="of a later ccexecd"):
        ledger.versions("me")
