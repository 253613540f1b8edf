"""What is written down of an execution that waits, so that a later daemon can run it: as text and back.

Owns the form: one JSON object with all that was asked for, the values of environment variables included, and whose it
is. Read back, it is checked as strictly as a request. Must not know where it is kept, nor when it may run.
"""

from datetime import UTC, datetime
from typing import Any

import attrs

from ccexecd.core.queue import most_told
from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.protocol.codec import JSONSyntaxError, StructureError, dumps, loads, structure

VERSION = 1
"""Of the form. A daemon leaves texts of another version alone."""


class UnreadableError(Exception):
    """A text is none of an execution that waits; the message says why, and repeats nothing of it."""


@attrs.frozen
class Waiting:
    """One execution that waited when its daemon ended.

    Attributes:
        version: of the form.
        execution_id: its id.
        session_id: its session's, which has ended with its daemon.
        principal: whose that was.
        created_at: when it was accepted, in seconds since the epoch.
        next_seq: a number that no entry of its log can have had yet.
        spec: what it is to be.
    """

    version: int
    execution_id: str
    session_id: str
    principal: str
    created_at: float
    next_seq: int
    spec: Spec = attrs.field(repr=False)

    @property
    def accepted_at(self) -> datetime:
        """When it was accepted."""
        return datetime.fromtimestamp(self.created_at, UTC)


def as_text(execution: Execution, position: int) -> bytes:
    """What is to be known of an execution that waits.

    Args:
        execution: which.
        position: its place in its line: on its way to the front, it is told of so many more.
    """
    told = {
        "version": VERSION,
        "execution_id": execution.id,
        "session_id": execution.session_id,
        "principal": execution.principal,
        "created_at": execution.created_at.timestamp(),
        "next_seq": execution.log.next_seq + most_told(position),
        "spec": _plain(execution.spec),
    }
    return dumps(told)


def from_text(name: str, text: bytes) -> Waiting:
    """The same, read back.

    Args:
        name: the id that it is kept under.
        text: as `as_text` has given it.

    Raises:
        UnreadableError: it is none, not this one's, or of another version.
    """
    try:
        told, problems = loads(text)
        waiting = structure(told, Waiting)
    except (JSONSyntaxError, StructureError) as error:
        raise UnreadableError(str(error)) from None
    if problems or waiting.execution_id != name or waiting.version != VERSION:
        raise UnreadableError("it is of another version, or about another execution")
    return waiting


def _plain(value: Any) -> Any:
    """An object of ours as JSON has it; the rest is that already."""
    if not attrs.has(type(value)):
        return value
    return {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
