"""One run of an agent: started once, followed to its end, and cancelled when nobody wants it any more.

Owns an execution of an agent from the request to its result, whatever cuts it short. Must not start the agent again:
that is decided in `task`.
"""

from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from ccexecctl.api.client import Client, Started
from ccexecctl.api.command_line import Call, call_of
from ccexecctl.api.options import AgentOptions, Kind
from ccexecctl.api.outcome import Record, adapter_of, result_of
from ccexecctl.api.reports import Reports
from ccexecctl.api.results import AgentResult
from ccexecctl.errors import CtlError, RefusedError, UsageError
from ccexecctl.output import piece_of
from ccexecd.agents.adapter import EventReader
from ccexecd.agents.events import Event
from ccexecd.protocol.errors import ErrorCode

STDIN_PIECE = 256 * 1024
"""Bytes of a prompt that one `write_stdin` request carries."""

ENDING_PATIENCE = 5.0
"""Seconds to wait for the last output of an agent that is cancelled; the daemon ends the agent in any case."""

INSTALLING = {
    "claude": "npm install -g @anthropic-ai/claude-code",
    "codex": "npm install -g @openai/codex",
    "gemini": "npm install -g @google/gemini-cli",
}
"""Command that installs each agent, for the hint of `AgentMissingError`."""


class AgentMissingError(CtlError):
    """The daemon cannot start the agent's program."""

    name = "AGENT_MISSING"
    exit_code = 127


class AgentRun:
    """One run of an agent: ``async with`` starts the agent, ``async for`` yields its events, `result` is the result.

    Leaving the context before the agent's end cancels the agent; `result` then holds what it had reported.

    Args:
        client: the client of the daemon.
        task: the task, as the caller gave it.
        options: which agent, and how it does the task.
        prompt: the text that the agent gets; None for the task.
        reports: reports the progress; None: made from `options`.

    Raises:
        UsageError: there is no such agent, or it has no flag for one of the options.

    Attributes:
        record: all that is known of the run.
    """

    def __init__(
        self,
        client: Client,
        task: str,
        options: AgentOptions,
        *,
        prompt: str | None = None,
        reports: Reports | None = None,
    ) -> None:
        adapter = adapter_of(options.agent)
        self.record = Record(task, adapter)
        self._client = client
        self._options = options
        self._call: Call = call_of(task if prompt is None else prompt, options)
        self._reader = EventReader(adapter)
        self._reports = reports
        self._started: Started | None = None

    @property
    def result(self) -> AgentResult:
        """The result; before the agent's end, the result so far."""
        return result_of(self.record)

    @property
    def execution_uuid(self) -> str:
        """UUID of the execution; empty before the agent has been started."""
        return self.record.execution_uuid

    async def __aenter__(self) -> Self:
        """Start the agent.

        Raises:
            AgentMissingError: the daemon cannot start the agent's program, usually since it is not installed.
            CtlError: the daemon refused the execution, or cannot be reached.
        """
        self._reports = self._reports or Reports(self._options)
        self.record.begun = anyio.current_time()
        self.record.timestamp = datetime.now(UTC).isoformat()
        try:
            started = self._started = await self._client.execute(**self._request())
        except RefusedError as refused:
            raise self._explained(refused) from refused
        self.record.execution_uuid = started.execution_id
        self.record.was_known = "outcome" in started.told
        self.record.timeout = started.told.get("timeout")
        self.record.timeout_source = str(started.told.get("timeout_source", ""))
        if self._call.stdin is not None:
            try:
                await self._write(started, self._call.stdin.encode())
            except BaseException:
                await self._end()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel the agent if it has not ended."""
        await self._end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self.record.unseen:
            if self.record.is_over:
                raise StopAsyncIteration
            await self._hear()
        event = self.record.unseen.popleft()
        if self._reports is not None:
            await self._reports.event(event)
        return event

    async def cancel(self) -> None:
        """End the agent: TERM, grace, KILL. Events that it still reports are yielded.

        Raises:
            CtlError: the daemon cannot be reached.
        """
        if self._started is not None and not self.record.is_over:
            await self._started.control("CANCEL", wait=False)

    def _request(self) -> dict[str, Any]:
        options = self._options
        cwd = options.cwd if options.cwd is not None else (Path.cwd() if self._client.is_local else None)
        return {
            "argv": self._call.argv,
            "cwd": str(Path(cwd).absolute()) if cwd is not None and self._client.is_local else cwd and str(cwd),
            "env": dict(options.env) if options.env is not None else None,
            "timeout": options.timeout,
            "stall_timeout": options.stall_timeout,
            "stdin": "open" if self._call.stdin is not None else None,
            "agent": options.agent,
            "framing": "lines",
            "labels": dict(options.labels) if options.labels is not None else None,
            "lane": options.lane,
            "priority": options.priority,
            "on_disconnect": options.on_disconnect,
            **({"idempotency_key": options.idempotency_key} if options.idempotency_key is not None else {}),
        }

    def _explained(self, refused: RefusedError) -> CtlError:
        facts = refused.data if isinstance(refused.data, dict) else {}
        if refused.code != ErrorCode.SPAWN_FAILED or facts.get("subject") != "program":
            return refused
        program = self._call.argv[0]
        hint = "name its path (program=, --program), or start the daemon where its PATH has it"
        if program == self._options.agent:
            hint = f"install it ({INSTALLING[program]}); if it is installed, {hint}"
        return AgentMissingError(f"cannot start {program}: {str(facts.get('strerror', '')).lower()}", hint)

    async def _write(self, started: Started, text: bytes) -> None:
        """Write the prompt to the agent's standard input. An agent that ends before it has read all is no error."""
        named = {"execution_id": started.execution_id}
        try:
            for number, start in enumerate(range(0, len(text), STDIN_PIECE)):
                piece = _between_characters(text, start, start + STDIN_PIECE)
                await started.link.call("write_stdin", {**named, "data": piece, "write_id": str(number)})
            await started.link.call("close_stdin", named)
        except RefusedError as refused:
            if refused.code not in (ErrorCode.STDIN_CLOSED, ErrorCode.INVALID_STATE):
                raise

    async def _hear(self) -> None:
        """Wait for one notification and take it, or report that the agent has been silent for a while."""
        if self._started is None or self._reports is None:
            raise UsageError("the agent is not started", "use it so: async with cc_stream(task) as run")
        try:
            with anyio.move_on_after(self._reports.interval) as waiting:
                notification = await anext(self._started.watch, None)
        except CtlError as lost:
            self.record.lose(lost)
            return
        if waiting.cancelled_caught:
            await self._reports.silence()
        elif notification is None:
            self.record.is_over = True
        else:
            await self._heed(*notification)

    async def _heed(self, method: str, params: dict[str, Any]) -> None:
        record = self.record
        match method:
            case "process.output" if params["type"] == "stdout":
                record.take(self._reader.feed(piece_of(params)))
            case "process.output":
                record.complain(piece_of(params))
            case "process.gap":
                record.dropped_bytes += params["dropped_bytes"] or 0
            case "process.queued" if self._reports is not None:
                await self._reports.tell(Kind.QUEUED, f"waits for its turn: position {params['queue_position']}")
            case "process.completed":
                record.take(self._reader.finish())
                record.end(params, anyio.current_time())

    async def _end(self) -> None:
        """Cancel the agent if it has not ended, and take its last events, also while this task is being cancelled."""
        if self._started is None:
            return
        if not self.record.is_over:
            with anyio.move_on_after(ENDING_PATIENCE, shield=True):
                try:
                    await self.cancel()
                    while not self.record.is_over:
                        await self._hear()
                except CtlError as lost:
                    self.record.lose(lost)
        if not self.record.is_over:
            self.record.lose(CtlError("it was cancelled, and had not ended when that was last looked at"))
        self._started.forget()
        if self._reports is not None:
            self._reports.ended()


def _between_characters(text: bytes, start: int, end: int) -> str:
    """Return a part of a UTF-8 text; both bounds are moved back to where no character is cut."""
    return text[_back(text, start) : _back(text, end)].decode()


def _back(text: bytes, at: int) -> int:
    while 0 < at < len(text) and text[at] & 0xC0 == 0x80:
        at -= 1
    return at
