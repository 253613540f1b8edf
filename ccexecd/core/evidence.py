"""What a look at evidence can show, and whether a reply repeats what it was asked to.

Owns the words, their order, and the search of a reply. Standard library only: ccexecctl verifies without a daemon. Must
not read anything itself.
"""

import json
from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

ASKED = "expect_uuid"
"""The label that says which UUID an execution's reply was asked to repeat; `id` stands for its own."""

_OWN = "id"

LONGEST_REPLY = 4 * 1024 * 1024
"""Bytes of the end of an output in which an agent's final result is looked for."""


class Verdict(Enum):
    """What a look at an execution's evidence shows: the word for it. The worst comes first."""

    FORGED = "forged"
    EDITED = "edited"
    TRUNCATED = "truncated"
    MISSING = "missing"
    UNREPEATED = "unrepeated"
    UNFINISHED = "unfinished"
    VERIFIED = "verified"


class Finding(NamedTuple):
    """Something about evidence that is to be told.

    Attributes:
        verdict: what it comes to; `VERIFIED` is a remark, and no fault.
        text: what has been found.
    """

    verdict: Verdict
    text: str


def worst(findings: Iterable[Finding]) -> Verdict:
    """What several findings come to together."""
    order = list(Verdict)
    return min((each.verdict for each in findings), key=order.index, default=Verdict.VERIFIED)


def asked_of(labels: dict[str, str], execution_id: str) -> str | None:
    """What the reply of an execution was asked to repeat, as its labels say; None if nothing."""
    asked = labels.get(ASKED)
    return execution_id if asked == _OWN else asked or None


def final_result(end: bytes) -> str | None:
    """The text of an agent's final result in the end of its output; None if there is no such event.

    Args:
        end: the last part of a standard output, in which each line that is an object may be an event.
    """
    for line in reversed(end.splitlines()):
        if line.startswith(b"{") and b'"result"' in line:
            event = _object(line)
            if event.get("type") == "result":
                text = event.get("result")
                return text if isinstance(text, str) else json.dumps(text)
    return None


def repeats(uuid: str, parts: Iterable[bytes]) -> bool:
    """Whether a UUID is somewhere in a text, in upper or lower case.

    Args:
        uuid: what is looked for.
        parts: the text, cut anywhere.
    """
    wanted = uuid.lower().encode()
    before = b""
    for part in parts:
        text = before + part.lower()
        if wanted in text:
            return True
        before = text[len(text) - len(wanted) + 1 :] if len(text) >= len(wanted) else text
    return False


def _object(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}
