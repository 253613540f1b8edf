"""Progress of a list of tasks: on a terminal a table that is redrawn, elsewhere a line for each change.

Owns the only cursor movements of ccexecctl besides those of executions. Must not know how tasks are done.
"""

import sys
import time
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from ccexecctl import render

if TYPE_CHECKING:
    from ccexecctl.api import ListResult, TaskResult

UP_AND_CLEAR = "\x1b[{count}A\x1b[J"
"""Cursor up so many lines, and clear to the end of the screen (ECMA-48: CUU, ED)."""

HEADER = ("TASK", "STATUS", "TIME", "COST", "")


class TaskTable:
    """Shows the progress on standard error; standard output is for the report.

    Args:
        names: names of the tasks, in order.

    Attributes:
        earlier: names of the tasks that an earlier run has done.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._rows = {name: [name, "waiting", "-", "-", ""] for name in names}
        self.earlier: set[str] = set()
        self._begun: set[str] = set()
        self._is_live = sys.stderr.isatty()
        self._drawn = 0
        self._running = ""
        self._since = 0.0
        if self._is_live:
            self._draw()

    def changed(self, task: "TaskResult") -> None:
        """Show that the status of a task has changed."""
        if task.status.value == "running":
            self._begun.add(task.name)
        elif task.status.value == "done" and task.name not in self._begun:
            self.earlier.add(task.name)
        status, row = status_of(task, self.earlier), self._rows[task.name]
        row[1:] = [status, *figures(task), task.error or ""]
        self._running, self._since = (task.name if status == "running" else ""), time.monotonic()
        if self._is_live:
            self._draw()
            return
        number = list(self._rows).index(task.name) + 1
        took = f" ({', '.join(each for each in row[2:4] if each != '-')})" if task.result is not None else ""
        why = f": {task.error}" if task.error else ""
        render.remark(f"[{number}/{len(self._rows)}] {task.name}: {status}{took}{why}")

    def progress(self, message: object) -> None:
        """Show what the running agent is doing."""
        if self._is_live and self._running:
            row = self._rows[self._running]
            row[2], row[4] = render.duration(time.monotonic() - self._since), str(message)
            self._draw()

    def _draw(self) -> None:
        width = render.terminal_width() or 80
        lines = render.table(HEADER, self._rows.values(), width - 1)
        up = UP_AND_CLEAR.format(count=self._drawn) if self._drawn else ""
        print(up + "\n".join(lines), file=sys.stderr, flush=True)
        self._drawn = len(lines)


def status_of(task: "TaskResult", earlier: Container[str]) -> str:
    """Return the status of a task in a word or two."""
    return "done earlier" if task.name in earlier else task.status.value


def figures(task: "TaskResult") -> tuple[str, str]:
    """Return the duration and the cost of a task, as text."""
    if task.result is None:
        return "-", "-"
    cost = task.result.cost
    return render.duration(task.result.execution_time), "-" if cost is None else f"${cost:.4f}"


def report(done: "ListResult", earlier: Container[str] = ()) -> list[str]:
    """Return the report of a finished list as lines for people.

    Args:
        done: the result of the list.
        earlier: names of the tasks that an earlier run has done.
    """
    rows = [(each.name, status_of(each, earlier), *figures(each), each.error or "") for each in done.tasks]
    results = [each.result for each in done.tasks if each.result is not None]
    count = sum(each.status.value == "done" for each in done.tasks)
    costs = [each.cost for each in results if each.cost is not None]
    took = render.duration(sum(each.execution_time for each in results))
    total = f"{count} of {len(rows)} done, {took}" + (f", ${sum(costs):.4f}" if costs else "")
    return [*render.table(HEADER, rows), total]
