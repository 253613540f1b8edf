"""The method `execute`: from a request to an execution that runs, or waits for its turn.

Owns making a `Spec` of a request, and the reply. Must not decide whether anything may run: the engine does.
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
    """Make the spec of an execution from a request and the configuration.

    Args:
        engine: its configuration gives the defaults, and its past runs an estimated time-out.
        wanted: the request.
        framing: the framing if the request names none. With a terminal, that is `raw` instead.
        principal: name of the caller, whose own past runs count for the estimate.

    Raises:
        StructureError: params of the request exclude each other, or its lane is not configured.
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
    """How the output is cut into entries. Raises StructureError for `max_line_bytes` with `raw`, which has no lines."""
    framing = wanted.framing or usual
    if framing == "raw" and wanted.max_line_bytes is not None:
        raise StructureError(
            [{"path": "$.max_line_bytes", "error": 'belongs to framing "lines" or "line": raw has none'}]
        )
    return framing


def _command_of(config: Config, wanted: messages.Execute) -> tuple[tuple[str, ...], str]:
    """The words to run, and the command as it is shown to people."""
    if wanted.command is not None:
        return (config.shell or default_shell(), "-c", wanted.command), wanted.command
    words = wanted.argv or ()
    return words, shlex.join(words)


def _timeout_of(
    engine: Engine, wanted: messages.Execute, argv: tuple[str, ...], display: str, principal: str
) -> tuple[Seconds | None, TimeoutSource]:
    """How long it may run in seconds, None for no limit, and where that comes from."""
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
    """Refuse a lane that is not configured: a misspelt name must not escape a limit."""
    limits = config.lane_limits()
    if lane not in limits:
        known = ", ".join(limits) or "none"
        raise StructureError([{"path": "$.lane", "error": f"there is no such lane; the key lanes names {known}"}])


def execute(peer: Peer, wanted: messages.Execute) -> Answer | Awaitable[Answer]:
    """`execute`: start a command; answered when it runs, could not be started, or has to wait for its turn."""
    if peer.session is None or wanted.idempotency_key is not None:
        return _execute_later(peer, wanted)
    return _admit(peer, peer.session, spec_of(peer.engine, wanted, peer.manner.framing, peer.principal.name))


async def _execute_later(peer: Peer, wanted: messages.Execute) -> Answer:
    """`execute` where there is no session yet, or an idempotency key has to be looked up."""
    session = await peer.claim_session()
    spec = spec_of(peer.engine, wanted, peer.manner.framing, peer.principal.name)
    if spec.once is None:
        answer = _admit(peer, session, spec)
    else:
        async with peer.engine.idempotency_keys.locked(session.principal, spec.once.key):
            known = await _asked_before(peer.engine, session, spec, spec.once)
            answer = _admit(peer, session, spec) if known is None else _repeated(peer, known)
    return await answer if isinstance(answer, Awaitable) else answer


async def admitted(engine: Engine, session: Session, spec: Spec) -> Execution | PastExecution:
    """The execution that a request stands for: the one that its idempotency key names, or else a new one.

    Raises:
        AdmissionError: it is not admitted, or its key was used for another request.
        HistoryUnavailableError: the key has to be looked up in the history, which cannot be read now.
    """
    if spec.once is None:
        return engine.admit(session, spec)
    async with engine.idempotency_keys.locked(session.principal, spec.once.key):
        return await _asked_before(engine, session, spec, spec.once) or engine.admit(session, spec)


async def _asked_before(engine: Engine, session: Session, spec: Spec, once: Once) -> Execution | PastExecution | None:
    """The execution that an idempotency key stands for already; None if this is its first request."""
    try:
        return await engine.idempotency_keys.find(session.principal, once)
    except AdmissionError as refused:
        engine.gate.refused(session, spec, refused)
        raise


def _admit(peer: Peer, session: Session, spec: Spec) -> Answer | Awaitable[Answer]:
    if peer.manner.one_at_a_time and session.live:
        raise RPCError(ErrorCode.INVALID_PARAMS, "A process is already running")
    execution = peer.engine.admit(session, spec)
    peer.take_place(execution, 0)  # now: before the reply is sent, it may write more than the window holds
    if execution.turn is not None and not peer.manner.one_at_a_time:
        return Answer(_told(execution), then=lambda: peer.begin_watching(execution.id))
    return _started(peer, execution)  # clients of the earlier protocol know no queue: they are answered at the start


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
    """The reply to a repeated request; the whole log follows, unless this client is watching the execution already."""
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
"""Fields of an execution's description that the reply has, besides its status."""


def _told(execution: Execution) -> dict[str, Any]:
    """The reply about an execution that runs, or waits for its turn."""
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
    """How a repeat of this request is recognised: its idempotency key, and a digest of its params. None without a key.

    The environment is left out of the digest: it holds secrets, of which nothing is kept, and which may differ from one
    try to the next.
    """
    if wanted.idempotency_key is None:
        return None
    params = attrs.asdict(wanted, filter=lambda field, _: field.name != "idempotency_key")
    params["env"] = {}
    digest = hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Once(wanted.idempotency_key, digest)
