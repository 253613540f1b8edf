"""The figures that `/metrics` serves to a monitoring system, by name.

Owns their names, kinds and meanings. Must not know the format in which they are written (`external.metrics` does).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

import attrs

from ccexecd.core.execution import State
from ccexecd.engine import Engine


@attrs.frozen
class Figure:
    """One figure, or one for each value of a label.

    Attributes:
        name: by the rules of Prometheus: in base units, ending in `_total` if it only grows.
        kind: `counter` if it only grows, else `gauge`.
        meaning: one phrase that explains it.
        values: the label's value -> the figure; without a label, the key is "".
        label: the label's name; empty for none.
    """

    name: str
    kind: Literal["gauge", "counter"]
    meaning: str
    values: Mapping[str, float]
    label: str = ""


def one(name: str, kind: Literal["gauge", "counter"], meaning: str, value: float) -> Figure:
    """A figure without a label."""
    return Figure(name, kind, meaning, {"": value})


def figures_of(engine: Engine) -> Iterable[Figure]:
    """The engine's figures: sessions, executions and their output, live executions included."""
    totals, live = engine.records.totals, engine.live.values()
    sizes = Counter(totals.output_bytes)
    for execution in live:
        sizes.update(execution.log.sizes)
    states = Counter({State.HELD.value: len(engine.held)} if engine.held else ())
    states.update(execution.state.value for execution in live)
    yield one("ccexecd_sessions", "gauge", "sessions that have not ended", len(engine.sessions))
    yield Figure("ccexecd_executions", "gauge", "executions that have not finished", states, "state")
    yield one("ccexecd_max_running", "gauge", "executions that may run at the same time", engine.turns.max_running)
    yield one("ccexecd_executions_started_total", "counter", "executions that were admitted", engine.started_total)
    yield Figure(
        "ccexecd_executions_finished_total", "counter", "executions that have finished", totals.finished, "reason"
    )
    yield Figure("ccexecd_output_bytes_total", "counter", "bytes that executions have written", sizes, "stream")
    yield one(
        "ccexecd_output_dropped_bytes_total",
        "counter",
        "bytes of them that could be had no more before their execution had finished",
        totals.dropped_bytes + sum(execution.log.dropped_bytes for execution in live),
    )
    yield one(
        "ccexecd_output_dropped_lines_total",
        "counter",
        "lines of them",
        totals.dropped_lines + sum(execution.log.dropped_lines for execution in live),
    )
    yield one(
        "ccexecd_output_window_bytes",
        "gauge",
        "bytes of the output of live executions that are in memory",
        sum(execution.log.held_bytes for execution in live),
    )
