"""The ledger of prompts: their versions, the results of their runs, and which version is in production.

Owns its SQLite file. Unlike the history, it cannot be rebuilt: the prompts, and why they were changed, are nowhere
else. A run counts once, however often it is reported. Everything blocks; each call opens and closes its own connection,
so an idle daemon holds none. Must not decide whether a run was verified.
"""

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from ccexecd.core.standing import Tally

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE versions (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        kind TEXT NOT NULL,
        text TEXT NOT NULL,
        why TEXT NOT NULL,
        created_at REAL NOT NULL,
        PRIMARY KEY (owner, name, version)
    ) WITHOUT ROWID;
    CREATE TABLE runs (
        execution TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        succeeded INTEGER NOT NULL,
        counted_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX runs_by_version ON runs (owner, name, version);
    CREATE TABLE events (
        number INTEGER PRIMARY KEY,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        event TEXT NOT NULL,
        told TEXT NOT NULL,
        at REAL NOT NULL
    );
    CREATE TABLE production (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        PRIMARY KEY (owner, name)
    ) WITHOUT ROWID;
    """,
)
"""SQL scripts, each from one version of the schema to the next; the first from an empty file. Only ever appended to."""

_BUSY = 5.0  # seconds that a statement waits for somebody who has the file locked


class LedgerError(Exception):
    """The ledger refuses what was asked for; the text says why, and may be shown to the caller."""


@attrs.frozen
class Version:
    """One version of a prompt.

    Attributes:
        kind: `prompt` or `tasks`.
        text: the prompt, or the list of tasks.
        why: what was changed, and why.
        created_at: when it was put on record, in seconds since the epoch.
        tally: how many of its verified runs succeeded, and how many failed.
        is_production: whether it is the version in production.
    """

    name: str
    version: int
    kind: str
    text: str
    why: str
    created_at: float
    tally: Tally
    is_production: bool

    @property
    def sha256(self) -> str:
        """SHA-256 of its text: an execution that runs this version names it in a label."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Ledger:
    """The ledger of one daemon.

    Args:
        path: its file; made when the first version is put on record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def versions(self, owner: str, name: str | None = None) -> list[Version]:
        """Every version of an owner's prompts, the oldest of each first.

        Args:
            owner: a principal's name.
            name: only the prompt of this name; None for all.

        Raises:
            LedgerError: the file was written by a later version of this program.
            sqlite3.Error: the file cannot be read.
        """
        condition = "WHERE v.owner = ?" + (" AND v.name = ?" if name is not None else "")
        values = (owner,) if name is None else (owner, name)
        if not self._path.exists():
            return []
        with self._opened() as db:
            rows = db.execute(f"{_VERSIONS} {condition} GROUP BY v.name, v.version", values)
            return [
                Version(name, version, kind, text, why, at, Tally(successes, failures), bool(is_production))
                for name, version, kind, text, why, at, successes, failures, is_production in rows
            ]

    def add(self, owner: str, name: str, kind: str, text: str, why: str) -> int:
        """Put a new version of a prompt on record. Returns its number.

        Raises:
            LedgerError: the newest version has the same text and kind.
            sqlite3.Error: the file cannot be written.
        """
        known = self.versions(owner, name)
        if known and (known[-1].text, known[-1].kind) == (text, kind):
            raise LedgerError(f"version {known[-1].version} of {name} says just that already")
        version = known[-1].version + 1 if known else 1
        with self._opened() as db:
            values = (owner, name, version, kind, text, why, time.time())
            db.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            _tell(db, owner, name, version, "recorded", why)
        return version

    def count(self, owner: str, known: Version, execution: str, *, succeeded: bool) -> bool:
        """Count a verified run. A version in production whose tally is no longer fit for that is demoted.

        Args:
            owner: a principal's name.
            known: the version that was run.
            execution: the id of the execution.
            succeeded: whether it succeeded.

        Returns:
            Whether the run was counted now; False if it had been counted before.

        Raises:
            sqlite3.Error: the file cannot be written.
        """
        name, version = known.name, known.version
        with self._opened() as db:
            values = (execution, owner, name, version, succeeded, time.time())
            added = db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?)", values).rowcount
        if not added:
            return False
        now = self.version(owner, name, version)
        with self._opened() as db:
            _tell(db, owner, name, version, "succeeded" if succeeded else "failed", execution)
            if now.is_production and not now.tally.is_fit:
                db.execute("DELETE FROM production WHERE owner = ? AND name = ?", (owner, name))
                _tell(db, owner, name, version, "demoted", now.tally.lacking)
        return True

    def graduate(self, owner: str, known: Version) -> None:
        """Take a version into production, in place of the one that is there.

        Raises:
            LedgerError: its tally is not fit for that, or it is in production already.
            sqlite3.Error: the file cannot be written.
        """
        name, version = known.name, known.version
        if known.is_production:
            raise LedgerError(f"version {version} of {name} is in production already")
        if not known.tally.is_fit:
            raise LedgerError(f"version {version} of {name} is not fit for production: {known.tally.lacking}")
        with self._opened() as db:
            db.execute("INSERT OR REPLACE INTO production VALUES (?, ?, ?)", (owner, name, version))
            _tell(db, owner, name, version, "graduated", f"{known.tally.successes} to {known.tally.failures}")

    def version(self, owner: str, name: str, version: int | None = None) -> Version:
        """One version of a prompt.

        Args:
            owner: a principal's name.
            name: the prompt's name.
            version: its number; None for the version in production or, if there is none, the newest.

        Raises:
            LedgerError: there is no such prompt or version.
            sqlite3.Error: the file cannot be read.
        """
        known = self.versions(owner, name)
        chosen = [each for each in known if each.version == version] if version is not None else known
        best = [each for each in chosen if each.is_production] or chosen
        if not best:
            what = "no prompt" if not known else f"no version {version} of prompt"
            raise LedgerError(f"there is {what} {name!r}")
        return best[-1]

    def history(self, owner: str, name: str) -> list[dict[str, Any]]:
        """The events of a prompt, the oldest first: `{version, event, told, at}`, `at` in seconds since the epoch.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        if not self._path.exists():
            return []
        query = "SELECT version, event, told, at FROM events WHERE owner = ? AND name = ? ORDER BY number"
        with self._opened() as db:
            rows = db.execute(query, (owner, name)).fetchall()
        return [dict(zip(("version", "event", "told", "at"), row, strict=True)) for row in rows]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self._path.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY)) as db, db:
            [(version,)] = db.execute("PRAGMA user_version")
            if version > len(MIGRATIONS):
                raise LedgerError(f"the ledger is of version {version}, of a later ccexecd: use that one")
            for number, script in enumerate(MIGRATIONS[version:], version + 1):
                db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
            yield db


def _tell(db: sqlite3.Connection, owner: str, name: str, version: int, event: str, told: str) -> None:
    values = (owner, name, version, event, told, time.time())
    db.execute("INSERT INTO events (owner, name, version, event, told, at) VALUES (?, ?, ?, ?, ?, ?)", values)


_VERSIONS = """
    SELECT v.name, v.version, v.kind, v.text, v.why, v.created_at,
        coalesce(sum(r.succeeded), 0), coalesce(sum(NOT r.succeeded), 0), p.version IS NOT NULL
    FROM versions v
    LEFT JOIN runs r ON r.owner = v.owner AND r.name = v.name AND r.version = v.version
    LEFT JOIN production p ON p.owner = v.owner AND p.name = v.name AND p.version = v.version
"""
