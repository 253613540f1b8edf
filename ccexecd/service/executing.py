"""`execute`: from what a client asked for to an execution that runs, or waits for its turn.

Owns the spec that a request becomes, and the reply. Must not decide whether anything may run: the engine does.
"""

import hashlib
import shlex
from collections.abc import Awaitable
from typing import Any

import attrs
import orjson

from ccexecd.config import Config
from ccexecd.core.execution import State
from ccexecd.core.spec import Limits, Once, Spec, TerminalSize, TimeoutSource
from ccexecd.engine import AdmissionError, Engine, Execution, PastExecution, Session, default_shell
from ccexecd.protocol import messages
from ccexecd.protocol.codec import UNSAID, Seconds, StructureError
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.dispatch import Answer
from ccexecd.service.peer import Peer


def spec_of(engine: Engine, wanted: messages.Execute, framing: messages.Framing, principal: str) -> Spec:
    """What to run, from what a client asked for and the configuration.

    Args:
        engine: whose configuration gives the defaults.
        wanted: the request.
        framing: used where it names none, and there is no terminal, on which lines end when they like.
        principal: who asks, by whose runs a time-out is estimated.

    Raises:
        StructureError: what it asks for does not go together.
    """
    config = engine.config
    terminal = TerminalSize(wanted.pty.cols, wanted.pty.rows) if wanted.pty is not None else None
    if wanted.lane is not None:
        _require_lane(config, wanted.lane)
    argv, display = _command_of(config, wanted)
    timeout, source = _timeout_of(engine, wanted, argv, display, principal)
    return Spec(
        argv=argv,
        display=display,
        shell=wanted.command is not None,
        cwd=wanted.cwd,
        env={str(name): value for name, value in wanted.env.items()},
        unset=wanted.unset,
        timeout=timeout,
        timeout_source=source,
        stall_timeout=wanted.stall_timeout,
        grace=config.process_cleanup_timeout if wanted.grace is None else wanted.grace,
        framing=_framing_of(wanted, framing if terminal is None else "raw"),
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
        once=_once(wanted),
        post_result_grace=(config.post_result_grace if wanted.post_result_grace is None else wanted.post_result_grace),
    )


def _framing_of(wanted: messages.Execute, usual: messages.Framing) -> messages.Framing:
    """How its output is cut; a longest line goes with lines only."""
    framing = wanted.framing or usual
    if framing == "raw" and wanted.max_line_bytes is not None:
        raise StructureError(
            [{"path": "$.max_line_bytes", "error": 'belongs to framing "lines" or "line": raw has none'}]
        )
    return framing


def _command_of(config: Config, wanted: messages.Execute) -> tuple[tuple[str, ...], str]:
    """The words to run, and the command as people read it."""
    if wanted.command is not None:
        return (config.shell or default_shell(), "-c", wanted.command), wanted.command
    words = wanted.argv or ()
    return words, shlex.join(words)


def _timeout_of(
    engine: Engine, wanted: messages.Execute, argv: tuple[str, ...], display: str, principal: str
) -> tuple[Seconds | None, TimeoutSource]:
    """How long it may run, and who says so."""
    if wanted.timeout is not None and wanted.timeout != UNSAID:
        return wanted.timeout, "request"
    config = engine.config
    by_past_runs = wanted.estimate_timeout
    if by_past_runs is None:
        by_past_runs = wanted.timeout is None or config.estimate_timeouts
    if by_past_runs:
        is_shell = wanted.command is not None
        estimated = engine.records.estimates.timeout(principal, argv, display, wanted.cwd, shell=is_shell)
        if estimated is not None:
            return Seconds(estimated), "estimated"
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
    if peer.session is None or wanted.idempotency_key is not None:
        return _execute_later(peer, wanted)
    return _admit(peer, peer.session, spec_of(peer.engine, wanted, peer.manner.framing, peer.principal.name))


async def _execute_later(peer: Peer, wanted: messages.Execute) -> Answer:
    """The same where something has to be waited for: a session, or what is known of an idempotency key."""
    session = await peer.claim_session()
    spec = spec_of(peer.engine, wanted, peer.manner.framing, peer.principal.name)
    if spec.once is None:
        answer = _admit(peer, session, spec)
    else:
        async with peer.engine.repeats.deciding(session.principal, spec.once.key):
            known = await _asked_before(peer.engine, session, spec, spec.once)
            answer = _admit(peer, session, spec) if known is None else _repeated(peer, known)
    return await answer if isinstance(answer, Awaitable) else answer


async def admitted(engine: Engine, session: Session, spec: Spec) -> Execution | PastExecution:
    """The execution that a request means: the one of its key, or else a fresh one.

    Raises:
        AdmissionError: it is not admitted, or its key stands for something else.
    """
    if spec.once is None:
        return engine.admit(session, spec)
    async with engine.repeats.deciding(session.principal, spec.once.key):
        return await _asked_before(engine, session, spec, spec.once) or engine.admit(session, spec)


async def _asked_before(engine: Engine, session: Session, spec: Spec, once: Once) -> Execution | PastExecution | None:
    """The execution that a repeat means; None if it is the first of its key."""
    try:
        return await engine.repeats.find(session.principal, once)
    except AdmissionError as refused:
        engine.gate.refused(session, spec, refused)
        raise


def _admit(peer: Peer, session: Session, spec: Spec) -> Answer | Awaitable[Answer]:
    if peer.manner.one_at_a_time and session.live:
        raise RPCError(ErrorCode.INVALID_PARAMS, "A process is already running")
    execution = peer.engine.admit(session, spec)
    peer.take_place(execution, 0)  # now: it may have written more than the window holds before the reply has gone
    if execution.turn is not None and not peer.manner.one_at_a_time:
        return Answer(_told(execution), then=lambda: peer.begin_watching(execution.id))
    return _started(peer, execution)  # earlier clients know nothing of a queue: they hear of the start


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
    return Answer(_told(execution), then=lambda: peer.begin_watching(execution.id))


async def _repeated(peer: Peer, known: Execution | PastExecution) -> Answer:
    """What is told of an execution that was asked for before; all of its log follows, unless that is being sent."""
    if isinstance(known, Execution):
        if known.state is State.STARTING or (known.turn is not None and peer.manner.one_at_a_time):
            await known.spawned.wait()
        if known.spawn_error is not None:
            raise known.spawn_error
        told = _told(known)
        ended = known.completion(known.outcome) if known.outcome is not None else None
    else:
        described, ended = known.description, known.completion
        told = {"status": "", **{name: described[name] for name in _TOLD}}
    if ended is not None:
        told |= {"status": ended["status"], "outcome": ended}
    return Answer(told, then=lambda: None if peer.is_watching(known.id) else peer.watch(known, 0))


_TOLD = ("execution_id", "session_id", "pid", "pgid", "started_at", "timeout", "timeout_source")
"""What the reply tells of an execution besides its status, of what `status` tells."""


def _told(execution: Execution) -> dict[str, Any]:
    """What the reply tells of an execution that runs or waits."""
    turn = execution.turn
    told = {
        "status": "started" if turn is None else "queued" if turn.position is not None else "held",
        "execution_id": execution.id,
        "session_id": execution.session_id,
        "pid": execution.pid,
        "pgid": execution.pid,
        "started_at": execution.started_at.isoformat() if execution.started_at else None,
        "timeout": execution.spec.timeout,
        "timeout_source": execution.spec.timeout_source,
    }
    return told if turn is None or turn.position is None else {**told, "queue_position": turn.position}


def _once(wanted: messages.Execute) -> Once | None:
    """By what a repeat of a request is known: its key, and all of its params together, but for the environment.

    That holds secrets, of which nothing is to be kept, and not the same ones from one try to the next.
    """
    if wanted.idempotency_key is None:
        return None
    params = attrs.asdict(wanted, filter=lambda field, _: field.name != "idempotency_key")
    params["env"] = {}
    digest = hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Once(wanted.idempotency_key, digest)
