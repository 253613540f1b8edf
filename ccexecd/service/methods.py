"""The methods about executions and sessions: one function for each, with the method's name.

Owns the translation between params and results on the wire and what the engine does. A function makes its decision
before it returns; what has to be waited for then, it returns as an awaitable (see `dispatch`). Must not send anything
itself.
"""

import base64
import hmac
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs
import trio

from ccexecd.core.cursor import Cursor
from ccexecd.core.display import Display
from ccexecd.core.entries import Chunk
from ccexecd.core.execution import Reason, State
from ccexecd.core.framing import MOST_LINES
from ccexecd.core.principals import Scope
from ccexecd.core.spec import TerminalSize
from ccexecd.engine import Execution, PastExecution
from ccexecd.protocol import messages
from ccexecd.protocol.codec import StructureError
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.delivery import growth, output_params
from ccexecd.service.dispatch import Answer, Kind, Method
from ccexecd.service.evidence import EVIDENCE_METHODS
from ccexecd.service.executing import execute
from ccexecd.service.holding import drop, release
from ccexecd.service.listing import REPLY_BYTES, completion_of, list_executions, size_of
from ccexecd.service.naming import call_with_execution, known
from ccexecd.service.peer import Peer
from ccexecd.service.prompts import PROMPT_METHODS
from ccexecd.service.timings import TIMING_METHODS

R = TypeVar("R")


def control(peer: Peer, wanted: messages.Control) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """`control`: pause, resume, cancel, kill or signal an execution; answered when done, unless `wait` is false."""
    return _upon_live(peer, wanted.execution_id, lambda execution: _control(execution, wanted))


def _control(execution: Execution, wanted: messages.Control) -> Awaitable[dict[str, Any]]:
    match wanted.type:
        case "PAUSE":
            return _paused(execution, execution.pause())
        case "RESUME":
            return _resumed(execution, execution.resume())
        case "SIGNAL":
            number = _signal_number(wanted.signal or "")
            if number == signal.SIGCONT and execution.state is State.PAUSED:  # it runs then, and so does its clock
                return _resumed(execution, execution.resume(), "signalled")
            return _signal(execution, number)
        case "CANCEL":
            execution.cancel(Reason.CANCELLED, wanted.grace)
            return _ended(execution, "cancelled", wait=wanted.wait)
        case "KILL":
            execution.cancel(Reason.CANCELLED, 0.0)
            return _ended(execution, "killed", wait=wanted.wait)


async def _paused(execution: Execution, pausing: Awaitable[list[int]]) -> dict[str, Any]:
    return _controlled("paused", execution, survivors=await pausing)


async def _resumed(execution: Execution, resuming: Awaitable[list[int]], status: str = "resumed") -> dict[str, Any]:
    await resuming
    return _controlled(status, execution)


def _signal(execution: Execution, signum: int) -> Awaitable[dict[str, Any]]:
    if execution.turn is not None:
        raise RPCError(
            ErrorCode.INVALID_STATE,
            f"execution {execution.id} waits for its turn: it has no process yet",
            {"state": execution.state.value},
        )
    return _signalled(execution, signum)


async def _signalled(execution: Execution, signum: int) -> dict[str, Any]:
    await execution.spawned.wait()
    if execution.leader is None:
        raise RPCError(ErrorCode.PROCESS_NOT_FOUND, f"execution {execution.id} did not start")
    await execution.signal(signum)
    return _controlled("signalled", execution)


async def _ended(execution: Execution, status: str, *, wait: bool) -> dict[str, Any]:
    if not wait:
        return _controlled("cancelling", execution)
    await execution.finished.wait()
    survivors = list(execution.outcome.survivors) if execution.outcome else []
    return _controlled(status, execution, survivors=survivors)


def _controlled(status: str, execution: Execution, survivors: list[int] | None = None) -> dict[str, Any]:
    return {"status": status, "execution_id": execution.id, "survivors": survivors or []}


def _signal_number(name: str) -> int:
    """The number of a signal by its name, with or without SIG."""
    number = getattr(signal.Signals, f"SIG{name.upper().removeprefix('SIG')}", None)
    if number is None:
        raise StructureError([{"path": "$.signal", "error": "unknown signal; give a name such as INT, USR1 or HUP"}])
    return int(number)


def write_stdin(peer: Peer, wanted: messages.WriteStdin) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """`write_stdin`: write to a program's standard input; answered when the pipe has taken all of it."""
    if wanted.data is not None:
        text = wanted.data.encode()
    else:
        try:
            text = base64.b64decode(wanted.data_base64 or "", validate=True)
        except ValueError:
            raise StructureError([{"path": "$.data_base64", "error": "is not base64"}]) from None
    taken = {"accepted_bytes": len(text)}
    return _upon_live(peer, wanted.execution_id, lambda it: _done(it.stdin.write(text, wanted.write_id), taken))


def close_stdin(peer: Peer, wanted: messages.Which) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """`close_stdin`: close a program's standard input after pending writes; on a terminal, type the end of file."""
    return _upon_live(peer, wanted.execution_id, lambda execution: _done(execution.stdin.close(), {}))


def resize_pty(peer: Peer, wanted: messages.ResizePty) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """`resize_pty`: change the size of an execution's terminal; the kernel tells its foreground processes."""
    return _upon_live(peer, wanted.execution_id, lambda execution: _resize(execution, wanted))


def _resize(execution: Execution, wanted: messages.ResizePty) -> dict[str, Any]:
    if execution.terminal is None:
        raise RPCError(
            ErrorCode.INVALID_STATE,
            f"execution {execution.id} has no terminal; one is made by execute with pty",
            {"state": execution.state.value},
        )
    execution.terminal.resize(TerminalSize(wanted.cols, wanted.rows))
    return {}


async def _done(deed: Awaitable[None], result: dict[str, Any]) -> dict[str, Any]:
    await deed
    return result


def attach(peer: Peer, wanted: messages.Attach) -> Answer | Awaitable[Answer]:
    """`attach`: send the caller an execution's log from a position on."""

    def begin(execution: Execution | PastExecution) -> Answer:
        log = execution.log
        if wanted.from_seq and wanted.from_seq < log.oldest_seq:
            raise RPCError(
                ErrorCode.OUTPUT_GONE,
                f"output before position {log.oldest_seq} is no longer kept; attach from there, or from 0",
                {"oldest_seq": log.oldest_seq},
            )
        result = {"next_seq": log.next_seq, "oldest_seq": log.oldest_seq, "state": execution.state.value}
        return Answer(result, then=lambda: peer.watch(execution, wanted.from_seq))

    return call_with_execution(peer, wanted.execution_id, begin)


def detach(peer: Peer, wanted: messages.Which) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """`detach`: send the caller an execution's log no longer; the execution goes on."""

    def end(execution: Execution | PastExecution) -> dict[str, Any]:
        peer.unwatch(execution.id)
        return {}

    return call_with_execution(peer, wanted.execution_id or "", end)


async def read_output(peer: Peer, wanted: messages.ReadOutput) -> dict[str, Any]:
    """`read_output`: return output from a position on; if there is none yet, wait for some for `wait_s` seconds."""
    execution = await known(peer, wanted.execution_id)
    cursor = execution.log.cursor(wanted.from_seq)
    try:
        if cursor.at_end and execution.is_live and wanted.wait_s:
            with trio.move_on_after(wanted.wait_s):
                await growth(execution)
        shown_as = attrs.evolve(execution.shown_as, exact=True)
        chunks, next_seq = await _portion(cursor, wanted, shown_as)
    finally:
        cursor.close()
        execution.was_read()
    result = {
        "chunks": chunks,
        "next_seq": next_seq,
        "oldest_seq": execution.log.oldest_seq,
        "state": execution.state.value,
    }
    ended = completion_of(execution)
    if ended is not None and next_seq >= execution.log.next_seq:
        result["outcome"] = ended
    return result


async def _portion(cursor: Cursor, wanted: messages.ReadOutput, shown_as: Display) -> tuple[list[dict[str, Any]], int]:
    """Read as many chunks as were asked for and a reply can hold. A gap shows in their numbers.

    Returns:
        The params of `process.output` for each, and the number of the entry after them.
    """
    chunks: list[dict[str, Any]] = []
    size, room, made = 0, REPLY_BYTES, 0
    while size < wanted.max_bytes and (entry := cursor.take()) is not None:
        if isinstance(entry, Chunk) and entry.stream in wanted.streams:
            size += len(entry.piece.text)
            for params in output_params(entry, shown_as, from_seq=wanted.from_seq):
                room -= size_of(params)
                if room < 0:
                    return chunks, params["seq"]
                chunks.append(params)
            if len(chunks) - made > MOST_LINES:  # let other tasks run
                made = len(chunks)
                await trio.lowlevel.checkpoint()
    return chunks, cursor.seq


async def wait(peer: Peer, wanted: messages.Wait) -> dict[str, Any]:
    """`wait`: wait for an execution's end. Returns its outcome, or its state when the time is up."""
    execution = await known(peer, wanted.execution_id)
    if isinstance(execution, Execution):
        with trio.move_on_after(float("inf") if wanted.timeout is None else wanted.timeout):
            await execution.finished.wait()
    return completion_of(execution) or {"state": execution.state.value}


def resume_session(peer: Peer, wanted: messages.ResumeSession) -> dict[str, Any]:
    """`resume_session`: take a session over after its connection was cut."""
    session = peer.engine.sessions.get(wanted.session_id)
    if (
        session is None
        or session.ended
        or not peer.principal.controls(session.principal)
        or not hmac.compare_digest(session.resume_token.encode(), wanted.resume_token.encode())
    ):
        raise RPCError(
            ErrorCode.PROCESS_NOT_FOUND,
            "no such session, or not its token; it ends when its client closes it or the resume window has passed",
        )
    peer.take_over(session)
    executions = [
        {
            "execution_id": execution.id,
            "state": execution.state.value,
            "next_seq": execution.log.next_seq,
            "oldest_seq": execution.log.oldest_seq,
        }
        for execution in session.executions.values()
    ]
    return {"session_id": session.id, "executions": executions}


def hook_status(peer: Peer, _: messages.Nothing) -> dict[str, Any]:
    """`hook_status`: the configured hooks and their figures; what they run is told to callers with `admin` only."""
    hooks = peer.engine.preparation.hooks
    if hooks is None:
        return {"enabled": False, "hooks": [], "running": 0, "waiting": 0}
    return hooks.told(in_full=peer.principal.may(Scope.ADMIN))


def pong(_peer: Peer, _: messages.Nothing) -> dict[str, Any]:
    """`pong`: does nothing; clients of the earlier protocol send it as a notification."""
    return {}


def _upon_live(peer: Peer, execution_id: str | None, deed: Callable[[Execution], R | Awaitable[R]]) -> R | Awaitable[R]:
    """Do something with a live execution: the one named or, without a name, the session's only live one.

    Raises:
        RPCError: there is none, it has finished, or without a name there are several. May come from the awaitable.
    """

    def do(execution: Execution | PastExecution) -> R | Awaitable[R]:
        if not isinstance(execution, Execution) or not execution.is_live:
            raise RPCError(
                ErrorCode.INVALID_STATE,
                f"execution {execution.id} has finished",
                {"state": execution.state.value},
            )
        return deed(execution)

    return deed(_only_live(peer)) if execution_id is None else call_with_execution(peer, execution_id, do)


def _only_live(peer: Peer) -> Execution:
    live = list(peer.session.live.values()) if peer.session else []
    if not live:
        raise RPCError(ErrorCode.PROCESS_NOT_FOUND, "no process is running in this session")
    if len(live) > 1:
        raise RPCError(
            ErrorCode.AMBIGUOUS_EXECUTION,
            f"{len(live)} executions are live in this session; name one by execution_id",
            {"executions": [execution.id for execution in live]},
        )
    return live[0]


EXECUTION_METHODS = {
    "execute": Method(messages.Execute, execute),
    "control": Method(messages.Control, control, Kind.STEERING),
    "release": Method(messages.Held, release),
    "drop": Method(messages.Held, drop),
    "write_stdin": Method(messages.WriteStdin, write_stdin, Kind.WRITING),
    "close_stdin": Method(messages.Which, close_stdin, Kind.WRITING),
    "resize_pty": Method(messages.ResizePty, resize_pty),
    "attach": Method(messages.Attach, attach),
    "detach": Method(messages.Which, detach),
    "read_output": Method(messages.ReadOutput, read_output, Kind.WAITING),
    "wait": Method(messages.Wait, wait, Kind.WAITING),
    "list": Method(messages.List, list_executions),
    **EVIDENCE_METHODS,
    **TIMING_METHODS,
    **PROMPT_METHODS,
    "resume_session": Method(messages.ResumeSession, resume_session),
    "hook_status": Method(messages.Nothing, hook_status),
    "pong": Method(messages.Nothing, pong),
}
"""Name -> method, served at both doors; `status` is added where the daemon is known."""
