"""What is said to whoever names an execution that cannot be told.

Owns the words and the code of that refusal. People name executions by the beginnings of their ids, so it tells one that
is too short, and one that several have, from one that is not there.
"""

from ccexecd.engine import PREFIX_LENGTH
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.peer import Peer

_SHOWN = 64
"""Characters of a name that are repeated: an id has 36."""


def unnamed(peer: Peer, name: str) -> RPCError:
    """Why no execution is meant by a name.

    Args:
        peer: whoever asks; there is none by it that is there for that one.
        name: as the caller gave it.
    """
    shown = repr(name[:_SHOWN])
    if not peer.manner.prefixes:
        return RPCError(ErrorCode.PROCESS_NOT_FOUND, f"no execution {shown}; `list` tells the ones that are known")
    if len(name) < PREFIX_LENGTH:
        return RPCError(
            ErrorCode.PROCESS_NOT_FOUND,
            f"no execution {shown}: the beginning of an id has at least {PREFIX_LENGTH} characters",
        )
    matching = [known for known, one in peer.engine.executions.items() if known.startswith(name) and peer.sees(one)]
    if matching:
        return RPCError(
            ErrorCode.AMBIGUOUS_EXECUTION,
            f"ambiguous: {len(matching)} executions begin with {shown}",
            {"executions": matching},
        )
    return RPCError(ErrorCode.PROCESS_NOT_FOUND, f"no execution {shown}")
