"""The tables of the history, as migrations from each version of the schema to the next.

Owns the SQL. Must not run it.
"""

from collections.abc import Sequence

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        principal TEXT NOT NULL,
        created_at REAL NOT NULL,
        ended_at REAL,
        ending TEXT
    ) WITHOUT ROWID;
    CREATE TABLE executions (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        session_id TEXT NOT NULL,
        principal TEXT NOT NULL,
        created_at REAL NOT NULL,
        finished_at REAL,
        reason TEXT,
        exit_code INTEGER,
        duration REAL NOT NULL,
        command TEXT NOT NULL,
        output_bytes INTEGER NOT NULL,
        description TEXT NOT NULL,
        completion TEXT
    );
    CREATE INDEX executions_by_session ON executions (session_id);
    CREATE INDEX executions_by_age ON executions (finished_at);
    CREATE TABLE labels (
        execution TEXT NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (name, value, execution)
    ) WITHOUT ROWID;
    CREATE INDEX labels_by_execution ON labels (execution);
    """,
    """
    ALTER TABLE executions ADD COLUMN idempotency_key TEXT;
    ALTER TABLE executions ADD COLUMN fingerprint TEXT;
    CREATE INDEX executions_by_key ON executions (principal, idempotency_key) WHERE idempotency_key IS NOT NULL;
    """,
    """
    ALTER TABLE executions ADD COLUMN receipt INTEGER;
    UPDATE executions SET receipt = 0 WHERE finished_at IS NOT NULL;
    CREATE INDEX executions_without_receipt ON executions (number) WHERE receipt IS NULL AND finished_at IS NOT NULL;
    """,
    """
    ALTER TABLE executions ADD COLUMN category TEXT;
    ALTER TABLE executions ADD COLUMN program TEXT;
    ALTER TABLE executions ADD COLUMN form TEXT;
    ALTER TABLE executions ADD COLUMN same TEXT;
    ALTER TABLE executions ADD COLUMN place TEXT;
    ALTER TABLE executions ADD COLUMN active_seconds REAL;
    ALTER TABLE executions ADD COLUMN load REAL;
    """,
)
"""SQL scripts, each from one version of the schema to the next; the first from an empty file. Only ever appended to."""
