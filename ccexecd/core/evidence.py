"""The possible verdicts on an execution's evidence, and whether a reply repeats the UUID that it was asked to.

Owns the verdicts, their order, and the search of a reply. Standard library only: ccexecctl verifies without a daemon.
Must not read files.
"""

import json
from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

ASKED = "expect_uuid"
"""Label with the UUID that the reply was asked to repeat; the value `id` stands for the execution's own id."""

_OWN = "id"

LONGEST_REPLY = 4 * 1024 * 1024
"""Bytes at the end of an output in which an agent's final result is looked for."""


class Verdict(Enum):
    """A verdict on an execution's evidence. The worst comes first."""

    FORGED = "forged"
    EDITED = "edited"
    TRUNCATED = "truncated"
    MISSING = "missing"
    UNREPEATED = "unrepeated"
    UNFINISHED = "unfinished"
    VERIFIED = "verified"


class Finding(NamedTuple):
    """One finding about evidence.

    Attributes:
        verdict: the verdict that follows from it; `VERIFIED` for a mere remark.
        text: what was found, for people.
    """

    verdict: Verdict
    text: str


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict of several findings."""
    order = list(Verdict)
    return min((each.verdict for each in findings), key=order.index, default=Verdict.VERIFIED)


def asked_of(labels: dict[str, str], execution_id: str) -> str | None:
    """Return the UUID that an execution's reply was asked to repeat, by its labels; None if none."""
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
        uuid: the UUID that is looked for.
        parts: the text in parts, cut anywhere.
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
