"""The report of a self-test: verdicts and figures, as JSON, as Markdown and as a table.

Owns the arithmetic and the words. Must not run anything.
"""

import statistics
from typing import Any

from ccexecctl.stress.cases import Case

_MOST_FAILURES = 20
"""Failures that are listed for one case."""


class Tally:
    """One case over all rounds.

    Attributes:
        case: the case.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self._seconds: list[float] = []
        self._failures: list[dict[str, Any]] = []
        self._executions = 0
        self._seen: dict[str, Any] = {}

    def passed(self, seconds: float, executions: int, seen: dict[str, Any]) -> None:
        """Count a round in which the case passed. `seconds` is how long it took."""
        self._add(seconds, executions)
        self._seen = seen

    def failed(self, seconds: float, executions: list[str], round_number: int, message: str) -> None:
        """Count a round in which the case failed. `seconds` is how long it took."""
        self._add(seconds, len(executions))
        self._failures.append({"round": round_number, "message": message, "executions": executions})

    def _add(self, seconds: float, executions: int) -> None:
        self._seconds.append(seconds)
        self._executions += executions

    @property
    def is_passed(self) -> bool:
        """Whether the case passed in every round."""
        return not self._failures

    def told(self) -> dict[str, Any]:
        """Return verdict and figures as JSON values; `seen` is from the last round that passed."""
        return {
            "category": self.case.category,
            "case": self.case.name,
            "verdict": "passed" if self.is_passed else "failed",
            "rounds": len(self._seconds),
            "failed_rounds": len(self._failures),
            "executions": self._executions,
            "seconds": {
                "least": round(min(self._seconds, default=0.0), 4),
                "median": round(statistics.median(self._seconds or [0.0]), 4),
                "most": round(max(self._seconds, default=0.0), 4),
            },
            "seen": self._seen,
            "failures": self._failures[:_MOST_FAILURES],
        }


HEADER = ("CASE", "VERDICT", "ROUNDS", "FAILED", "EXECUTIONS", "MEDIAN", "MOST")


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """A table of a report, one row for each case."""
    return [
        (
            case["case"],
            case["verdict"],
            str(case["rounds"]),
            str(case["failed_rounds"]),
            str(case["executions"]),
            f"{case['seconds']['median']:.3f}s",
            f"{case['seconds']['most']:.3f}s",
        )
        for case in report["cases"]
    ]


def markdown(report: dict[str, Any]) -> str:
    """A report as people read it."""
    daemon = report["daemon"]
    rounds = f"{report['rounds']} round{'s' * (report['rounds'] != 1)}"
    what = f"{rounds} with the agent `{report['agent']}`, {report['executions']} executions"
    where = f"ccexecd {daemon['version']} (pid {daemon['pid']})"
    lines = [
        f"# Self-test: {report['verdict']}",
        "",
        f"{what} in {report['seconds']:.1f} s, against {where}, begun {report['began_at']}.",
        "",
        "| " + " | ".join(name.lower() for name in HEADER) + " |",
        "|" + " --- |" * len(HEADER),
        *("| " + " | ".join(row) + " |" for row in rows(report)),
    ]
    failures = [(case["case"], failure) for case in report["cases"] for failure in case["failures"]]
    if failures or report["problems"]:
        lines += ["", "## What went wrong", ""]
        lines += [f"- {problem}" for problem in report["problems"]]
        lines += [f"- {name}, round {failure['round']}: {_in_a_line(failure['message'])}" for name, failure in failures]
    return "\n".join(lines) + "\n"


def _in_a_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
