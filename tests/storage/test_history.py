"""The history: what is kept of sessions and executions, and the ways from one version of the schema to the next."""

import json
import sqlite3
import threading

import attrs
import pytest

from ccexecd.storage.history import MIGRATIONS, History, HistoryError, Record, SessionRecord, Wanted


@pytest.fixture
def path(tmp_path):
    """Where a history is."""
    return tmp_path / "history.db"


@pytest.fixture
def history(path):
    """One that is open."""
    history = History(path)
    assert history.open() is None
    yield history
    history.close()


TOLD = {
    "stdout_bytes": 0,
    "stderr_bytes": 0,
    "next_seq": 1,
    "framing": "lines",
    "max_line_bytes": None,
    "pid": 1,
    "pgid": 1,
    "created_at": "2026-01-02T03:04:05+00:00",
}


def record(name: str, **known) -> Record:
    """A finished execution."""
    labels = known.pop("labels", {})
    return attrs.evolve(
        Record(
            id=name,
            session_id="s",
            principal="uid 0",
            created_at=1.0,
            finished_at=2.0,
            reason="exited",
            exit_code=0,
            duration=1.0,
            command="true",
            output_bytes=10,
            description={**TOLD, "execution_id": name, "labels": labels},
            completion={"status": "completed"},
        ),
        **known,
    )


def names(records) -> list[str]:
    """Their ids."""
    return [each.id for each in records]


def test_what_is_written_is_there_for_the_next_daemon(path):
    """Every field, and nobody else can read the file."""
    one = record("one", description={**TOLD, "labels": {}, "text": "ä\0\ud83d".encode("utf-8", "replace").decode()})
    history = History(path)
    history.open()
    history.write([SessionRecord("s", "uid 0", 1.0)], [one])
    history.close()
    assert path.stat().st_mode & 0o777 == 0o600
    again = History(path)
    again.open()
    assert again.find("one") == [one]
    again.close()


def test_a_record_is_replaced_by_a_newer_one(history):
    """What was running has finished; its place among the others stays."""
    running = record("one", finished_at=None, reason=None, exit_code=None, completion=None)
    history.write([], [running, record("two")])
    assert names(history.unfinished()) == ["one"]
    assert names(history.newest(Wanted())) == ["two"]
    history.write([], [record("one")])
    assert history.unfinished() == []
    assert names(history.newest(Wanted())) == ["two", "one"]


def test_all_or_nothing(history):
    """A record that cannot be written takes the others with it, which are tried again."""
    with pytest.raises(sqlite3.Error):
        history.write([], [record("one"), record("two", exit_code={})])
    assert names(history.newest(Wanted())) == []


def test_the_newest_first_and_no_more_than_asked_for(history):
    """By the order in which they came, with those left out that are known anyway."""
    history.write([], [record(f"e{number}", created_at=-number) for number in range(10)])
    assert names(history.newest(Wanted(limit=3))) == ["e9", "e8", "e7"]
    assert names(history.newest(Wanted(limit=3, besides=("e9", "e7", "other")))) == ["e8", "e6", "e5"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("job", ["b", "a"]),
        ("job=nightly", ["a"]),
        ("job=", []),
        ("empty=", ["c"]),
        ("empty", ["c"]),
        ("'; DROP TABLE labels; --", []),
        ("odd ' name = x", []),
        ("%", []),
        ("", []),
    ],
)
def test_by_label(history, label, expected):
    """A name, or a name and its value, as they are: nothing in them means anything else."""
    labels = {"a": {"job": "nightly"}, "b": {"job": "daily", "x": "y"}, "c": {"empty": ""}, "d": {}}
    history.write([], [record(name, labels=each) for name, each in labels.items()])
    history.write([], [record("a", labels=labels["a"])])
    assert names(history.newest(Wanted(label=label))) == expected


def test_only_what_is_there_for_a_principal(history):
    """Another one's executions are neither listed nor found, and make no id ambiguous."""
    history.write([], [record("ab1", principal="a"), record("ab2", principal="b")])
    assert names(history.newest(Wanted(principal="a"))) == names(history.find("ab", "a", prefix=True)) == ["ab1"]
    assert names(history.find("ab2", "b")) == ["ab2"]
    assert history.find("ab2", "a") == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null", '{"next_seq": 1}'])
def test_a_row_that_somebody_has_changed_is_passed_over(history, text):
    """The others are told."""
    history.write([], [record("one"), record("two")])
    with history._db as db:
        db.execute("UPDATE executions SET description = ? WHERE id = 'two'", (text,))
    assert names(history.newest(Wanted())) == ["one"]
    assert history.find("two") == []


@pytest.mark.parametrize("value", ["x", b"\xff", float("inf"), -1e300, 1 << 62, "null"])
def test_whatever_somebody_has_written_into_a_column(history, value):
    """SQLite takes it; every question is still answered, of the others in full."""
    for column in (each.name for each in attrs.fields(Record) if each.name != "id"):
        history.write([], [record("good", finished_at=5.0), record("changed", finished_at=6.0)])
        with history._db as db:
            db.execute(f"UPDATE executions SET {column} = ? WHERE id = 'changed'", (value,))
        assert "good" in names(history.newest(Wanted()))
        for each in history.newest(Wanted()):
            json.dumps([each.finished_at, each.receipt, each.command, each.output_bytes, dict(each.completion or {})])
        assert {name: size for name, _, size in history.outputs()}["good"] == 10
        assert sum(size for _, _, size in history.outputs()) < 1 << 60
        assert history.forget_before(5.0) == 5.0
        assert "good" in names(history.unattested(9))


def test_by_session(history):
    """Only that one's."""
    history.write([], [record("one", session_id="s1"), record("two", session_id="s2")])
    assert names(history.newest(Wanted(session="s2"))) == ["two"]


@pytest.mark.parametrize(
    ("name", "expected"), [("ab1", ["ab1"]), ("ab", ["ab1", "ab2"]), ("b", []), ("ab_", []), ("%", [])]
)
def test_by_the_beginning_of_an_id(history, name, expected):
    """Two are enough to know that it is not the only one."""
    history.write([], [record(each) for each in ("ab1", "ab2", "ab3", "aa")])
    assert names(history.find(name, prefix=True)) == expected
    assert names(history.find(name)) == [each for each in expected if each == name]


def test_what_is_forgotten(history):
    """What finished before a moment, with its labels and its session; never what runs, or has output."""
    history.write(
        [SessionRecord("s1", "p", 1.0, 5.0, "closed"), SessionRecord("s2", "p", 1.0)],
        [
            record("old", session_id="s1", finished_at=5.0, output_bytes=0, labels={"a": "b"}),
            record("kept", session_id="s2", finished_at=5.0),
            record("new", session_id="s2", finished_at=15.0),
            record("running", session_id="s2", finished_at=None),
        ],
    )
    history.forget_before(10.0)
    assert history.unknown(["old", "kept", "new", "running"]) == {"old"}
    db = history._db
    assert db.execute("SELECT count(*) FROM labels").fetchone() == (0,)
    assert db.execute("SELECT id FROM sessions").fetchall() == [("s2",)]


def test_outputs_in_the_order_in_which_they_go(history):
    """Those that there are, the oldest first; one that is gone is not there any more, its execution is."""
    times = {"b": 5.0, "a": 3.0, "c": 9.0}
    history.write([], [record(name, finished_at=moment) for name, moment in times.items()])
    history.write([], [record("none", output_bytes=0), record("running", finished_at=None)])
    assert history.outputs() == [("a", 3.0, 10), ("b", 5.0, 10), ("c", 9.0, 10)]
    history.outputs_are_gone(["a", "c"])
    assert history.outputs() == [("b", 5.0, 10)]
    assert history.find("a")[0].output_bytes == 0


def test_each_step_leads_to_the_next_version(path):
    """A file of any earlier version is brought to ours, and keeps what is in it."""
    old = History(path, MIGRATIONS)
    old.open()
    old.write([], [record("one")])
    old.close()
    steps = (*MIGRATIONS, "ALTER TABLE executions ADD COLUMN lane TEXT", "UPDATE executions SET lane = 'default'")
    new = History(path, steps)
    new.open()
    assert names(new.find("one")) == ["one"]
    assert new._db.execute("PRAGMA user_version").fetchone() == (len(steps),)
    assert new._db.execute("SELECT lane FROM executions").fetchall() == [("default",)]
    new.close()


def test_what_the_first_version_has_written_is_still_known(path):
    """Without a key, for it knew none."""
    old = History(path, MIGRATIONS[:1])
    old.open()
    columns = "id, session_id, principal, created_at, finished_at, duration, command, output_bytes, description"
    values = "'one', 's', 'uid 0', 1, 2, 1, 'true', 0, ?"
    old._db.execute(f"INSERT INTO executions ({columns}) VALUES ({values})", (json.dumps(TOLD),))
    old._db.commit()
    old.close()
    new = History(path)
    new.open()
    (found,) = new.find("one")
    assert (found.command, found.idempotency_key, found.fingerprint) == ("true", None, None)
    new.close()


def test_a_key_finds_the_newest_of_its_principal(history):
    """Nobody else's, and none that has no key."""
    history.write([], [record("one", idempotency_key="k", fingerprint="f"), record("two")])
    history.write([], [record("three", idempotency_key="k", fingerprint="g")])
    history.write([], [record("four", idempotency_key="k", fingerprint="h", principal="ci")])
    assert names(history.find_once("uid 0", "k")) == ["three"]
    assert names(history.find_once("ci", "k")) == ["four"]
    assert history.find_once("uid 0", "other") == []


def test_a_step_that_fails_leaves_the_version_before(path):
    """Nothing is half done: the next daemon begins there."""
    History(path).open()
    broken = (*MIGRATIONS, "ALTER TABLE executions ADD COLUMN lane TEXT; SELECT no_such_function()")
    with pytest.raises(HistoryError, match="no_such_function"):
        History(path, broken).open()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert "lane" not in [column[1] for column in db.execute("PRAGMA table_info(executions)")]
    db.close()


def test_a_later_version_is_left_alone(path):
    """Somebody has gone back to an earlier program: it says so, and does not touch the file."""
    later_steps = (*MIGRATIONS, "SELECT 1")
    later = History(path, later_steps)
    later.open()
    later.close()
    before = path.read_bytes()
    with pytest.raises(
        HistoryError,
        match=rf"version {len(later_steps)}, of a later ccexecd; this one writes version {len(MIGRATIONS)}",
    ):
        History(path).open()
    assert path.read_bytes() == before


@pytest.mark.parametrize("garbage", [b"hello, I am no database\n" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_put_aside(path, garbage):
    """It is kept, under a name that says so, and a new one begun."""
    path.write_bytes(garbage)
    history = History(path)
    said = history.open()
    assert said is not None
    [aside] = path.parent.glob("history.db.damaged-*")
    assert str(aside) in said
    assert aside.read_bytes() == garbage
    history.write([], [record("one")])
    assert names(history.find("one")) == ["one"]
    history.close()


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    """And is not put aside: it is not the file's fault."""
    (tmp_path / "history.db").mkdir()
    with pytest.raises(HistoryError, match=r"history.db"):
        History(tmp_path / "history.db").open()
    assert (tmp_path / "history.db").is_dir()


def test_somebody_else_may_look(history, path):
    """A person with a database shell reads while the daemon writes, and what they lock, it waits for."""
    history.write([], [record("one")])
    reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    assert reader.execute("SELECT count(*) FROM executions").fetchone() == (1,)
    reader.execute("BEGIN IMMEDIATE")
    threading.Timer(0.1, reader.execute, ("COMMIT",)).start()
    history.write([], [record("two")])
    assert history.unknown(["one", "two", "three"]) == {"three"}
    reader.close()
