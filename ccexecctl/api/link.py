"""One session with the daemon, over as many connections as it takes.

Owns connecting again (with growing delays), resuming the session, and going on with every watched execution where the
last connection was cut. Must not know what an execution is for.

Nothing is run twice: `execute` carries an idempotency key, with which it may be sent again when its answer was lost,
and all else that is sent again does nothing a second time (`REPEATABLE`).
"""

import uuid
from typing import Any

import anyio

from ccexecctl.api.backoff import Backoff
from ccexecctl.api.connection import Answered, Connection
from ccexecctl.api.endpoint import Endpoint
from ccexecctl.api.framing import CutError
from ccexecctl.api.watch import Watch
from ccexecctl.errors import CtlError, NotPermittedError, RefusedError, UnreachableError
from ccexecd.protocol.errors import ErrorCode

REPEATABLE = {
    "execute",
    "control",
    "write_stdin",
    "close_stdin",
    "attach",
    "detach",
    "wait",
    "status",
    "list",
    "health",
}
"""Methods that may be sent again if it is not known whether they were carried out: `execute` thanks to its key,
`write_stdin` thanks to its `write_id`, the others because a repetition changes nothing."""

GREETING = "connected"
"""The notification that opens a conversation over WebSocket."""

FIRST_PATIENCE = 5.0
"""Seconds of trying to connect while nothing is watched and no call was cut, so that giving up loses nothing."""

GREETING_PATIENCE = 10.0
"""Seconds in which the daemon has to send its greeting."""


class Link:
    """A session. `run` has to be running for anything to happen; `close` ends it.

    Args:
        endpoint: the daemon.
        backoff: delays between two attempts to connect.

    Attributes:
        session: params of the daemon's greeting; empty if it does not greet (control socket).
        watches: the watches by execution id; several may watch the same execution, each from its own position.
    """

    def __init__(self, endpoint: Endpoint, backoff: Backoff) -> None:
        self.session: dict[str, Any] = {}
        self.watches: dict[str, list[Watch]] = {}
        self._endpoint = endpoint
        self._backoff = backoff
        self._scope = anyio.CancelScope(shield=True)  # a program that is cancelled still closes the session: `close`
        self._connection: Connection | None = None
        self._calls = 0
        self._cut_calls = 0  # of those, the ones whose connection was lost: their request may have been carried out
        self._is_wanted = False
        self._changed = anyio.Event()
        self._attempt = 0
        self._failure: tuple[int, CtlError] = (-1, CtlError(""))
        self._greeting: dict[str, Any] = {}
        self._greeted = anyio.Event()

    @property
    def load(self) -> int:
        """How many calls and watches use it: the least used link is chosen."""
        return self._calls + sum(map(len, self.watches.values()))

    async def run(self) -> None:
        """Connect, and connect again, whenever the link is used, until `close`."""
        with self._scope:
            while True:
                while not self._is_wanted:
                    await self._changed.wait()
                self._is_wanted = False
                try:
                    await self._converse()
                    self._is_wanted = self._is_wanted or bool(self.watches)
                except CtlError as error:
                    self._fail(error)

    async def close(self) -> None:
        """Close the connection and end `run`; the daemon ends the session's executions but those to be detached."""
        if self._connection is not None:
            await self._connection.close()
        self._scope.cancel()

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """Send a request and wait for its result, over another connection if need be.

        Raises:
            CtlError: it was refused, or the daemon cannot be reached.
        """
        return await self._ask(method, params, None)

    async def execute(self, params: dict[str, Any]) -> tuple[dict[str, Any], Watch]:
        """Have a command executed, once.

        Args:
            params: params of `execute`; an idempotency key is added if there is none.

        Returns:
            The daemon's answer, and a watch of the execution from its start.

        Raises:
            CtlError: it was refused, or the daemon cannot be reached.
        """
        watches: list[Watch] = []
        is_orphaned = False

        def begun(told: dict[str, Any]) -> None:
            execution_id = told["execution_id"]
            if is_orphaned:  # the caller has been cancelled meanwhile
                self.tell("control", {"execution_id": execution_id, "type": "CANCEL", "wait": False})
            else:
                is_sent_already = execution_id in self.watches
                watches.append(self._watch(execution_id))
                if is_sent_already:  # it is watched here already, so the daemon would not send its log from the start
                    self.tell("attach", {"execution_id": execution_id, "from_seq": 0})

        try:
            told = await self._ask("execute", {"idempotency_key": str(uuid.uuid4()), **params}, begun)
        except anyio.get_cancelled_exc_class():
            is_orphaned = True
            raise
        return told, watches[-1]

    async def attach(self, execution_id: str, from_seq: int = 0) -> Watch:
        """Watch an execution from a position of its log on; 0 is the start.

        Raises:
            CtlError: it is not known, or the daemon cannot be reached.
        """
        watch = self._watch(execution_id)
        watch.next_seq = max(from_seq, 1)
        try:
            earliest = min(each.next_seq for each in self.watches[execution_id])  # asked again, the position moves
            await self._ask("attach", {"execution_id": execution_id, "from_seq": min(from_seq, earliest)}, None)
        except BaseException:
            self.forget(watch)
            raise
        return watch

    def forget(self, watch: Watch) -> None:
        """End a watch."""
        if self._remove(watch) and watch.execution_id not in self.watches:
            self.tell("detach", {"execution_id": watch.execution_id})

    def tell(self, method: str, params: dict[str, Any]) -> None:
        """Send a request and ignore the answer; nothing is sent without a connection."""
        if self._connection is not None:
            self._connection.tell(method, params)

    def _watch(self, execution_id: str) -> Watch:
        watch = Watch(execution_id)
        self.watches.setdefault(execution_id, []).append(watch)
        return watch

    def _remove(self, watch: Watch) -> bool:
        """Remove a watch. Returns whether it was there."""
        others = self.watches.get(watch.execution_id, [])
        if watch not in others:
            return False
        others.remove(watch)
        if not others:
            del self.watches[watch.execution_id]
        return True

    async def _ask(self, method: str, params: dict[str, Any], on_result: Answered | None) -> Any:
        self._calls += 1
        was_cut = False
        try:
            while True:
                connection = await self._connected()
                try:
                    return await connection.request(method, params, on_result)
                except CutError as cut:
                    if method not in REPEATABLE:
                        raise UnreachableError(f"{cut}; nobody knows whether {method!r} was done") from cut
                    self._cut_calls += not was_cut
                    was_cut = True
        finally:
            self._calls -= 1
            self._cut_calls -= was_cut

    async def _connected(self) -> Connection:
        attempt = self._attempt
        while self._connection is None or self._connection.ended is not None:
            if self._failure[0] >= attempt:
                raise self._failure[1]
            self._is_wanted = True
            self._touch()
            await self._changed.wait()
        return self._connection

    def _touch(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _fail(self, why: CtlError) -> None:
        """Fail all calls and watches that wait now; a later one causes a new attempt to connect."""
        self._failure = (self._attempt, why)
        self._attempt += 1
        for watch in [each for several in self.watches.values() for each in several]:
            watch.failed(why)
        self.watches.clear()
        self._touch()

    async def _converse(self) -> None:
        """Open one connection, and use it to its end.

        Raises:
            CtlError: no connection can be opened.
        """
        connection = await self._open()
        failure: CtlError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            try:
                await self._take_up(connection)
                self._connection = connection
                self._touch()
                await connection.over.wait()
            except CutError:
                pass
            except CtlError as error:  # here, for what leaves a task group leaves it in a group
                failure = error
            finally:
                self._connection = None
                tasks.cancel_scope.cancel()
        failure = failure or (connection.ended if isinstance(connection.ended, CtlError) else None)
        if failure is not None:
            raise failure

    async def _open(self) -> Connection:
        begun = anyio.current_time()
        for delay in self._backoff.delays():
            would_lose = bool(self.watches or self._cut_calls)
            elapsed = anyio.current_time() - begun
            try:
                opened = await self._endpoint.open()
            except NotPermittedError:
                raise
            except CtlError:
                if not would_lose or elapsed > self._endpoint.patience:
                    raise
            except CutError as error:
                if elapsed > (self._endpoint.patience if would_lose else FIRST_PATIENCE):
                    raise UnreachableError(str(error)) from error
            else:
                self._greeted = anyio.Event()
                return Connection(opened, self._notified, self._endpoint.probe_interval)
            await anyio.sleep(delay)
        raise AssertionError("delays have no end")

    async def _take_up(self, connection: Connection) -> None:
        """Go on where the last connection was cut: resume its session, and attach to all executions that are watched.

        Raises:
            CutError: this connection has been cut, too.
        """
        if self._endpoint.greets:
            with anyio.move_on_after(GREETING_PATIENCE):
                await self._greeted.wait()
            if not self._greeted.is_set():
                raise CutError("the daemon did not greet")
            await self._resume(connection)
        for execution_id in list(self.watches):
            await self._attach_again(connection, execution_id)

    async def _resume(self, connection: Connection) -> None:
        greeting, before = self._greeting, self.session
        self.session = greeting
        if before:
            named = {name: before[name] for name in ("session_id", "resume_token")}
            try:
                await connection.request("resume_session", named)
                self.session = before
            except RefusedError as refused:  # the session has ended; its executions can still be attached to
                if refused.code != ErrorCode.PROCESS_NOT_FOUND:
                    raise

    async def _attach_again(self, connection: Connection, execution_id: str) -> None:
        from_seq = min((watch.next_seq for watch in self.watches.get(execution_id, ())), default=None)
        if from_seq is None:  # its watches have ended
            return
        wanted = {"execution_id": execution_id, "from_seq": from_seq}
        try:
            await connection.request("attach", wanted)
        except RefusedError as refused:
            if refused.code == ErrorCode.OUTPUT_GONE:  # take what is left; a `process.gap` tells what is lost
                await connection.request("attach", wanted | {"from_seq": 0})
            elif refused.code == ErrorCode.PROCESS_NOT_FOUND:
                for watch in self.watches.pop(execution_id, []):
                    watch.failed(refused)
            else:
                raise

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        if method == GREETING:
            self._greeting = params
            self._greeted.set()
            return
        for watch in list(self.watches.get(params.get("execution_id", ""), ())):
            watch.heard(method, params)
            if watch.is_complete:
                self._remove(watch)
