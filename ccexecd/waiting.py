"""Serializes an execution that waits, so that a later daemon can run it, and reads it back.

Owns the form: one JSON object with the whole spec, values of environment variables included, and the principal. When it
is read back, it is checked as strictly as a request. Must not know where it is kept, nor when it may run.
"""

from datetime import UTC, datetime
from typing import Any

import attrs

from ccexecd.core.queue import most_told
from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.protocol.codec import JSONSyntaxError, StructureError, dumps, loads, structure

VERSION = 1
"""Version of the form. A daemon leaves texts of another version alone."""


class UnreadableError(Exception):
    """A text cannot be read as a waiting execution; the message says why, and repeats nothing of the text."""


@attrs.frozen
class Waiting:
    """One execution that waited when its daemon ended.

    Attributes:
        version: `VERSION` of the form.
        execution_id: its id.
        session_id: id of its session, which has ended with its daemon.
        principal: name of the principal that it belongs to.
        created_at: when it was accepted, in seconds since the epoch.
        next_seq: a `seq` higher than that of any entry that its log can have had.
        spec: what to run.
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
    """Serialize an execution that waits.

    Args:
        execution: the execution.
        position: its position in its line, which bounds how many notes of its position its log will get.
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
    """Read back what `as_text` has written.

    Args:
        name: the id of the execution that the text is kept under.
        text: the text.

    Raises:
        UnreadableError: it is not valid, about another execution, or of another version.
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
    """Turn attrs objects into JSON objects; other values are JSON values already."""
    if not attrs.has(type(value)):
        return value
    return {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
