"""How results look: tables, durations, JSON, and text that cannot take over a terminal.

Owns every character that reaches stdout or stderr, except the output of executions, which is handed on byte for byte.
Must not colour or move the cursor: output is the same on a terminal, in a pipe and in a log.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from ccexecctl.errors import CtlError

PROGRAM = "ccexecctl"

TENTHS_MATTER, MINUTE, HOUR, DAY = 10, 60, 3600, 86400
"""Seconds below which a tenth is shown, and in each unit."""

MILLISECOND, MILLISECONDS_MATTER = 0.001, 0.1
"""In seconds: one, and below how much they are shown."""

KIBI = 1024


def prepare_streams() -> None:
    """Make sure that there is something to print on, and that no text is unprintable on it.

    A descriptor that we were started without (`>&-`) would be given to the control socket, and output go into that. A
    character that the terminal's encoding lacks is shown as an escape.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  # for as long as the process lives
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def show(document: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result.

    Args:
        document: what `--json` prints, as one line of ASCII.
        lines: what people read.
        as_json: which of the two.
    """
    if as_json:
        print(json.dumps(document))
        return
    for line in lines:
        print(line)


def remark(text: str, end: str = "\n") -> None:
    """Tell people something that is not the result: on stderr, also with `--json`.

    Args:
        text: what to tell.
        end: what ends the line; a terminal in raw mode needs a carriage return, too.
    """
    _say(f"{PROGRAM}: {text}", sys.stderr, end)


def failure(error: CtlError, *, as_json: bool) -> None:
    """Tell what went wrong and what to do: on stderr for people, and on stdout in place of the result for `--json`."""
    if as_json:
        show({"error": error.as_json()}, [], as_json=True)
    remark(error.message)
    if error.hint:
        _say(f"hint: {error.hint}", sys.stderr)


def discard(stream: TextIO) -> None:
    """Let what is still buffered, and all that follows, go nowhere: it must not raise at interpreter exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(text: str, stream: TextIO, end: str = "\n") -> None:
    try:
        print(end.join(printable(line) for line in text.split("\n")), file=stream, end=end, flush=True)
    except OSError:  # nobody is left to be told; the exit code still tells
        discard(stream)


def printable(text: str) -> str:
    r"""Text with everything that is not a visible character or a space written as an escape, `\x1b` for instance.

    A command line is chosen by whoever started it: unescaped it could move the cursor, recolour the screen or hide
    itself (control characters), reverse what is read (bidirectional marks) or forge a second row (line feeds).
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> list[str]:
    """Lines with aligned columns, the last one cut to the width.

    Args:
        header: names of the columns.
        rows: cells, in any text; they are escaped here.
        width: characters of a line; None cuts nothing.
    """
    grid = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ("  ".join(cell.ljust(room) for cell, room in zip(row, widths, strict=True)).rstrip() for row in grid)
    return [_cut(line, width) for line in lines]


def tree(processes: Sequence[dict[str, Any]], width: int | None = None) -> list[str]:
    """Lines that draw processes below their parents, those first whose parent is none of them, by their pids.

    Args:
        processes: each with ``pid``, ``ppid``, ``name``, ``state``, ``cpu_seconds`` and ``memory_bytes``.
        width: characters of a line; None cuts nothing.
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
    """Characters of a line on the terminal; None when stdout is not one, so that nothing is lost in a pipe."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def short(execution_id: str) -> str:
    """The beginning of an id that is unique in practice, and long enough for every verb."""
    return execution_id[:8]


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things: `1 process`, `2 processes`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float | None) -> str:
    """A span in its two largest units: `4ms`, `0.4s`, `12s`, `3m04s`, `2h05m`, `4d03h`."""
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
    """Bytes in binary units: `512 B`, `1.5 MiB`."""
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
    """A time stamp of the daemon (ISO 8601, UTC) in local time, with the date when it was not today."""
    from datetime import datetime  # noqa: PLC0415  # only tables pay for it

    if not stamp:
        return "-"
    try:
        local = datetime.fromisoformat(stamp).astimezone()
    except ValueError:
        return stamp
    today = datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M")
