"""`POST /execute`: commands for clients that speak plain HTTP.

Owns the translation between one HTTP exchange and a session with one execution, or with a list of executions in order.
An item of a list is a prompt for Claude Code, as clients of the earlier protocol send it, or an object with the params
of `execute`. The answer comes when all is done, or event by event (`text/event-stream`). If the client leaves before
the end, what it started is cancelled, unless the request has an idempotency key.
"""

import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import Any

import attrs

from ccexecd.core.entries import Chunk, Entry, Gap, Stream
from ccexecd.core.execution import State
from ccexecd.core.framing import JOINED
from ccexecd.core.principals import Scope
from ccexecd.core.sessions import Parting
from ccexecd.engine import (
    AdmissionError,
    Engine,
    Execution,
    HistoryUnavailableError,
    PastExecution,
    Session,
    SpawnError,
)
from ccexecd.external.request import Reject, Request, Response, Route
from ccexecd.external.throttle import too_often
from ccexecd.protocol import messages
from ccexecd.protocol.codec import UNSAID, JSONSyntaxError, Seconds, StructureError, dumps, loads
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.delivery import growth, notifications
from ccexecd.service.dispatch import as_rpc_error
from ccexecd.service.executing import admitted, spec_of
from ccexecd.service.listing import completion_of, described_of
from ccexecd.service.rates import Rates

TASK_PROGRAM = ("claude", "-p")
"""The command for a task that is a string: Claude Code, with the string as its prompt."""

MAX_TASKS = 100
"""Tasks that one request may have."""

WHOLE_RESULTS = 4
"""Tasks of one request each of whose results may hold `max_buffer_size` bytes of output. Those of more tasks share what
these may hold: an answer is made as a whole, in memory and in one step of the event loop."""

EVENT_STREAM = "text/event-stream"

_STATUS = {
    ErrorCode.INVALID_PARAMS: 400,
    ErrorCode.PARSE_ERROR: 400,
    ErrorCode.SPAWN_FAILED: 422,
    ErrorCode.COMMAND_NOT_ALLOWED: 403,
    ErrorCode.IDEMPOTENCY_CONFLICT: 409,
    ErrorCode.INVALID_STATE: 409,
    ErrorCode.SESSION_LIMIT: 429,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.DRAINING: 503,
    ErrorCode.AUDIT_UNAVAILABLE: 503,
    ErrorCode.HISTORY_UNAVAILABLE: 503,
}


@attrs.frozen
class TaskList:
    """The body of a request for several executions, one after another; one that fails does not stop the rest.

    Attributes:
        tasks: prompts, or objects with the params of `execute`.
        timeout_per_task: seconds for each task that has no time-out of its own.
    """

    tasks: tuple[Any, ...]
    timeout_per_task: Seconds | None = UNSAID


def execute_route(engine: Engine, rates: Rates) -> Route:
    """Make the route of `/execute`.

    Args:
        engine: runs the executions.
        rates: how many executions each principal may start.
    """
    left: dict[str, Session] = {}

    async def answer(request: Request) -> Response:
        try:
            return await _answer(engine, rates, request, left)
        except (RPCError, StructureError, AdmissionError, SpawnError, HistoryUnavailableError) as error:
            raise _rejection(as_rpc_error(error, "POST /execute")) from None

    return Route(("POST",), answer, scope=Scope.EXECUTE)


def _rejection(error: RPCError) -> Reject:
    wait = error.data.get("retry_after") if isinstance(error.data, dict) else None
    headers = (("Retry-After", str(math.ceil(wait))),) if wait is not None else ()
    return Reject(_STATUS.get(error.code, 500), error.message, headers)


async def _answer(engine: Engine, rates: Rates, request: Request, left: dict[str, Session]) -> Response:
    try:
        wanted, problems = loads(await request.body())
    except JSONSyntaxError as error:
        raise RPCError(ErrorCode.PARSE_ERROR, f"the body is {error}; send an object with command or tasks") from None
    if problems:
        raise StructureError(problems)
    is_list = isinstance(wanted, dict) and "tasks" in wanted
    steps = _steps(wanted) if is_list else [messages.params(wanted, messages.Execute, lenient=True)]
    if request.principal is None:
        raise AssertionError("a route that runs commands is not public")
    wait = rates.execution(request.principal.name, len(steps))
    if wait:
        raise too_often("too many executions of this principal in a short time; try again later", wait)
    session = await engine.open_session(request.principal.name, request.peer)
    exchange = _Exchange(engine, session, steps, left, is_list=is_list, streamed=_wants_events(request))
    if not is_list:
        await exchange.start_first()
    return Response(200, exchange.content_type, exchange)


def _wants_events(request: Request) -> bool:
    media_types = (element.partition(";")[0].strip().lower() for element in request.elements("accept"))
    return EVENT_STREAM in media_types


def _steps(wanted: dict[str, Any]) -> list[messages.Execute]:
    """The executions that a list asks for. All are checked before the first one begins.

    Raises:
        StructureError: the list, or one of its tasks, is not valid.
    """
    listed = messages.params(wanted, TaskList, lenient=True)
    if not 0 < len(listed.tasks) <= MAX_TASKS:
        raise StructureError([{"path": "$.tasks", "error": f"must be 1 to {MAX_TASKS} tasks"}])
    steps = []
    for index, task in enumerate(listed.tasks):
        params = {"argv": [*TASK_PROGRAM, task]} if isinstance(task, str) else task
        try:
            step = messages.params(params, messages.Execute)
        except StructureError as error:
            below = [{**each, "path": f"$.tasks[{index}]" + each["path"][1:]} for each in error.problems]
            raise StructureError(below) from None
        steps.append(attrs.evolve(step, timeout=listed.timeout_per_task) if step.timeout == UNSAID else step)
    return steps


class _Exchange:
    """The body of one answer: it runs the steps while it is being sent.

    Args:
        engine: runs the executions.
        session: the session made for this exchange, which ends with it.
        steps: the executions to run, in order.
        left: id -> session of clients that left while an execution with an idempotency key ran; shared by all
            exchanges, so that one that sends the key again can take the session over.
        is_list: whether a list was asked for, which is answered with a report.
        streamed: whether every event is sent as it happens.
    """

    def __init__(
        self,
        engine: Engine,
        session: Session,
        steps: list[messages.Execute],
        left: dict[str, Session],
        *,
        is_list: bool,
        streamed: bool,
    ) -> None:
        self.content_type = EVENT_STREAM if streamed else "application/json"
        self._engine = engine
        self._session = session
        self._sessions = [session]
        self._left = left
        self._steps = steps
        self._is_list = is_list
        self._streamed = streamed
        self._place: _Place | None = None
        self._pieces = self._run()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        """End the exchange: its executions are cancelled, or go on as after a cut if one has an idempotency key."""
        await self._pieces.aclose()
        if self._place is not None:
            self._place.close()
        self._part()

    async def start_first(self) -> None:
        """Start the only step before the answer begins, so that a refusal gets its own HTTP status.

        Raises:
            AdmissionError, StructureError, RPCError, HistoryUnavailableError: it is refused.
            SpawnError: it could not be started.
        """
        try:
            await self._start(self._steps[0])
        except BaseException:
            await self.aclose()
            raise

    def _part(self) -> None:
        """Leave the sessions, once."""
        for session in self._sessions:
            has_key = any(execution.spec.once is not None for execution in session.live.values())
            self._engine.sessions.connection_lost(session, Parting.CUT if has_key else Parting.CLOSED)
            if has_key:
                self._left[session.id] = session
        self._sessions = []

    def _adopt(self, session_id: str) -> None:
        """Take over the session of an execution if its client has left, so that it does not end while we wait."""
        session = self._left.pop(session_id, None)
        if session is not None and not session.ended:
            self._engine.sessions.take_over(session, lambda _: None)
            self._sessions.append(session)
        for known in [known for known, each in self._left.items() if each.ended]:
            del self._left[known]

    async def _start(self, step: messages.Execute) -> "_Place":
        spec = spec_of(self._engine, step, "lines", self._session.principal)
        execution = await admitted(self._engine, self._session, spec)
        self._place = _Place(execution)
        self._adopt(execution.session_id)
        if isinstance(execution, PastExecution):
            return self._place
        if execution.state is State.HELD:
            self._place.close()
            text = f"execution {execution.id} waited when the daemon died and is held; release or drop it first"
            raise RPCError(ErrorCode.INVALID_STATE, text)
        if execution.turn is not None:  # the answer begins, so that a client that leaves is noticed while this waits
            return self._place
        await execution.spawned.wait()
        if execution.spawn_error is not None:
            self._place.close()
            raise execution.spawn_error
        return self._place

    async def _run(self) -> AsyncGenerator[bytes, None]:
        began, results = datetime.now(UTC), []
        most = self._engine.config.max_buffer_size * WHOLE_RESULTS // max(len(self._steps), WHOLE_RESULTS)
        for number, step in enumerate(self._steps, 1):
            try:
                place = self._place if not self._is_list and self._place else await self._start(step)
            except (AdmissionError, SpawnError, RPCError, HistoryUnavailableError) as error:
                results.append(
                    {**_task(number, step), "exit_code": None, "error": as_rpc_error(error, "a task").message}
                )
                continue
            collected = _Collected(most)
            while (entry := await place.next_entry()) is not None:
                collected.add(entry)
                if self._streamed:
                    yield place.events(entry)
            results.append({**(_task(number, step) if self._is_list else {}), **_result(place.execution, collected)})
        self._part()
        report = _report(self._session.id, began, results) if self._is_list else results[0]
        if not self._streamed:
            yield dumps(report) + b"\n"
        elif self._is_list:
            yield _event("report", report)


class _Place:
    """An execution and our place in its log, taken when it was admitted so that none of its output is missed.

    Args:
        execution: the execution.
    """

    def __init__(self, execution: Execution | PastExecution) -> None:
        self.execution = execution
        self._cursor = execution.log.cursor(0)
        self._shown_as = attrs.evolve(execution.shown_as, exact=False)

    async def next_entry(self) -> Entry | Gap | None:
        """Wait for the next entry; None after the last."""
        while not self._cursor.finished:
            entry = self._cursor.take()
            if entry is not None:
                self.execution.was_read()
                return entry
            await growth(self.execution)
        self.close()
        return None

    def events(self, entry: Entry | Gap) -> bytes:
        """An entry as server-sent events."""
        return b"".join(
            _event(method, {"execution_id": self.execution.id, **params})
            for method, params in notifications(entry, self._shown_as)
        )

    def close(self) -> None:
        """End watching."""
        self._cursor.close()
        self.execution.was_read()


class _Collected:
    """The last part of one execution's output, for the answer.

    Args:
        most: bytes to keep; the last part is kept even if it is longer.

    Attributes:
        size: bytes that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: dict[Stream, deque[tuple[int, bytes]]] = {}  # each with the number of its first entry
        self.size = 0

    def add(self, entry: Entry | Gap) -> None:
        """Add the next entry; the oldest parts are dropped if there are too many bytes. Small parts become one."""
        if not isinstance(entry, Chunk):
            return
        parts, text = self._parts.setdefault(entry.stream, deque()), entry.piece.text
        if parts and len(parts[-1][1]) + len(text) <= JOINED:
            parts[-1] = parts[-1][0], parts[-1][1] + text
        else:
            parts.append((entry.seq, text))
        self.size += len(text)
        while self.size > self._most and sum(map(len, self._parts.values())) > 1:
            oldest = min(filter(None, self._parts.values()), key=lambda each: each[0][0])
            self.size -= len(oldest.popleft()[1])

    def text(self, stream: Stream) -> str:
        """What is kept of one stream, as text."""
        return b"".join(text for _, text in self._parts.get(stream, ())).decode(errors="replace")


def _event(name: str, params: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), dumps(params))


def _task(number: int, step: messages.Execute) -> dict[str, Any]:
    return {
        "task_number": number,
        "task_description": step.command if step.command is not None else (step.argv or ("",))[-1],
    }


def _result(execution: Execution | PastExecution, collected: _Collected) -> dict[str, Any]:
    """How one execution went, with the end of its output; `dropped_bytes` is what the answer does not hold."""
    completion, described = completion_of(execution), described_of(execution)
    if completion is None:
        raise AssertionError(f"execution {execution.id} is reported before its end")
    return {
        "execution_id": execution.id,
        **completion,
        "dropped_bytes": completion["stdout_bytes"] + completion["stderr_bytes"] - collected.size,
        "stdout": collected.text("stdout"),
        "stderr": collected.text("stderr"),
        "execution_time": described["duration"],
        "completed_at": described["finished_at"],
    }


def _report(session_id: str, began: datetime, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The report about a list, in the form of the earlier protocol."""
    ended = datetime.now(UTC)
    return {
        "execution_id": session_id,
        "total_tasks": len(results),
        "completed_tasks": sum("execution_id" in result for result in results),
        "failed_tasks": sum(result["exit_code"] != 0 for result in results),
        "results": results,
        "started_at": began.isoformat(),
        "completed_at": ended.isoformat(),
        "total_execution_time": (ended - began).total_seconds(),
    }
