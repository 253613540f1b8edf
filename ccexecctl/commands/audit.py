"""`ccexecctl audit`: verify the audit, or look into it. Works on the files, with or without a daemon."""

import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ccexecctl import render
from ccexecctl.arguments import count
from ccexecctl.client import connect_to
from ccexecctl.errors import CtlError, Exit, NotPermittedError
from ccexecctl.place import locate

DESCRIPTION = """\
Verify the audit, or look into it: what was executed or refused, for whom, why, and how it ended. Works on the files of
the running daemon or, when none runs, of the one that would be started here."""

EXAMPLES = """\
examples:
  ccexecctl audit verify
  ccexecctl audit tail -n 20 --follow
  ccexecctl audit search --decision refused --since 2026-01-31
"""

VERIFY_DESCRIPTION = """\
Follow the chain of records from the first to the last, and tell what was edited, removed, reordered, repeated or
truncated. Returns 0 when all of it is as it was written, else 1. Records that are missing at the end, or a chain that
was written anew from some record on, show only by a record that is known from elsewhere: a running daemon tells its
last one by itself; for earlier ones, give what the daemon's log says at each start and end (`head`) as --anchor."""

VERIFY_EXAMPLES = """\
examples:
  ccexecctl audit verify
  ccexecctl audit verify --directory /backup/audit --anchor 4711:9f86d081884c7d65…
"""

TAIL_DESCRIPTION = "Print the last records, and with --follow those that come; with --json as they are."

TAIL_EXAMPLES = """\
example:
  ccexecctl audit tail -n 20 --follow
"""

SEARCH_DESCRIPTION = "Print the records that match all that is asked for, oldest first; with --json as they are."

SEARCH_EXAMPLES = """\
examples:
  ccexecctl audit search --decision refused
  ccexecctl audit search --execution 1aa007fe --json
  ccexecctl audit search --principal 'uid:1000' --since 2026-01-31T08:00 --text 'rm -rf'
"""

FOLLOW_INTERVAL = 0.25
"""Seconds between two looks at a file that is followed."""

_ESSENCE = (
    "method",
    "type",
    "signal",
    "name",
    "door",
    "execution_id",
    "principal",
    "decision",
    "outcome",
    "exit_code",
    "reason",
    "command",
    "executable",
)
"""Fields of a record that people are shown, in this order."""


def configure(parser: ArgumentParser) -> None:
    """Add the three subcommands, each with its arguments."""
    parser.usage = f"{parser.prog} [OPTIONS] verify|tail|search ..."
    deeds = parser.add_subparsers(dest="deed", required=True, metavar="verify|tail|search", prog=parser.prog)
    verify = deeds.add_parser(
        "verify", description=VERIFY_DESCRIPTION, epilog=VERIFY_EXAMPLES, help="whether all is as it was written"
    )
    verify.add_argument("--anchor", metavar="N:HASH", type=_anchor, help="a record that is known from elsewhere")
    tail = deeds.add_parser("tail", description=TAIL_DESCRIPTION, epilog=TAIL_EXAMPLES, help="the last records")
    tail.add_argument("-n", "--lines", metavar="N", type=count, default=10, help="how many (default: 10)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    search = deeds.add_parser("search", description=SEARCH_DESCRIPTION, epilog=SEARCH_EXAMPLES, help="some of them")
    for flag, metavar, text in (
        ("--decision", "WORD", "allowed, refused or changed (by hooks)"),
        ("--principal", "WHO", "who asked"),
        ("--execution", "ID", "an execution, by the beginning of its id"),
        ("--kind", "KIND", "decision, outcome, call, entry, began, ended, …"),
        ("--since", "TIME", "not before this time: 2026-01-31, or 2026-01-31T08:00 (UTC)"),
        ("--until", "TIME", "before this time"),
        ("--text", "TEXT", "somewhere in the record"),
    ):
        search.add_argument(flag, metavar=metavar, type=_moment if metavar == "TIME" else str, help=text)
    for deed, act in ((verify, _verify), (tail, _tail), (search, _search)):
        deed.add_argument("--directory", metavar="DIR", type=Path, help="the audit in DIR")
        deed.set_defaults(deed=act)


def run(arguments: Namespace) -> int:
    """Run the chosen subcommand."""
    try:
        code: int = arguments.deed(arguments)
    except OSError as error:
        if error.filename is None:  # our own output, which is told elsewhere
            raise
        text = f"cannot read the audit: {error.filename}: {error.strerror}"
        if isinstance(error, PermissionError):
            raise NotPermittedError(text, "only root and the user that ccexecd runs as may; try sudo") from error
        raise CtlError(text) from error
    except KeyboardInterrupt:
        if not getattr(arguments, "follow", False):
            raise
        code = Exit.DONE
    return code


def _verify(arguments: Namespace) -> int:
    from ccexecd.storage import chain  # noqa: PLC0415  # with hashlib: only this verb pays for it

    directory, head = _place(arguments)
    anchors = [chain.Head(*known) for known in (arguments.anchor, head) if known is not None]
    files = chain.files_in(directory)
    verdict = chain.verify(files, *anchors[:1])
    findings = list(verdict.findings)
    for anchor in anchors[1:]:
        findings += [found for found in chain.verify(files, anchor).findings if found not in findings]
    is_whole = not any(finding.is_fault for finding in findings)
    document = {
        "whole": is_whole,
        "directory": str(directory),
        "records": verdict.records,
        "first": verdict.first,
        "head": str(verdict.head),
        "anchored": bool(anchors),
        "findings": [{**finding._asdict(), "file": str(finding.file)} for finding in findings],
    }
    lines = [f"{finding.kind}: {finding.file.name}:{finding.line}: {finding.text}" for finding in findings]
    span = f"records {verdict.first} to {verdict.head.n}" if verdict.records else "no records"
    lines.append(f"{directory}: {span}, {'whole' if is_whole else 'NOT as they were written'}; head {verdict.head}")
    if not anchors:
        lines.append("without a daemon or an --anchor, nobody can tell whether records are missing at the end")
    render.show(document, lines, as_json=arguments.json)
    return Exit.DONE if is_whole else Exit.FAILED


def _tail(arguments: Namespace) -> int:
    directory, _ = _place(arguments)
    last: deque[dict[str, Any]] = deque(maxlen=min(arguments.lines, sys.maxsize))
    place = _Place(Path(), 0)
    for fields, behind in _records(directory):
        last.append(fields)
        place = behind
    for fields in last:
        _print(fields, as_json=arguments.json)
    while arguments.follow:
        for fields, behind in _records(directory, place):
            _print(fields, as_json=arguments.json)
            place = behind
        sys.stdout.flush()
        time.sleep(FOLLOW_INTERVAL)
    return Exit.DONE


def _search(arguments: Namespace) -> int:
    directory, _ = _place(arguments)
    for fields, _ in _records(directory):
        if _is_wanted(fields, arguments):
            _print(fields, as_json=arguments.json)
    return Exit.DONE


def _is_wanted(fields: dict[str, Any], wanted: Namespace) -> bool:
    equal = {"decision": wanted.decision, "principal": wanted.principal, "kind": wanted.kind}
    if any(value is not None and fields.get(name) != value for name, value in equal.items()):
        return False
    if wanted.execution is not None and not str(fields.get("execution_id", "")).startswith(wanted.execution):
        return False
    moment = str(fields.get("t", ""))
    if (wanted.since is not None and moment < wanted.since) or (wanted.until is not None and moment >= wanted.until):
        return False
    return wanted.text is None or any(wanted.text in str(value) for value in fields.values())


class _Place(NamedTuple):
    """A position in the files of the audit, behind a record."""

    file: Path
    offset: int


def _records(directory: Path, start: _Place | None = None) -> Iterator[tuple[dict[str, Any], _Place]]:
    """Yield the records from a position on, each with the position behind it."""
    from ccexecd.storage import chain  # noqa: PLC0415

    for each in chain.files_in(directory):
        if start is not None and each.name < start.file.name:
            continue
        with chain.open_records(each) as lines:
            place = lines.seek(start.offset if start is not None and each == start.file else 0)
            for line in lines:
                place += len(line)
                record = chain.opened(line)
                if record is not None and line.endswith(b"\n"):
                    yield record.fields, _Place(each, place)


def _print(fields: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        render.show(fields, [], as_json=True)
        return
    shown = [f"{name}={_told(fields[name])}" for name in _ESSENCE if fields.get(name) not in (None, "")]
    print(render.printable(f"{str(fields.get('t', ''))[:23]} {fields['n']} {fields.get('kind', '')} {' '.join(shown)}"))


def _told(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and not value.isalnum() else str(value)


def _place(arguments: Namespace) -> tuple[Path, tuple[int, str] | None]:
    """Return the directory of the audit; and number and hash of its last record if a running daemon tells them."""
    if arguments.directory is not None:
        next(arguments.directory.iterdir(), None)  # one that is not there is no audit that is whole
        return arguments.directory, None
    try:
        with connect_to(arguments) as client:
            told = client.call("status")["audit"]
        return Path(told["directory"]), _anchor(told["head"])
    except (CtlError, KeyError, ArgumentTypeError):
        return locate(arguments).paths.state_dir / "audit", None


def _moment(text: str) -> str:
    """Argparse type of a time in UTC, ISO 8601 without a time zone, or the beginning of one, such as a date.

    Raises:
        ArgumentTypeError: it is none.
    """
    from datetime import datetime  # noqa: PLC0415  # only who asks for a time pays for it

    try:
        if datetime.fromisoformat(text).tzinfo is None and text[4:5] == "-":
            return text
    except ValueError:
        pass
    raise ArgumentTypeError(f"{text!r} is not a time such as 2026-01-31 or 2026-01-31T08:00 (UTC)")


def _anchor(text: str) -> tuple[int, str]:
    """Argparse type of a record's number and hash.

    Raises:
        ArgumentTypeError: it is none.
    """
    number, _, digest = text.partition(":")
    if not (number.isascii() and number.isdigit() and len(digest) == 64):
        raise ArgumentTypeError(f"{text!r} is not a number and a hash of 64 digits, as in 12:9f86…")
    return int(number), digest
