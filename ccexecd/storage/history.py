"""Records of executions and sessions, kept in SQLite.

Owns the database, its migrations and the queries. Everything in here blocks. Only one thread at a time may write;
clients' questions (`find`, `find_once`, `newest`, `ask`) may run in another thread meanwhile. Must not know where
output lies, nor how long anything is kept.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import attrs
import orjson

from ccexecd.storage.schema import MIGRATIONS

T = TypeVar("T")

WHOLE_COMMAND = "argv_sha256"
"""Key that only descriptions in the history have: SHA-256 of an execution's words, joined by NUL."""

BUSY = 5.0
"""Seconds that a write waits for a lock on the file, which may be held by a person with the sqlite3 shell."""

BUSY_ASKING = 0.5
"""Seconds that a client's question waits for such a lock; a writer usually locks out no reader."""


class HistoryError(Exception):
    """The history cannot be used; the text says which file, why, and what to do."""


@attrs.frozen
class SessionRecord:
    """What is kept of a session. Times are in seconds since the epoch.

    Attributes:
        ending: how it ended; None as long as it has not.
    """

    id: str
    principal: str
    created_at: float
    ended_at: float | None = None
    ending: str | None = None


@attrs.frozen
class Record:
    """What is kept of an execution. Times are in seconds since the epoch, durations in seconds.

    Attributes:
        finished_at: when it ended; None as long as it has not.
        output_bytes: bytes that its log takes on disk; 0 if there is none any more.
        description: its fields as `list` and `status` return them.
        completion: the params of its `process.completed`; None as long as it has not finished.
        idempotency_key: the client's key for the request; None if it gave none.
        fingerprint: digest of the request, which tells it from another one with the same key.
        receipt: the number of its receipt; 0 if it gets none, None as long as it has none yet.
        category, program, form, same, place: the marks of its command (`core.kinds`); None until it has finished.
        active_seconds: how long it ran, pauses not counted; None if it never ran, or the time is not known.
        load: how busy the machine was when it ended, in per cent.
    """

    id: str
    session_id: str
    principal: str
    created_at: float
    finished_at: float | None
    reason: str | None
    exit_code: int | None
    duration: float
    command: str
    output_bytes: int
    description: Mapping[str, Any]
    completion: Mapping[str, Any] | None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    receipt: int | None = None
    category: str | None = None
    program: str | None = None
    form: str | None = None
    same: str | None = None
    place: str | None = None
    active_seconds: float | None = None
    load: float | None = None


LAST_MOMENT = 253_402_300_799.0
"""The end of the year 9999, the last that `datetime` has, in seconds since the epoch. Comparing with it also leaves out
texts and blobs, which SQLite sorts behind all numbers."""

MOST_BYTES = 1 << 50
"""Bytes of an output beyond which a row is not believed."""


@attrs.frozen
class Wanted:
    """Which executions a query is for; None means any.

    Attributes:
        label: a label's name, or its name and value as `name=value`.
        session: id of their session.
        principal: name of their principal.
        besides: ids that are left out of the answer, since the caller has them.
        limit: how many at most, the newest first.
    """

    label: str | None = None
    session: str | None = None
    principal: str | None = None
    besides: Sequence[str] = ()
    limit: int = 1000


class History:
    """The database.

    Args:
        path: its file, which is made if it is not there.
        migrations: SQL scripts, each from one version of the schema to the next.

    Attributes:
        path: its file.
        is_new: whether the file has only just been made.
    """

    def __init__(self, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path = path
        self._migrations = migrations
        self._connection: sqlite3.Connection | None = None
        self.is_new = False

    def open(self) -> str | None:
        """Open the database, and migrate it to this program's version. A damaged file is put aside.

        Returns:
            What was put aside and why, for the log; usually None.

        Raises:
            HistoryError: the database cannot be used.
        """
        try:
            try:
                self._connect()
            except sqlite3.DatabaseError as damage:
                if isinstance(damage, sqlite3.OperationalError):  # no room, no permission, locked: not the file's fault
                    raise
                return self.put_aside(damage)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise HistoryError(f"cannot use the history {self.path}: {error}") from error
        return None

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def write(
        self, sessions: Iterable[SessionRecord], executions: Iterable[Record], receipts: Mapping[str, int] | None = None
    ) -> None:
        """Write records in one transaction; one with the same id is replaced.

        Args:
            sessions: records of sessions.
            executions: records of executions.
            receipts: execution id -> number of its receipt, for these executions or for others in the database.

        Raises:
            sqlite3.Error: nothing was written.
        """
        others = dict(receipts or {})
        with self._db as db:
            db.executemany(_PUT_SESSION, [attrs.astuple(each) for each in sessions])
            for each in executions:
                known = attrs.asdict(each, recurse=False)
                known["receipt"] = others.pop(each.id, None) if each.finished_at is not None else None
                known["description"] = orjson.dumps(each.description).decode()
                known["completion"] = orjson.dumps(each.completion).decode() if each.completion is not None else None
                db.execute(_PUT_EXECUTION, known)
                labels = each.description.get("labels", {})
                db.executemany(_PUT_LABEL, [(each.id, name, value) for name, value in labels.items()])
            db.executemany("UPDATE executions SET receipt = ? WHERE id = ?", [(n, name) for name, n in others.items()])

    def find(self, execution_id: str, principal: str | None = None, *, prefix: bool = False) -> list[Record]:
        """Find the execution with an id or, with `prefix`, those whose ids begin with it: two at most.

        Args:
            execution_id: an id, or its beginning.
            principal: only executions of this one; None is everybody's.
            prefix: whether the beginning of an id is enough.

        Raises:
            sqlite3.Error: the database could not be read.
        """
        last = execution_id + "\U0010ffff" if prefix else execution_id
        condition = "WHERE id BETWEEN ? AND ? AND (principal = ? OR ? IS NULL) ORDER BY id LIMIT 2"
        return self._asked(condition, (execution_id, last, principal, principal))

    def find_once(self, principal: str, key: str) -> list[Record]:
        """The newest execution that a principal requested with an idempotency key; one or none.

        Raises:
            sqlite3.Error: the database could not be read.
        """
        return self._asked("WHERE principal = ? AND idempotency_key = ? ORDER BY number DESC LIMIT 1", (principal, key))

    def newest(self, wanted: Wanted) -> list[Record]:
        """Finished executions, the newest first.

        Raises:
            sqlite3.Error: they could not be read.
        """
        conditions, values = ["finished_at IS NOT NULL"], list[Any]()
        for column, value in (("session_id", wanted.session), ("principal", wanted.principal)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        if wanted.label is not None:
            name, equals, value = wanted.label.partition("=")
            conditions.append("id IN (SELECT execution FROM labels WHERE name = ? AND (value = ? OR NOT ?))")
            values += [name, value, bool(equals)]
        conditions.append("id NOT IN (SELECT value FROM json_each(?))")
        values.append(orjson.dumps(list(wanted.besides)).decode())
        values.append(wanted.limit)
        return self._asked(f"WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?", values)

    def unfinished(self) -> list[Record]:
        """Executions whose end is not known.

        Raises:
            sqlite3.Error: they could not be read.
        """
        return _records(self._db, "WHERE finished_at IS NULL", ())

    def unattested(self, limit: int) -> list[Record]:
        """Finished executions that are still to get a receipt, the newest first.

        Args:
            limit: how many at most.

        Raises:
            sqlite3.Error: they could not be read.
        """
        return _records(
            self._db, "WHERE receipt IS NULL AND finished_at IS NOT NULL ORDER BY number DESC LIMIT ?", (limit,)
        )

    def unknown(self, execution_ids: Iterable[str]) -> set[str]:
        """Which of these ids belong to no execution in the database.

        Raises:
            sqlite3.Error: they could not be looked for.
        """
        query = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM executions)"
        return {name for (name,) in self._db.execute(query, (orjson.dumps(list(execution_ids)).decode(),))}

    def outputs(self) -> list[tuple[str, float, int]]:
        """Id, end (seconds since the epoch) and bytes of every finished execution's output on disk, the oldest first.

        Raises:
            sqlite3.Error: they could not be read.
        """
        query = "SELECT id, finished_at, output_bytes FROM executions WHERE finished_at BETWEEN 0 AND ?"
        condition = "output_bytes BETWEEN 1 AND ? ORDER BY finished_at"
        return list(self._db.execute(f"{query} AND {condition}", (LAST_MOMENT, MOST_BYTES)))

    def outputs_are_gone(self, execution_ids: Iterable[str]) -> None:
        """Note that the output of these executions is no longer on disk.

        Raises:
            sqlite3.Error: it could not be written.
        """
        with self._db as db:
            db.executemany("UPDATE executions SET output_bytes = 0 WHERE id = ?", [(each,) for each in execution_ids])

    def forget_before(self, moment: float) -> float:
        """Delete executions without output that finished before a moment or have an impossible end, and old sessions.

        Returns:
            When the first of those that are left finished, in seconds since the epoch; infinity if there are none.

        Raises:
            sqlite3.Error: it could not be written.
        """
        with self._db as db:
            gone = "DELETE FROM executions WHERE (finished_at < ? OR finished_at > ?) AND NOT output_bytes"
            db.execute(gone, (moment, LAST_MOMENT))
            db.execute(
                "DELETE FROM sessions WHERE ended_at < ? AND id NOT IN (SELECT session_id FROM executions)", (moment,)
            )
            [(oldest,)] = db.execute(
                "SELECT min(moment) FROM"
                " (SELECT min(finished_at) AS moment FROM executions WHERE finished_at BETWEEN 0 AND :last UNION ALL"
                " SELECT min(ended_at) FROM sessions WHERE ended_at BETWEEN 0 AND :last"
                " AND id NOT IN (SELECT session_id FROM executions))",
                {"last": LAST_MOMENT},
            )
        return float("inf") if oldest is None else float(oldest)

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.OperationalError("the history is not open")
        return self._connection

    def _connect(self) -> None:
        self.path.touch(mode=0o600)
        self._connection = sqlite3.connect(self.path, timeout=BUSY, check_same_thread=False)
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "cache_size = -512"):
            self._connection.execute(f"PRAGMA {setting}")
        self._migrate(self._connection)

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Bring the file from its version to ours, one transaction for each step."""
        [(version,)] = db.execute("PRAGMA user_version")
        self.is_new = not version
        if version > len(self._migrations):
            raise HistoryError(
                f"cannot use the history {self.path}: it is of version {version}, of a later ccexecd; this one writes"
                f" version {len(self._migrations)}. Use that ccexecd, or move the file away"
            )
        for number, script in enumerate(self._migrations[version:], version + 1):
            db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")

    def put_aside(self, damage: sqlite3.DatabaseError) -> str:
        """Rename a damaged file, and begin a new one. Returns what was done, for the log.

        Raises:
            sqlite3.Error: the new file cannot be made.
            OSError: the old file cannot be renamed.
        """
        self.close()
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        self.path.rename(aside)
        for companion in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + companion).unlink()
        self._connect()
        return f"the history was damaged ({damage}); it was put aside as {aside}"

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a client's question on a connection of its own, so that it does not wait for a write.

        Raises:
            sqlite3.Error: the database could not be read.
        """
        if self._connection is None:
            raise sqlite3.OperationalError("the history is not open")
        place = f"{self.path.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(place, uri=True, timeout=BUSY_ASKING)) as db:
            return question(db)

    def _asked(self, condition: str, values: Sequence[Any]) -> list[Record]:
        return self.ask(lambda db: _records(db, condition, values))


def _records(db: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[Record]:
    rows = db.execute(f"SELECT {', '.join(_COLUMNS)} FROM executions {condition}", values)  # noqa: S608  # our own words
    return [record for row in rows.fetchall() if (record := _record(dict(zip(_COLUMNS, row, strict=True))))]


def _record(known: dict[str, Any]) -> Record | None:
    """A row as a record; None if the row is not as this program writes it."""
    try:
        known["description"] = orjson.loads(known["description"])
        known["completion"] = orjson.loads(known["completion"]) if known["completion"] is not None else None
    except orjson.JSONDecodeError:
        return None
    return record if is_sound(record := Record(**known)) else None


def is_sound(record: Record) -> bool:
    """Whether a record holds what this program writes, after somebody else may have edited what it was read from."""
    is_typed = all(isinstance(getattr(record, name), kinds) for name, kinds in _KINDS.items())
    return is_typed and record.description.keys() >= _TOLD


def _kinds(kind: Any) -> tuple[Any, ...]:
    alternatives = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    kinds = tuple(dict if get_origin(each) is Mapping else each for each in alternatives)
    return (*kinds, int) if float in kinds else kinds


_TOLD = {"stdout_bytes", "stderr_bytes", "next_seq", "framing", "max_line_bytes", "pid", "pgid", "created_at"}
_COLUMNS = [each.name for each in attrs.fields(Record)]
_KINDS = {each.name: _kinds(each.type) for each in attrs.fields(Record)}
"""Column -> the Python types that it may hold: SQLite takes anything in any column."""
_PUT_SESSION = "INSERT OR REPLACE INTO sessions (id, principal, created_at, ended_at, ending) VALUES (?, ?, ?, ?, ?)"
_PUT_EXECUTION = (
    f"INSERT INTO executions ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"  # noqa: S608  # fields of a class
    f" ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS if name != 'id')}"
)
_PUT_LABEL = "INSERT OR IGNORE INTO labels (execution, name, value) VALUES (?, ?, ?)"
