"""The final result of an agent, and how long ago it was shown.

Owns that moment. Must not know how a result is recognised: the execution's listener does.
"""

from datetime import UTC, datetime
from typing import Any

import attrs
import trio

from ccexecd.core.result import FinalResult
from ccexecd.core.spec import Spec


class ResultWatch:
    """The final result of one execution.

    Attributes:
        result: the final result; None before the first one, and after another turn has begun.
        shown: set while there is a result.
        seen_at: when the latest result was read.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self.result: FinalResult | None = None
        self.shown = trio.Event()
        self.seen_at = datetime.now(UTC)

    def note(self, result: FinalResult | None, now: float) -> None:
        """Note a final result, or that the last one is no longer final.

        Args:
            result: the new result; None if another turn has begun.
            now: seconds on the execution's clock, which stands still while it is paused.
        """
        self.result = result
        if result is None:
            self.shown = trio.Event()
        else:
            self._since, self.seen_at = now, datetime.now(UTC)
            self.shown.set()

    def told(self, spec: Spec) -> dict[str, Any]:
        """Return what clients are told, as JSON values, when the execution is ended because of its final result."""
        task = {"task": spec.labels["task"]} if "task" in spec.labels else {}
        result = attrs.asdict(self.result) if self.result is not None else {}
        return {**task, **result, "result_seen_at": self.seen_at.isoformat(), "grace": spec.post_result_grace}

    def age(self, now: float) -> float:
        """Return the seconds since the result was shown; `now` is on the execution's clock."""
        return now - self._since
