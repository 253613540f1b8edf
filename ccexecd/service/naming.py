"""Finds the execution that a caller has named, in memory or in the history.

Owns the way from a name to an execution, and the error if there is none. Operators may name an execution by the
beginning of its id; the error then tells a beginning that is too short or ambiguous from one that no id has.
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
"""Characters of a name that an error repeats: an id has 36."""


def call_with_execution(
    peer: Peer, name: str, deed: Callable[[Execution | PastExecution], R | Awaitable[R]]
) -> R | Awaitable[R]:
    """Call a function with the execution that was named: at once if it is in memory, else once the history was asked.

    Args:
        peer: the caller.
        name: an id or, if the caller may use that, its beginning.
        deed: the function.

    Returns:
        What `deed` returns; an awaitable of that if the history has to be asked. It raises `RPCError` if the name
        stands for no execution, or for several.
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
    """The execution that a caller names, in memory or in the history.

    Args:
        peer: the caller.
        name: an id or, if the caller may use that, its beginning.

    Raises:
        RPCError: the name stands for no execution that the caller may see, or for several.
        HistoryUnavailableError: none in memory has that name, and the history cannot be read now.
    """
    execution = peer.find(name)
    if execution is not None and execution.id == name:
        return execution
    past: list[PastExecution] = []
    try:
        past = [each for each in await peer.recall(name) if each.id not in peer.engine.executions]
    except HistoryUnavailableError:
        if not _beginning(peer, name):  # one in memory will do: a failing disk must keep nobody from what runs
            raise
    found: list[Execution | PastExecution] = [*_beginning(peer, name).values(), *past]
    if len(found) != 1:
        raise unnamed(peer, name, past)
    return found[0]


def _beginning(peer: Peer, name: str) -> dict[str, Execution]:
    """The executions in memory, visible to the caller, whose ids begin like that; none if it may not use beginnings."""
    if not peer.manner.prefixes or len(name) < PREFIX_LENGTH:
        return {}
    every = peer.engine.executions.items()
    return {known: each for known, each in every if known.startswith(name) and peer.sees(each)}


def unnamed(peer: Peer, name: str, past: Sequence[PastExecution] = ()) -> RPCError:
    """The error for a name that does not stand for one execution.

    Args:
        peer: the caller.
        name: the name as given.
        past: the executions in the history, visible to the caller, that it could stand for.
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
