"""Runs executions for the self-test, and keeps their output and outcome for the checks of a case.

Owns the requests to the daemon. Must not know any case.
"""

import json
from collections.abc import Iterable
from typing import Any

from ccexecctl.client import Client
from ccexecctl.errors import CtlError
from ccexecctl.output import Collected, piece_of

BEYOND = 30.0
"""Seconds after an execution's time-out within which the daemon has to report its end."""


class CaseFailedError(CtlError):
    """A check of a case has failed; the text says what is wrong."""


class Run:
    """One execution.

    Args:
        execution_id: its UUID.

    Attributes:
        id: its UUID.
        outcome: the params of `process.completed`; empty before.
    """

    def __init__(self, execution_id: str) -> None:
        self.id = execution_id
        self.outcome: dict[str, Any] = {}
        self._output = Collected()

    def heed(self, method: str, params: dict[str, Any]) -> None:
        """Take a notification about this execution.

        Args:
            method: the notification's method.
            params: its params.

        Raises:
            CaseFailedError: the daemon has dropped output.
        """
        if method == "process.output":
            self._output.write(params["type"], piece_of(params))
        elif method == "process.gap":
            raise CaseFailedError(f"output of {self.id} was dropped: {params['dropped_bytes']} bytes")
        elif method == "process.completed":
            self.outcome = params

    @property
    def stdout(self) -> str:
        """Its standard output until now."""
        return self._output.texts()["stdout"]

    @property
    def stderr(self) -> str:
        """Its standard error until now."""
        return self._output.texts()["stderr"]

    def events(self) -> list[dict[str, Any]]:
        """Return the agent's events: the JSON object in each line of its standard output.

        Raises:
            CaseFailedError: a line is no JSON object.
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
        """Return the text of the agent's final result. Call it once the execution has ended.

        Raises:
            CaseFailedError: the execution failed, or the final result is missing or no success.
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
        client: a connection that is used for nothing else.

    Attributes:
        runs: the executions, in the order in which they were started.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.runs: list[Run] = []

    def begin(self, argv: list[str], timeout: float, **params: Any) -> Run:
        """Start an execution.

        Args:
            argv: the command.
            timeout: seconds that it may run.
            **params: further params of `execute`.

        Raises:
            RefusedError: the daemon refused it, or could not start it.
        """
        asked = {"argv": argv, "timeout": timeout, "agent": "claude", "grace": 2.0, **params}
        started = self._client.call("execute", asked, extra=BEYOND)
        run = Run(started["execution_id"])
        self.runs.append(run)
        return run

    def run(self, argv: list[str], timeout: float, **params: Any) -> Run:
        """Start an execution as `begin` does, and wait for its end as `finish` does."""
        run = self.begin(argv, timeout, **params)
        self.finish([run], timeout)
        return run

    def finish(self, runs: Iterable[Run], timeout: float) -> None:
        """Wait for the end of executions.

        Args:
            runs: the executions.
            timeout: seconds that each may run.

        Raises:
            CaseFailedError: the daemon has dropped output of one.
            UnreachableError: no message came for `timeout` and `BEYOND` seconds, so the daemon has missed an end.
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
