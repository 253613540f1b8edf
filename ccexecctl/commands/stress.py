"""`ccexecctl stress`: a self-test of a living daemon with an agent."""

import json
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ccexecctl import render
from ccexecctl.arguments import count
from ccexecctl.client import connect
from ccexecctl.errors import CtlError, Exit, UsageError
from ccexecctl.place import locate
from ccexecctl.stress.agents import Agent, Claude, StandIn
from ccexecctl.stress.cases import CASES, CATEGORIES, Setting
from ccexecctl.stress.report import HEADER, Tally, markdown, rows
from ccexecctl.stress.trial import Trial

PARALLEL = 8
"""Executions at the same time in the case `parallel`, unless the option says otherwise."""

DESCRIPTION = """\
Run a self-test against the daemon: prompts of several kinds, many at a time, a time-out, errors, a very long line.
Each case is judged by what arrives here. With the stand-in, a small program that speaks as Claude Code does, no model
is asked; with --agent claude, the real one is, which costs money. Returns 0 when every case passed in every round, and
the daemon was the same to the end."""

EXAMPLES = """\
examples:
  ccexecctl stress
  ccexecctl stress --categories simple timeout buffer --rounds 100
  ccexecctl stress --agent claude --report ./self-test
"""


def configure(parser: ArgumentParser) -> None:
    """Add the options: which cases, how often, and where the report goes."""
    parser.add_argument(
        "--categories",
        nargs="+",
        choices=CATEGORIES,
        default=list(CATEGORIES),
        metavar="CATEGORY",
        help=f"some of: {' '.join(CATEGORIES)} (default: all)",
    )
    parser.add_argument(
        "--parallel", metavar="N", type=_positive, default=PARALLEL, help=f"executions at a time (default: {PARALLEL})"
    )
    parser.add_argument("--rounds", metavar="N", type=_positive, default=1, help="how often each case is run")
    parser.add_argument("--agent", choices=("standin", "claude"), help="who is asked (default: standin)")
    parser.add_argument("--claude", metavar="PROGRAM", help="where the real one is (default: claude)")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write FILE.json and FILE.md")


def _positive(text: str) -> int:
    if count(text) == 0:
        raise ArgumentTypeError("must be 1 at least")
    return count(text)


def run(arguments: Namespace) -> int:
    """Run the cases, print a table, and write the report."""
    if arguments.claude is not None and arguments.agent != "claude":
        raise UsageError("--claude goes with --agent claude", "ccexecctl stress --agent claude --claude ~/bin/claude")
    agent: Agent = Claude(arguments.claude or "claude") if arguments.agent == "claude" else StandIn()
    tallies = [Tally(case) for case in CASES if case.category in arguments.categories]
    began_at, began = datetime.now(UTC), time.monotonic()
    before = _daemon(arguments)
    for number in range(1, arguments.rounds + 1):
        for tally in tallies:
            _try(tally, arguments, agent, number)
        if arguments.rounds > 1:
            failed = sum(not tally.is_passed for tally in tallies)
            render.remark(f"round {number} of {arguments.rounds} done, cases that have failed: {failed}")
    report = {
        **_judged(tallies, before, _daemon_afterwards(arguments)),
        "agent": agent.name,
        "rounds": arguments.rounds,
        "parallel": arguments.parallel,
        "began_at": began_at.isoformat(),
        "seconds": round(time.monotonic() - began, 3),
    }
    if arguments.report is not None:
        _write(arguments.report, report)
    summary = f"{report['verdict']}: {render.counted(report['executions'], 'execution')} in {report['seconds']:.1f} s"
    lines = [*render.table(HEADER, rows(report), render.terminal_width()), *report["problems"], summary]
    render.show(report, lines, as_json=arguments.json)
    return Exit.DONE if report["verdict"] == "passed" else Exit.FAILED


def _try(tally: Tally, arguments: Namespace, agent: Agent, number: int) -> None:
    """Run a case once, on a connection of its own, and count the result."""
    began, runs = time.monotonic(), []
    try:
        with connect(locate(arguments), arguments.timeout) as client:
            trial = Trial(client)
            runs = trial.runs
            seen = tally.case.check(Setting(trial, agent, arguments.parallel))
    except CtlError as error:
        tally.failed(time.monotonic() - began, [run.id for run in runs], number, error.message)
        render.remark(f"{tally.case.name}, round {number}: {error.message}")
    else:
        tally.passed(time.monotonic() - began, len(runs), seen)


def _daemon(arguments: Namespace) -> dict[str, Any]:
    with connect(locate(arguments), arguments.timeout) as client:
        status: dict[str, Any] = client.call("status")
    return status


def _daemon_afterwards(arguments: Namespace) -> dict[str, Any]:
    """Return the status of the daemon after the cases; that of a daemon which has gone is a problem for the report."""
    try:
        return _daemon(arguments)
    except CtlError as error:
        return {"problems": {"daemon": error.message}}


def _judged(tallies: list[Tally], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict of the self-test, with the figures that it is made of."""
    cases = [tally.told() for tally in tallies]
    problems = [f"the daemon has a problem: {text}" for text in after.get("problems", {}).values()]
    if before["pid"] != after.get("pid"):
        problems.append("the daemon is not the one that it was at the beginning")
    return {
        "verdict": "passed" if not problems and all(tally.is_passed for tally in tallies) else "failed",
        "executions": sum(case["executions"] for case in cases),
        "daemon": {
            "version": before["version"],
            "pid": before["pid"],
            "memory_bytes_before": before["memory_bytes"],
            "memory_bytes_after": after.get("memory_bytes"),
        },
        "problems": problems,
        "cases": cases,
    }


def _write(place: Path, report: dict[str, Any]) -> None:
    """Write the report as JSON and as Markdown, into two files.

    Raises:
        CtlError: it cannot be written.
    """
    base = place.with_suffix("") if place.suffix in (".json", ".md") else place
    try:
        for suffix, text in ((".json", json.dumps(report, indent=2) + "\n"), (".md", markdown(report))):
            base.with_name(base.name + suffix).write_text(text)
    except OSError as error:
        raise CtlError(f"cannot write the report {place}: {(error.strerror or str(error)).lower()}") from error
