"""Executions of the self-test: asked for, followed to their end, and kept as a case wants to look at them.

Owns the conversation with the daemon. Must not judge anything.
"""

import json
from collections.abc import Iterable
from typing import Any

from ccexecctl.client import Client
from ccexecctl.errors import CtlError
from ccexecctl.output import Collected, piece_of

BEYOND = 30.0
"""Seconds beyond its own time-out in which the end of an execution has to be told."""


class CaseFailedError(CtlError):
    """Something is not as it should be; the text says what."""


class Run:
    """One execution.

    Attributes:
        id: its UUID.
        outcome: the params of `process.completed`, once it has ended.
    """

    def __init__(self, execution_id: str) -> None:
        self.id = execution_id
        self.outcome: dict[str, Any] = {}
        self._output = Collected()

    def heed(self, method: str, params: dict[str, Any]) -> None:
        """A notification of it has come."""
        if method == "process.output":
            self._output.write(params["type"], piece_of(params))
        elif method == "process.gap":
            raise CaseFailedError(f"output of {self.id} was dropped: {params['dropped_bytes']} bytes")
        elif method == "process.completed":
            self.outcome = params

    @property
    def stdout(self) -> str:
        """All that it wrote to its standard output."""
        return self._output.texts()["stdout"]

    @property
    def stderr(self) -> str:
        """The same of its standard error."""
        return self._output.texts()["stderr"]

    def events(self) -> list[dict[str, Any]]:
        """What the agent reported: one JSON object for each line.

        Raises:
            CaseFailedError: a line is none.
        """
        found = []
        for number, line in enumerate(self.stdout.splitlines(), 1):
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise CaseFailedError(f"line {number} of the output is no JSON object: {line[:80]!r}")
            found.append(event)
        return found

    def reply(self) -> str:
        """The text of the final result, of a run that went well.

        Raises:
            CaseFailedError: it did not.
        """
        if self.outcome["exit_code"] != 0 or self.outcome["reason"] != "exited":
            said = f"{self.outcome['reason']}, exit code {self.outcome['exit_code']}"
            raise CaseFailedError(f"the agent did not end well: {said}; {self.stderr.strip()[-200:]}")
        last: dict[str, Any] = next((event for event in reversed(self.events()) if event.get("type") == "result"), {})
        if last.get("subtype") != "success" or last.get("is_error"):
            raise CaseFailedError(
                f"the final result is no success: {json.dumps(last)[:200] if last else 'there is none'}"
            )
        return str(last.get("result", ""))


class Trial:
    """All executions of one case.

    Args:
        client: a connection of its own.

    Attributes:
        runs: every one, in the order in which they were asked for.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.runs: list[Run] = []

    def begin(self, argv: list[str], timeout: float, **params: Any) -> Run:
        """Start a command.

        Args:
            argv: its words.
            timeout: seconds that it may run.
            params: further params of `execute`.

        Raises:
            RefusedError: it could not be started.
        """
        asked = {"argv": argv, "timeout": timeout, "agent": "claude", "grace": 2.0, **params}
        started = self._client.call("execute", asked, extra=BEYOND)
        run = Run(started["execution_id"])
        self.runs.append(run)
        return run

    def run(self, argv: list[str], timeout: float, **params: Any) -> Run:
        """Start a command, and wait for its end."""
        run = self.begin(argv, timeout, **params)
        self.finish([run], timeout)
        return run

    def finish(self, runs: Iterable[Run], timeout: float) -> None:
        """Wait for the end of some.

        Raises:
            UnreachableError: nothing was heard of them for longer than they may take.
        """
        awaited = {run.id: run for run in runs if not run.outcome}
        by_id = {run.id: run for run in self.runs}
        while awaited:
            message = self._client.next_message(timeout + BEYOND)
            params = message.get("params") or {}
            run = by_id.get(params.get("execution_id", ""))
            if run is None:
                continue
            run.heed(message.get("method", ""), params)
            if run.outcome:
                awaited.pop(run.id, None)

    def ask(self, method: str, **params: Any) -> Any:
        """Ask the daemon something besides."""
        return self._client.call(method, params)
