"""One run of the benchmark: each row on each target in turn, several times.

Owns the order. The targets take turns within each repetition, so that a change of the machine's mood meets all of them.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from checks import WrongOutputError
from client import RefusedError
from machine import describe, wait_for_quiet
from picows import WSError
from prepare import MissingError, find_ccexecd, make_ticker
from report import Report
from rows import control, idle, latency, many, memory, round_trip, stream
from rows.row import SMALL, Bench, Row, Sizes
from targets import KNOWN_PEERS, NotStartedError, Target, ccexecd, missing_for

ROWS = {
    row.name: row for row in (round_trip.ROW, stream.LINES, stream.BULK, latency.ROW, memory.ROW, control.ROW, idle.ROW)
}

QUIET_SHARE = 0.1
"""Others may use so much of the processors; above it we wait, and when that does not help, the results say so."""

FAILURES = (WrongOutputError, RefusedError, NotStartedError, WSError, OSError)
"""What may become of a measurement besides figures; OSError includes the time-outs."""


@dataclass(frozen=True)
class Order:
    """What was asked for on the command line.

    Attributes:
        rows: names.
        peers: names.
        repeat: how often.
        is_small: whether to try only.
        patience: seconds to wait for a quiet machine before each measurement.
        program: path of ccexecd, or None.
    """

    rows: Sequence[str]
    peers: Sequence[str]
    repeat: int
    is_small: bool
    patience: float
    program: Path | None


def run(order: Order, work: Path, results: Path) -> int:
    """Measure, print and save.

    Args:
        order: what.
        work: an empty directory.
        results: where the two files go.

    Returns:
        0, or 1 when a measurement failed.

    Raises:
        MissingError: before anything is measured: something is not there, or not known.
    """
    rows = [_row(name) for name in order.rows]
    program = find_ccexecd(order.program)
    targets = [ccexecd(program), *_peers(order.peers)]
    began = datetime.now(UTC)
    title = (
        f"{began:%Y-%m-%d}, {order.repeat} repetitions{', SMALL SIZES: NOT FOR COMPARISON' if order.is_small else ''}"
    )
    report = Report(title, describe(program, targets), [target.name for target in targets], QUIET_SHARE)
    bench = Bench(work, make_ticker(work), program, SMALL if order.is_small else Sizes())
    for row in rows:
        for _ in range(order.repeat):
            for target in targets:
                _measure(row, target, bench, report, order.patience)
        report.save(results, f"{began:%Y-%m-%d-%H%M}")  # after each row: a long run may be interrupted
    print(report.markdown())
    return 1 if report.failed else 0


def _measure(row: Row, target: Target, bench: Bench, report: Report, patience: float) -> None:
    busy = wait_for_quiet(QUIET_SHARE, patience)
    try:
        figures = uvloop.run(row.measure(target, bench))
    except FAILURES as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        report.add_failure(row, target.name, reason)
        print(f"{row.name} {target.name}: {reason}", file=sys.stderr)
        return
    report.add(row, target.name, busy, figures)
    shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
    print(f"{row.name} {target.name}: {shown}", file=sys.stderr)


def _row(name: str) -> Row:
    if found := re.fullmatch(r"M8x([1-9]\d{0,3})", name):
        return many.row(int(found[1]))
    if name not in ROWS:
        raise MissingError(f"there is no row {name}; there are {', '.join(ROWS)} and M8xN")
    return ROWS[name]


def _peers(names: Sequence[str]) -> list[Target]:
    unknown = [name for name in names if name not in KNOWN_PEERS]
    if unknown:
        raise MissingError(f"there is no peer {', '.join(unknown)}; there are {', '.join(KNOWN_PEERS)}")
    if missing := [lack for name in names if (lack := missing_for(name))]:
        raise MissingError("\n".join(missing))
    return [KNOWN_PEERS[name] for name in names]
