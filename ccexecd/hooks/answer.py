"""A hook's answer: from the bytes that it wrote to standard output to checked values.

Owns the form of an answer. Must not do what it asks for.
"""

from typing import Any, Literal

import attrs

from ccexecd.core.hooks import Change, HookEvent
from ccexecd.protocol.codec import JSONSyntaxError, StructureError, Text, loads, structure

LONGEST_TEXT = 1000
"""Characters of a reason or a warning that are kept; the rest is cut off."""


class AnswerError(Exception):
    """An answer cannot be used; the text says why, without quoting values from it."""


@attrs.frozen
class _Remark:
    """What any hook may answer."""

    warning: str = ""


@attrs.frozen
class _Decision:
    """What a `pre_execute` hook may answer."""

    decision: Literal["allow", "refuse"] = "allow"
    reason: str = ""
    environment: dict[Text, Text] = attrs.field(factory=dict, repr=False)
    unset: tuple[Text, ...] = ()
    wrap: tuple[Text, ...] = ()
    warning: str = ""

    def __attrs_post_init__(self) -> None:
        if any(not name or "=" in name for name in (*self.environment, *self.unset)):
            raise StructureError([{"path": "$", "error": 'the name of a variable must not be empty nor hold "="'}])
        if self.wrap and not self.wrap[0]:
            raise StructureError([{"path": "$.wrap", "error": "its first word must not be empty"}])


@attrs.frozen
class Answer:
    """A checked answer.

    Attributes:
        refused: whether the command must not run.
        reason: why not; may be empty.
        change: how the command and its environment are to be changed.
        warning: a text for those who watch the execution; empty for none.
    """

    refused: bool = False
    reason: str = ""
    change: Change = Change()
    warning: str = ""


def answer_of(event: HookEvent, written: bytes) -> Answer:
    """Parse and check an answer.

    Args:
        event: the event at which the hook was called: only `pre_execute` may refuse or change anything.
        written: what the hook wrote to standard output. Nothing but white space is an answer, too: all is well.

    Raises:
        AnswerError: it is not JSON, or not a valid answer.
    """
    if not written.strip():
        return Answer()
    try:
        value, _ = loads(written)
        if event != "pre_execute":
            return Answer(warning=structure(value, _Remark).warning[:LONGEST_TEXT])
        found: Any = structure(value, _Decision)
    except JSONSyntaxError:
        raise AnswerError("what it wrote to its standard output is not JSON") from None
    except StructureError as error:
        raise AnswerError(f"its answer is not valid: {error}") from None
    return Answer(
        found.decision == "refuse",
        found.reason[:LONGEST_TEXT],
        Change(found.environment, found.unset, found.wrap),
        found.warning[:LONGEST_TEXT],
    )
