"""`execute`: from what a client asked for to an execution that runs, or waits for its turn.

Owns the spec that a request becomes, and the reply. Must not decide whether anything may run: the engine does.
"""

import shlex
from collections.abc import Awaitable

import attrs

from ccexecd.config import Config
from ccexecd.core.spec import Limits, Spec, TerminalSize, TimeoutSource
from ccexecd.engine import Engine, Execution, default_shell
from ccexecd.protocol import messages
from ccexecd.protocol.codec import Seconds, StructureError
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.dispatch import Answer
from ccexecd.service.peer import Peer


def spec_of(engine: Engine, wanted: messages.Execute, framing: messages.Framing) -> Spec:
    """What to run, from what a client asked for and the configuration.

    Args:
        engine: whose configuration gives the defaults.
        wanted: the request.
        framing: used where it names none, and there is no terminal, on which lines end when they like.

    Raises:
        StructureError: what it asks for does not go together.
    """
    config = engine.config
    timeout, source = _timeout_of(config, wanted)
    terminal = TerminalSize(wanted.pty.cols, wanted.pty.rows) if wanted.pty is not None else None
    framing = wanted.framing or (framing if terminal is None else "raw")
    if framing == "raw" and wanted.max_line_bytes is not None:
        raise StructureError(
            [{"path": "$.max_line_bytes", "error": 'belongs to framing "lines" or "line": raw has none'}]
        )
    if wanted.lane is not None:
        _require_lane(config, wanted.lane)
    argv = wanted.argv if wanted.command is None else (config.shell or default_shell(), "-c", wanted.command)
    return Spec(
        argv=tuple(argv or ()),
        display=wanted.command if wanted.command is not None else shlex.join(argv or ()),
        shell=wanted.command is not None,
        cwd=wanted.cwd,
        env={str(name): value for name, value in wanted.env.items()},
        unset=wanted.unset,
        timeout=timeout,
        timeout_source=source,
        stall_timeout=wanted.stall_timeout,
        grace=config.process_cleanup_timeout if wanted.grace is None else wanted.grace,
        framing=framing,
        max_line_bytes=wanted.max_line_bytes,
        policy=wanted.policy,
        stdin_open=wanted.stdin == "open" or terminal is not None,
        stdio=wanted.stdio or "auto",
        pty=terminal,
        on_disconnect=wanted.on_disconnect,
        limits=Limits(**attrs.asdict(wanted.limits)) if wanted.limits is not None else Limits(),
        labels=wanted.labels,
        leftovers=wanted.leftovers or config.leftovers,  # type: ignore[arg-type]  # one of the key's choices
        stdbuf=wanted.stdbuf,
        agent=wanted.agent,
        lane=wanted.lane or "",
        priority=wanted.priority or 0,
        post_result_grace=(config.post_result_grace if wanted.post_result_grace is None else wanted.post_result_grace),
    )


def _timeout_of(config: Config, wanted: messages.Execute) -> tuple[Seconds | None, TimeoutSource]:
    """How long it may run, and who says so."""
    if wanted.timeout is not None:
        return wanted.timeout, "request"
    if config.default_execution_timeout is not None:
        return Seconds(config.default_execution_timeout), "default"
    return None, "none"


def _require_lane(config: Config, lane: str) -> None:
    """See that a lane is one of the configuration: a slip must not escape a limit."""
    limits = config.lane_limits()
    if lane not in limits:
        known = ", ".join(limits) or "none"
        raise StructureError([{"path": "$.lane", "error": f"there is no such lane; the key lanes names {known}"}])


def execute(peer: Peer, wanted: messages.Execute) -> Answer | Awaitable[Answer]:
    """Start a command; answered when it runs, has failed to, or has to wait for its turn."""
    session = peer.session
    if session is None:
        return _execute_in_new_session(peer, wanted)
    if peer.manner.one_at_a_time and session.live:
        raise RPCError(ErrorCode.INVALID_PARAMS, "A process is already running")
    execution = peer.engine.admit(session, spec_of(peer.engine, wanted, peer.manner.framing))
    peer.take_place(execution, 0)  # now: it may have written more than the window holds before the reply has gone
    if execution.turn is not None and not peer.manner.one_at_a_time:
        return _answer(peer, execution)
    return _started(peer, execution)  # earlier clients know nothing of a queue: they hear of the start


async def _execute_in_new_session(peer: Peer, wanted: messages.Execute) -> Answer:
    await peer.claim_session()
    answer = execute(peer, wanted)
    return await answer if isinstance(answer, Awaitable) else answer


async def _started(peer: Peer, execution: Execution) -> Answer:
    await execution.spawned.wait()
    if execution.leader is None:
        peer.unwatch(execution.id)
    if execution.spawn_error is not None:
        raise execution.spawn_error
    if execution.leader is None and execution.intent is not None:
        text = f"execution {execution.id} was ended before its turn came: {execution.intent.value}"
        raise RPCError(ErrorCode.PROCESS_NOT_FOUND, text)
    if execution.leader is None:
        raise RPCError(ErrorCode.INTERNAL_ERROR, "Internal error; the daemon's log has the details")
    return _answer(peer, execution)


def _answer(peer: Peer, execution: Execution) -> Answer:
    """What is told of an execution that runs or waits; what it writes follows."""
    turn = execution.turn
    result = {
        "status": "started" if turn is None else "queued",
        "execution_id": execution.id,
        "session_id": execution.session_id,
        "pid": execution.pid,
        "pgid": execution.pid,
        "started_at": execution.started_at.isoformat() if execution.started_at else None,
        "timeout": execution.spec.timeout,
        "timeout_source": execution.spec.timeout_source,
    }
    if turn is not None:
        result["queue_position"] = turn.position
    return Answer(result, then=lambda: peer.begin_watching(execution.id))
