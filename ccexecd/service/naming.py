"""What is said to whoever names an execution that cannot be told.

Owns the words and the code of that refusal. People name executions by the beginnings of their ids, so it tells one that
is too short, and one that several have, from one that is not there.
"""

from ccexecd.engine import PREFIX_LENGTH, Engine
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError

_SHOWN = 64
"""Characters of a name that are repeated: an id has 36."""


def unnamed(engine: Engine, name: str, *, prefix: bool) -> RPCError:
    """Why no execution is meant by a name.

    Args:
        engine: which found none by it.
        name: as the caller gave it.
        prefix: whether the caller may give the beginning of an id.
    """
    shown = repr(name[:_SHOWN])
    if not prefix:
        return RPCError(ErrorCode.PROCESS_NOT_FOUND, f"no execution {shown}; `list` tells the ones that are known")
    if len(name) < PREFIX_LENGTH:
        return RPCError(
            ErrorCode.PROCESS_NOT_FOUND,
            f"no execution {shown}: the beginning of an id has at least {PREFIX_LENGTH} characters",
        )
    matching = [known for known in engine.executions if known.startswith(name)]
    if matching:
        return RPCError(
            ErrorCode.AMBIGUOUS_EXECUTION,
            f"ambiguous: {len(matching)} executions begin with {shown}",
            {"executions": matching},
        )
    return RPCError(ErrorCode.PROCESS_NOT_FOUND, f"no execution {shown}")
