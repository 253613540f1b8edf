"""Since when an agent has shown its final result.

Owns the moment. Must not know how a result is recognised: who listens to the execution says so.
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
        result: what was shown; None where another turn has begun since.
        shown: set while there is one.
        seen_at: when it was read.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self.result: FinalResult | None = None
        self.shown = trio.Event()
        self.seen_at = datetime.now(UTC)

    def note(self, result: FinalResult | None, now: float) -> None:
        """There is another result, or none any more.

        Args:
            result: the one.
            now: on the execution's clock, which stands still while it is paused.
        """
        self.result = result
        if result is None:
            self.shown = trio.Event()
        else:
            self._since, self.seen_at = now, datetime.now(UTC)
            self.shown.set()

    def told(self, spec: Spec) -> dict[str, Any]:
        """What clients hear when its execution is ended because of it."""
        task = {"task": spec.labels["task"]} if "task" in spec.labels else {}
        result = attrs.asdict(self.result) if self.result is not None else {}
        return {**task, **result, "result_seen_at": self.seen_at.isoformat(), "grace": spec.post_result_grace}

    def age(self, now: float) -> float:
        """Seconds since it was shown, on the same clock."""
        return now - self._since
