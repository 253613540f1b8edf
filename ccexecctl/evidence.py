"""Evidence as people read it: a receipt as Markdown, a verdict as lines, several as a report.

Owns these texts and the exit code of each verdict. Must not verify anything.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ccexecctl import render
from ccexecctl.errors import Exit
from ccexecctl.execution import ending

EXITS = {
    "verified": int(Exit.DONE),
    "edited": 10,
    "forged": 11,
    "truncated": 12,
    "missing": 13,
    "unrepeated": 14,
    "unfinished": 15,
}
"""The exit code of each verdict."""

WORST_FIRST = ("forged", "edited", "truncated", "missing", "unrepeated", "unfinished", "verified")
"""All verdicts, the worst first: of several, the worst decides the exit code."""

_TOLD = (
    ("execution", "execution_id"),
    ("session", "session_id"),
    ("principal", "principal"),
    ("created", "created_at"),
    ("started", "started_at"),
    ("finished", "finished_at"),
    ("duration (s)", "duration"),
    ("exit code", "exit_code"),
    ("signal", "signal"),
    ("reason", "reason"),
    ("directory", "cwd"),
    ("SHA-256 of its words", "argv_sha256"),
    ("asked to repeat", "asked"),
    ("repeated it", "repeated"),
    ("receipt written", "made"),
    ("receipt's time", "t"),
    ("receipt's number", "n"),
    ("receipt's hash", "hash"),
)
"""Labels of a receipt's fields for people, each with the name of the field."""


def exit_of(verdicts: Iterable[str]) -> int:
    """The exit code of several verdicts: that of the worst."""
    known = set(verdicts)
    return next((EXITS[each] for each in WORST_FIRST if each in known), int(Exit.FAILED))


def lines_of(result: dict[str, Any]) -> Iterator[str]:
    """A verdict as people read it: one line, and one for each finding."""
    receipt = result.get("receipt") or {}
    what = [result["verdict"], result["execution_id"]]
    if receipt:
        code = receipt.get("exit_code")
        ended = receipt.get("reason", "") if code is None else ending("signaled" if code < 0 else "exited", code)
        took = render.duration(receipt.get("duration"))
        what += [str(receipt.get("finished_at", ""))[:19], f"{ended}, {took}:", str(receipt.get("command", ""))]
    yield render.printable(" ".join(what))
    for finding in result["findings"]:
        mark = "" if finding["verdict"] == "verified" else f"{finding['verdict']}: "
        yield render.printable(f"  {mark}{finding['text']}")


def markdown_of(document: dict[str, Any]) -> Iterator[str]:
    """A receipt that was handed out, as Markdown."""
    receipt = document["receipt"]
    yield f"# Receipt of execution {_plain(receipt.get('execution_id'))}"
    yield ""
    yield from _block(str(receipt.get("command", "")))
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    for title, field in _TOLD:
        if field in receipt:
            yield f"| {title} | {_plain(receipt[field])} |"
    for name, value in receipt.get("labels", {}).items():
        yield f"| label {_plain(name)} | {_plain(value)} |"
    yield ""
    yield "| output | bytes | SHA-256 of each block |"
    yield "| --- | --- | --- |"
    output = receipt.get("output", {})
    for name, told in output.items():
        if isinstance(told, dict):
            digests = "<br>".join(each or "(given up before)" for each in told["sha256"])
            yield f"| {name} | {told['bytes']}, in blocks of {told['block']} | {digests} |"
    yield ""
    yield "Record, and the signed record that vouches for it:"
    yield ""
    yield from _block(document["record"])
    yield from _block(document["signed"])


def report_of(results: Sequence[dict[str, Any]], key: str, moment: str) -> Iterator[str]:
    """Return the lines of a report on verified executions, as Markdown.

    Args:
        results: the results of `verify`, one for each execution.
        key: the name of the daemon's key.
        moment: when it was verified, as text.
    """
    counts = Counter(each["verdict"] for each in results)
    told = ", ".join(f"{counts[word]} {word}" for word in reversed(WORST_FIRST) if counts[word])
    yield "# Verified executions"
    yield ""
    yield f"{len(results)} executions at {moment}, by the key {_plain(key)}: {told or 'none'}."
    yield ""
    yield "| verdict | execution | finished | exit | duration | output | command |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for each in results:
        receipt = each.get("receipt") or {}
        cells = (
            each["verdict"],
            each["execution_id"],
            str(receipt.get("finished_at", "-"))[:19],
            receipt.get("reason", "-") if receipt.get("exit_code") is None else receipt["exit_code"],
            render.duration(receipt.get("duration")),
            each.get("output", "-"),
            str(receipt.get("command", "-"))[:120],
        )
        yield f"| {' | '.join(map(_plain, cells))} |"
    yield ""
    for each in results:
        for finding in each["findings"]:
            yield f"- {each['execution_id']}: {finding['verdict']}: {_plain(finding['text'])}"


def _plain(value: object) -> str:
    """Escape a text for a cell of a Markdown table."""
    text = render.printable(str(value))
    return "".join(f"\\{each}" if each in "\\|`*_<>[]#" else each for each in text)


def _block(text: str) -> Iterator[str]:
    """Put a text between code fences that are longer than any fence in it."""
    longest = max((len(run) for run in "".join(each if each == "`" else " " for each in text).split()), default=0)
    fence = "`" * max(3, longest + 1)
    yield fence
    yield from (render.printable(line) for line in text.splitlines())
    yield fence
