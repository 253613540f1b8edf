"""The results: medians and ratios, as JSON for programs and as a Markdown table for people.

Owns the collected figures and the two files. Knows nothing of how anything is measured.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from rows.row import Figure, Row

OURS = "ccexecd"


class Report:
    """What one run found.

    Args:
        title: date and size of the run.
        machine: what `machine.describe` says.
        targets: their names, ours first.
        busy_threshold: share of the processors used by others above which a measurement is marked.
    """

    def __init__(self, title: str, machine: dict[str, str], targets: Sequence[str], busy_threshold: float):
        self.failed = False
        self._title = title
        self._machine = machine
        self._targets = targets
        self._busy_threshold = busy_threshold
        self._rows: list[Row] = []
        self._taken: dict[str, dict[str, list[dict[str, float]]]] = {}
        self._problems: list[str] = []

    def add(self, row: Row, target: str, busy: float, figures: dict[str, float]) -> None:
        """Take one measurement."""
        if row not in self._rows:
            self._rows.append(row)
        self._of(row, target).append({**figures, "busy_before": busy})

    def add_failure(self, row: Row, target: str, reason: str) -> None:
        """Take one that did not come about, or is wrong."""
        if row not in self._rows:
            self._rows.append(row)
        self.failed = True
        self._problems.append(f"{row.name}, {target}: {reason}")

    def save(self, directory: Path, name: str) -> None:
        """Write NAME.json and NAME.md."""
        directory.mkdir(parents=True, exist_ok=True)
        directory.joinpath(f"{name}.json").write_text(json.dumps(self._as_json(), indent=1) + "\n")
        directory.joinpath(f"{name}.md").write_text(self.markdown())

    def markdown(self) -> str:
        """Everything, for people."""
        lines = [f"# Benchmark, {self._title}", "", "| | |", "| --- | --- |"]
        lines += [f"| {what} | {value} |" for what, value in self._machine.items()]
        lines += ["", "Medians; in brackets the ratio ccexecd : peer.", "", *self._table()]
        lines += ["", *(f"- {row.name}: {row.about}" for row in self._rows)]
        problems = [*self._problems, *self._disturbances()]
        if problems:
            lines += ["", "## What is wrong with these figures", "", *(f"- {problem}" for problem in problems)]
        return "\n".join(lines) + "\n"

    def _table(self) -> Iterator[str]:
        yield "| | | " + " | ".join(self._targets) + " | goal |"
        yield "| --- | --- |" + " --- |" * len(self._targets) + " --- |"
        for row in self._rows:
            for figure in row.figures:
                cells = [self._cell(row, target, figure) for target in self._targets]
                yield f"| {row.name} | {figure.label} | {' | '.join(cells)} | {self._goal(row, figure)} |"

    def _cell(self, row: Row, target: str, figure: Figure) -> str:
        value = self._median(row, target, figure)
        if value is None:
            return "-"
        text = f"{value:.{figure.digits}f}"
        ratio = self._ratio(row, target, figure)
        return text if target == OURS or ratio is None else f"{text} ({ratio:.2f})"

    def _goal(self, row: Row, figure: Figure) -> str:
        if figure.goal is None:
            return ""
        goal = figure.goal
        value = self._ratio(row, goal.of, figure) if goal.of else self._median(row, OURS, figure)
        if value is None:
            return str(goal)
        return f"{goal}: {'met' if goal.is_met(value) else 'missed'}"

    def _ratio(self, row: Row, target: str, figure: Figure) -> float | None:
        ours, theirs = self._median(row, OURS, figure), self._median(row, target, figure)
        return ours / theirs if ours is not None and theirs else None

    def _median(self, row: Row, target: str, figure: Figure) -> float | None:
        values = [taken[figure.key] for taken in self._of(row, target) if figure.key in taken]
        return median(values) if values else None

    def _disturbances(self) -> Iterator[str]:
        for row in self._rows:
            busy = [taken["busy_before"] for target in self._targets for taken in self._of(row, target)]
            loud = sum(share > self._busy_threshold for share in busy)
            if loud:
                yield f"{row.name}: others used up to {max(busy):.0%} of the processors, {loud} times of {len(busy)}"

    def _of(self, row: Row, target: str) -> list[dict[str, float]]:
        return self._taken.setdefault(row.name, {}).setdefault(target, [])

    def _as_json(self) -> dict:
        medians = {
            row.name: {
                target: {figure.key: self._median(row, target, figure) for figure in row.figures}
                for target in self._targets
            }
            for row in self._rows
        }
        ratios = {
            row.name: {
                target: {figure.key: self._ratio(row, target, figure) for figure in row.figures}
                for target in self._targets
                if target != OURS
            }
            for row in self._rows
        }
        return {
            "title": self._title,
            "machine": self._machine,
            "medians": medians,
            "ratios": ratios,
            "measurements": self._taken,
            "problems": [*self._problems, *self._disturbances()],
        }
