"""How results are printed: tables, durations, JSON, and text that cannot take over a terminal.

Owns all that is written to stdout or stderr, except the output of executions, which is passed on byte for byte. Must
not colour or move the cursor: output is the same on a terminal, in a pipe and in a log.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from ccexecctl.errors import CtlError

PROGRAM = "ccexecctl"

TENTHS_MATTER, MINUTE, HOUR, DAY = 10, 60, 3600, 86400
"""In seconds: the duration below which tenths are shown, and the units of longer ones."""

MILLISECOND, MILLISECONDS_MATTER = 0.001, 0.1
"""In seconds: a millisecond, and the duration below which milliseconds are shown."""

KIBI = 1024
"""Bytes of a KiB."""


def prepare_streams() -> None:
    """Make sure that the standard streams are open, and can print any text.

    A standard descriptor that ccexecctl was started without (`>&-`) is opened on /dev/null: the control socket would
    get its number, and output would go there. A character that the terminal's encoding lacks is printed as an escape.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `descriptor`
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  # for as long as the process lives
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def show(document: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result on stdout.

    Args:
        document: the result as JSON values; it is printed as one line of ASCII.
        lines: the result for people.
        as_json: whether to print `document` (`--json`), or else `lines`.
    """
    if as_json:
        print(json.dumps(document))
        return
    for line in lines:
        print(line)


def remark(text: str, end: str = "\n") -> None:
    """Print a remark, which is not part of the result, on stderr, also with `--json`.

    Args:
        text: the remark; control characters in it are escaped.
        end: end of each line; a terminal in raw mode needs a carriage return, too.
    """
    _say(f"{PROGRAM}: {text}", sys.stderr, end)


def failure(error: CtlError, *, as_json: bool) -> None:
    """Print an error and its hint on stderr; with `--json` also on stdout, in place of the result."""
    if as_json:
        show({"error": error.as_json()}, [], as_json=True)
    remark(error.message)
    if error.hint:
        _say(f"hint: {error.hint}", sys.stderr)


def discard(stream: TextIO) -> None:
    """Discard what a stream has buffered and all that follows, so that flushing it at exit does not raise."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(text: str, stream: TextIO, end: str = "\n") -> None:
    try:
        print(end.join(printable(line) for line in text.split("\n")), file=stream, end=end, flush=True)
    except OSError:  # nobody reads stderr any more; the exit code still tells
        discard(stream)


def printable(text: str) -> str:
    r"""Return a text with all but visible characters and spaces written as escapes, such as `\x1b`.

    A command line is chosen by whoever started it: unescaped it could move the cursor, recolour the screen or hide
    itself (control characters), reverse what is read (bidirectional marks) or forge a second row (line feeds).
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> list[str]:
    """Return lines with aligned columns.

    Args:
        header: names of the columns.
        rows: for each row its cells, one for each column; control characters in them are escaped.
        width: characters at which a line is cut; None cuts none.
    """
    grid = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ("  ".join(cell.ljust(room) for cell, room in zip(row, widths, strict=True)).rstrip() for row in grid)
    return [_cut(line, width) for line in lines]


def tree(processes: Sequence[dict[str, Any]], width: int | None = None) -> list[str]:
    """Return lines that draw processes as a tree, each below its parent, siblings in the order of their pids.

    Args:
        processes: each with ``pid``, ``ppid``, ``name``, ``state``, ``cpu_seconds`` and ``memory_bytes``. One whose
            parent is not among them is drawn as a root.
        width: characters at which a line is cut; None cuts none.
    """
    pids = {each["pid"] for each in processes}
    below: dict[int | None, list[dict[str, Any]]] = {}
    for each in sorted(processes, key=lambda each: int(each["pid"])):
        below.setdefault(each["ppid"] if each["ppid"] in pids else None, []).append(each)
    lines: list[str] = []
    todo = [(each, "  ") for each in reversed(below.get(None, []))]
    last = {id(siblings[-1]) for siblings in below.values()}
    while todo:
        process, indent = todo.pop()
        branch, deeper = ("└─ ", "   ") if id(process) in last else ("├─ ", "│  ")
        use = f"{process['state']}, {duration(process['cpu_seconds'])}, {size(process['memory_bytes'])}"
        lines.append(_cut(f"{indent}{branch}{process['pid']} {printable(process['name'])}  ({use})", width))
        todo += [(child, indent + deeper) for child in reversed(below.get(process["pid"], []))]
    return lines


def _cut(line: str, width: int | None) -> str:
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def terminal_width() -> int | None:
    """Return the width of the terminal in characters; None if stdout is not one, so that nothing is cut in a pipe."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def short(execution_id: str) -> str:
    """Return the first 8 characters of an execution's id: unique in practice, and enough for every verb."""
    return execution_id[:8]


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 process`, `2 processes`. Without `plural`, an `s` is appended."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units: `4ms`, `0.4s`, `12s`, `3m04s`, `2h05m`, `4d03h`; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < TENTHS_MATTER:
        in_milliseconds = MILLISECOND / 2 <= seconds < MILLISECONDS_MATTER
        return f"{seconds / MILLISECOND:.0f}ms" if in_milliseconds else f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE}m{whole % MINUTE:02}s"
    if whole < DAY:
        return f"{whole // HOUR}h{whole % HOUR // MINUTE:02}m"
    return f"{whole // DAY}d{whole % DAY // HOUR:02}h"


def size(count: int | None) -> str:
    """Return a number of bytes in binary units: `512 B`, `1.5 MiB`. None is an unknown number."""
    if count is None:
        return "an unknown number of bytes"
    if count < KIBI:
        return f"{count} B"
    value, units = count / KIBI, iter(("KiB", "MiB", "GiB"))
    unit = next(units)
    while value >= KIBI and (larger := next(units, "")):
        value, unit = value / KIBI, larger
    return f"{value:.1f} {unit}"


def moment(stamp: str | None) -> str:
    """Return a time stamp of the daemon (ISO 8601, UTC) in local time, with the date unless it is today's."""
    from datetime import datetime  # noqa: PLC0415  # only tables need it

    if not stamp:
        return "-"
    try:
        local = datetime.fromisoformat(stamp).astimezone()
    except ValueError:
        return stamp
    today = datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M")
