"""What the history is asked about durations."""

import json
import sqlite3

import attrs
import pytest

from ccexecd.core.kinds import kind_of
from ccexecd.storage import timings
from ccexecd.storage.history import MIGRATIONS, History, Record
from ccexecd.storage.timings import Asked, learnt, spread, told


def record(name: str, command: str = "make", seconds: float | None = 1.0, **known) -> Record:
    """A finished execution."""
    kind = kind_of(("sh", "-c", command), command, "/w", shell=True)
    description = {"timeout": 60.0, "timeout_source": "request", "stdout_bytes": 0, "stderr_bytes": 0, "next_seq": 3}
    description |= {"framing": "raw", "max_line_bytes": None, "pid": 1, "pgid": 1, "created_at": "now"}
    made = Record(
        id=name,
        session_id="s",
        principal="me",
        created_at=10.0,
        finished_at=20.0,
        reason="exited",
        exit_code=0,
        duration=2.0,
        command=command,
        output_bytes=0,
        description=description,
        completion={},
        **{**attrs.asdict(kind, recurse=False), "category": kind.category.value},
        active_seconds=seconds,
        load=12.5,
    )
    return attrs.evolve(made, **known)


@pytest.fixture
def history(tmp_path):
    """One with a few executions, the oldest first."""
    history = History(tmp_path / "history.db")
    history.open()
    history.write(
        [],
        [
            record("a", "make", 1.0, finished_at=10.0),
            record("b", "make", 2.0, principal="other", finished_at=20.0),
            record("c", "pytest", 3.0, reason="timeout", exit_code=-15, finished_at=30.0),
            record("d", "make test", 4.0, exit_code=1, finished_at=40.0),
            record("e", "make", None, reason="spawn_failed", exit_code=None, finished_at=50.0),
            record("f", "ls", 0.5, created_at=99.0, finished_at=100.0),
            record("g", "ls", None, reason=None, finished_at=None),
        ],
    )
    yield history
    history.close()


def test_what_is_learnt_from_an_earlier_daemon(history):
    """Whose, what, how long, and whether to its end; the oldest first, and nothing of what never ran or came later."""
    found = history.ask(lambda db: learnt(db, 99.0))
    assert [(each.principal, each.kind.program, each.seconds, each.is_complete) for each in found] == [
        ("me", "make", 1.0, True),
        ("other", "make", 2.0, True),
        ("me", "pytest", 3.0, False),
        ("me", "make test", 4.0, False),
    ]
    assert found[0].kind == kind_of(("sh", "-c", "make"), "make", "/w", shell=True)


def test_no_more_is_learnt_than_a_start_can_bear(history, monkeypatch):
    """The newest."""
    monkeypatch.setattr(timings, "MOST_LEARNT", 2)
    assert [each.seconds for each in history.ask(lambda db: learnt(db, 99.0))] == [3.0, 4.0]


def test_what_somebody_else_has_written_there_is_passed_over(history):
    """A person with the sqlite3 shell cannot keep the daemon from starting."""
    with history._db as db:
        db.execute("UPDATE executions SET category = 'nonsense' WHERE id = 'a'")
        db.execute("UPDATE executions SET active_seconds = 'long' WHERE id = 'b'")
    assert [each.seconds for each in history.ask(lambda db: learnt(db, 99.0))] == [3.0, 4.0]


@pytest.mark.parametrize("value", ["x", b"\xff", float("inf"), -1e300, 1 << 62, "null"])
def test_whatever_somebody_has_written_into_a_column(history, value):
    """The others are told of, counted and learnt from, and what is told can be JSON."""
    for column in (each.name for each in attrs.fields(Record) if each.name != "id"):
        history.write([], [record("d", "make test", 4.0, exit_code=1, finished_at=40.0)])
        with history._db as db:
            db.execute(f"UPDATE executions SET {column} = ? WHERE id = 'd'", (value,))
        seen = history.ask(lambda db: told(db, Asked()))
        assert {"a", "b", "c"} <= {each["execution_id"] for each in seen}
        json.dumps(seen)
        assert all(0 <= each["finished_at"] < 1e12 for each in seen)
        assert sum(each["runs"] for each in history.ask(lambda db: spread(db, Asked(), "program"))) in (4, 5)
        assert len(history.ask(lambda db: learnt(db, 99.0))) in (3, 4)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Asked(), "fedcba"),
        (Asked(limit=2), "fe"),
        (Asked(principal="other"), "b"),
        (Asked(category="build"), "eba"),
        (Asked(program="make test"), "d"),
        (Asked(reason="timeout"), "c"),
        (Asked(since=40.0), "fed"),
        (Asked(before=3), "ba"),
        (Asked(principal="me", category="build", reason="exited", limit=1), "a"),
        (Asked(program="'; DROP TABLE executions; --"), ""),
    ],
)
def test_which_executions_are_told(history, asked, expected):
    """Finished ones, the newest first, by everything that can be asked for."""
    assert "".join(each["execution_id"] for each in history.ask(lambda db: told(db, asked))) == expected


def test_what_is_told_of_one(history):
    """What it was, how long it took, how it ended, how busy the machine was, and what its time-out had been."""
    (one,) = history.ask(lambda db: told(db, Asked(before=2)))
    assert one == {
        "number": 1,
        "execution_id": "a",
        "session_id": "s",
        "principal": "me",
        "command": "make",
        "category": "build",
        "program": "make",
        "form": "make",
        "created_at": 10.0,
        "finished_at": 10.0,
        "duration": 2.0,
        "active_seconds": 1.0,
        "reason": "exited",
        "exit_code": 0,
        "load": 12.5,
        "timeout": 60.0,
        "timeout_source": "request",
    }


def test_percentiles(history):
    """Of the runs that came to their end; the others are counted."""
    history.write([], [record(f"x{number}", "seq 9", float(number)) for number in range(1, 101)])
    first, *_ = groups = history.ask(lambda db: spread(db, Asked(principal="me"), "program"))
    assert first == {
        "name": "seq",
        "runs": 100,
        "complete": 100,
        "timed_out": 0,
        "p50": 50.0,
        "p90": 90.0,
        "p95": 95.0,
        "p99": 99.0,
        "longest": 100.0,
        "total_seconds": 5050.0,
    }
    (timed_out,) = (each for each in groups if each["name"] == "pytest")
    assert (timed_out["complete"], timed_out["timed_out"], timed_out["p50"]) == (0, 1, None)
    by_category = history.ask(lambda db: spread(db, Asked(category="build"), "category"))
    assert [(each["name"], each["runs"]) for each in by_category] == [("build", 2)]


def test_a_file_of_an_earlier_version_has_no_durations_to_learn_from(tmp_path):
    """Its executions are told all the same."""
    path = tmp_path / "old.db"
    old = History(path, MIGRATIONS[:2])
    old.open()
    db = sqlite3.connect(path)
    columns = "id, session_id, principal, created_at, finished_at, duration, command, output_bytes, description"
    db.execute(f"INSERT INTO executions ({columns}) VALUES ('one', 's', 'me', 1, 2, 1, 'true', 0, '{{}}')")
    db.commit()
    db.close()
    old.close()
    new = History(path)
    new.open()
    assert new.ask(lambda db: learnt(db, 99.0)) == []
    (one,) = new.ask(lambda db: told(db, Asked()))
    assert (one["command"], one["category"], one["load"]) == ("true", None, None)
    assert new.ask(lambda db: spread(db, Asked(), "program")) == []
    new.close()
