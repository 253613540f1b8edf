"""Which execution is meant by a name, in memory or in the past.

Owns the way from a name to an execution, and the words and the code of the refusal where there is none. People name
executions by the beginnings of their ids, so it tells one that is too short, and one that several have, from one that
is not there.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ccexecd.engine import PREFIX_LENGTH, Execution, HistoryUnavailableError, PastExecution
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.peer import Peer
from ccexecd.service.recording import Undecided

R = TypeVar("R")

_SHOWN = 64
"""Characters of a name that are repeated: an id has 36."""


def upon(peer: Peer, name: str, deed: Callable[[Execution | PastExecution], R | Awaitable[R]]) -> R | Awaitable[R]:
    """Do something with the execution of a name: at once where it is in memory, else when the history has told of it.

    Args:
        peer: who names it.
        name: its id or, where the peer may, the beginning of it.
        deed: what to do.

    Raises:
        RPCError: none is meant; by what is awaited.
    """
    execution = peer.find(name)
    if execution is not None and execution.id == name:
        return deed(execution)

    async def decide() -> R | Awaitable[R]:
        found = await known(peer, name)
        undecided.about = found.id
        return deed(found)

    undecided = Undecided(decide())
    return undecided


async def known(peer: Peer, name: str) -> Execution | PastExecution:
    """The execution of a name.

    Raises:
        RPCError: none is meant by it.
        HistoryUnavailableError: none in memory is, and what is in the past cannot be told now.
    """
    execution = peer.find(name)
    if execution is not None and execution.id == name:
        return execution
    past: list[PastExecution] = []
    try:
        past = [each for each in await peer.recall(name) if each.id not in peer.engine.executions]
    except HistoryUnavailableError:
        if not _beginning(peer, name):  # else one in memory is meant: nobody is kept from what runs by a disk
            raise
    found: list[Execution | PastExecution] = [*_beginning(peer, name).values(), *past]
    if len(found) != 1:
        raise unnamed(peer, name, past)
    return found[0]


def _beginning(peer: Peer, name: str) -> dict[str, Execution]:
    """The executions in memory whose ids begin so, and that are there for somebody who may name them by that."""
    if not peer.manner.prefixes or len(name) < PREFIX_LENGTH:
        return {}
    every = peer.engine.executions.items()
    return {known: each for known, each in every if known.startswith(name) and peer.sees(each)}


def unnamed(peer: Peer, name: str, past: Sequence[PastExecution] = ()) -> RPCError:
    """Why no execution is meant by a name.

    Args:
        peer: who gave it; there is none by it that is there for that one.
        name: as given.
        past: those that the history knows by it, and that are there for that one.
    """
    shown = repr(name[:_SHOWN])
    if not peer.manner.prefixes:
        return RPCError(ErrorCode.PROCESS_NOT_FOUND, f"no execution {shown}; `list` tells the ones that are known")
    if len(name) < PREFIX_LENGTH:
        return RPCError(
            ErrorCode.PROCESS_NOT_FOUND,
            f"no execution {shown}: the beginning of an id has at least {PREFIX_LENGTH} characters",
        )
    matching = [*_beginning(peer, name), *(each.id for each in past)]
    if matching:
        return RPCError(
            ErrorCode.AMBIGUOUS_EXECUTION,
            f"ambiguous: {len(matching)} executions begin with {shown}",
            {"executions": matching},
        )
    return RPCError(ErrorCode.PROCESS_NOT_FOUND, f"no execution {shown}")
