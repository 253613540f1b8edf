"""Replays recorded runs: what estimated time-outs would have done to them, next to fixed ones.

Each run is started in the order in which it was recorded, with the time-out that its policy gives it by what it has
seen so far. A run that takes longer than that is ended: falsely, if it came to its end when it was recorded. Before
every `--hang`-th run of a command there is one that hangs, and costs its whole time-out. What is learnt is what a
daemon would have learnt: of a run that was ended, only that it took at least that long.

    python benchmarks/replay.py                          the recorded runs that come with the project
    ccexecctl history --json -n 10000 > mine.json; python benchmarks/replay.py mine.json
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ccexecd.core.experience import Experience
from ccexecd.core.kinds import Category, Kind
from ccexecd.keys import Config

RECORDED = Path(__file__).parent / "recorded" / "2026-11-21.jsonl"
FIXED = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
HANG = 10


class Run(NamedTuple):
    """One recorded run: its kind, seconds, whether it came to its end, and per cent of the machine in use."""

    kind: Kind
    seconds: float
    is_complete: bool
    load: float


class Result(NamedTuple):
    """What a policy did: runs, runs that it ended falsely, runs that hung, and seconds that those cost."""

    runs: int
    false: int
    hung: int
    waited: float
    lost: float


def read(path: Path) -> list[Run]:
    """Recorded runs, the oldest first: a file of this folder, or what `ccexecctl history --json` prints."""
    text = path.read_text()
    rows = json.loads(text)[::-1] if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    runs = []
    for row in rows:
        if row.get("active_seconds") is None:
            continue
        same = row.get("same", f"{row.get('principal')}\0{row.get('command')}")
        kind = Kind(Category(row["category"]), row["program"], row["form"], same, row.get("place", row["form"]))
        is_complete = row["reason"] in ("exited", "post_result") and row["exit_code"] == 0
        runs.append(Run(kind, row["active_seconds"], is_complete, row["load"] or 0.0))
    return runs


Policy = Callable[[Experience, Run], float]


def fixed(seconds: float) -> Policy:
    """The same time-out for everything."""
    return lambda _experience, _run: seconds


def estimated(fallback: float, config: Config) -> Policy:
    """As the daemon with `estimate_timeouts` and, for what it does not know well enough, a fixed default."""

    def timeout(experience: Experience, run: Run) -> float:
        estimate = experience.estimate("", run.kind)
        if not estimate.may_act:
            return fallback
        is_busy = run.load >= config.estimate_load and not estimate.is_of_busy
        return max(estimate.seconds, config.estimate_floor) * (config.estimate_multiplier if is_busy else 1.0)

    return timeout


def replay(runs: Iterable[Run], policy: Policy, hang: int = HANG) -> Result:
    """Run them all under one policy."""
    experience, seen = Experience(), Counter[str]()
    number = false = hung = 0
    waited = lost = 0.0
    for run in runs:
        seen[run.kind.same] += 1
        if seen[run.kind.same] % hang == 0:
            timeout = policy(experience, run)
            hung += 1
            waited += timeout
            experience.learn("", run.kind, timeout, is_complete=False)
        timeout = policy(experience, run)
        number += 1
        if run.seconds <= timeout:
            is_busy = run.load >= Config().estimate_load
            experience.learn("", run.kind, run.seconds, is_complete=run.is_complete, is_busy=is_busy)
            continue
        false += run.is_complete
        lost += timeout
        experience.learn("", run.kind, timeout, is_complete=False)
    return Result(number, false, hung, waited, lost)


def compare(runs: Sequence[Run], hang: int = HANG) -> dict[str, Result]:
    """Fixed time-outs, and estimates on top of the longer ones."""
    longest = max(run.seconds for run in runs if run.is_complete)
    results = {f"fixed {seconds:g} s": replay(runs, fixed(seconds), hang) for seconds in FIXED}
    results["fixed, the longest run"] = replay(runs, fixed(longest), hang)
    for fallback in (600.0, 1800.0):
        results[f"estimates, else {fallback:g} s"] = replay(runs, estimated(fallback, Config()), hang)
    return results


def table(results: dict[str, Result]) -> str:
    """As Markdown."""
    lines = ["| time-out | ended falsely | waited for hung runs | for each |", "| --- | ---: | ---: | ---: |"]
    for name, result in results.items():
        each = result.waited / result.hung if result.hung else 0.0
        lines.append(f"| {name} | {result.false} of {result.runs} | {result.waited / 60:.0f} min | {each:.0f} s |")
    return "\n".join(lines)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=RECORDED, help="recorded runs")
    parser.add_argument(
        "--hang", type=int, default=HANG, help=f"every so many runs of a command hang (default: {HANG})"
    )
    arguments = parser.parse_args()
    runs = read(arguments.file)
    spans = sorted(run.seconds for run in runs if run.is_complete)
    kinds = len({run.kind.same for run in runs})
    print(
        f"{len(runs)} runs of {kinds} commands, {len(spans)} to their end, from {spans[0]:.3g} to {spans[-1]:.3g} s\n"
    )
    print(table(compare(runs, arguments.hang)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
