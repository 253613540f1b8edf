"""The scope that the caller of each method needs, at either door.

Owns the one table. Which executions the caller may see or control is decided where it names one (`naming.known`). A
method that is not in the table needs the scope `admin`.
"""

from collections.abc import Mapping

from ccexecd.core.principals import Principal, Scope
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError

SCOPES: Mapping[str, Scope] = {
    "execute": Scope.EXECUTE,
    "control": Scope.EXECUTE,
    "release": Scope.EXECUTE,
    "drop": Scope.EXECUTE,
    "write_stdin": Scope.EXECUTE,
    "close_stdin": Scope.EXECUTE,
    "resize_pty": Scope.EXECUTE,
    "resume_session": Scope.EXECUTE,
    "attach": Scope.OBSERVE,
    "detach": Scope.OBSERVE,
    "read_output": Scope.OBSERVE,
    "wait": Scope.OBSERVE,
    "status": Scope.OBSERVE,
    "list": Scope.OBSERVE,
    "verify": Scope.OBSERVE,
    "receipt": Scope.OBSERVE,
    "estimate": Scope.OBSERVE,
    "history": Scope.OBSERVE,
    "stats": Scope.OBSERVE,
    "prompts_list": Scope.OBSERVE,
    "prompts_show": Scope.OBSERVE,
    "prompts_history": Scope.OBSERVE,
    "prompts_record": Scope.EXECUTE,
    "prompts_count": Scope.EXECUTE,
    "prompts_graduate": Scope.EXECUTE,
    "hook_status": Scope.OBSERVE,
    "pong": Scope.OBSERVE,
    "health": Scope.OBSERVE,
    "version": Scope.OBSERVE,
    "config": Scope.OBSERVE,
    "policy": Scope.OBSERVE,
    "hook_test": Scope.OBSERVE,
    "hook_run": Scope.ADMIN,
    "reload": Scope.ADMIN,
    "stop": Scope.ADMIN,
    "token_show": Scope.ADMIN,
    "token_list": Scope.ADMIN,
    "token_add": Scope.ADMIN,
    "token_rotate": Scope.ADMIN,
    "token_revoke": Scope.ADMIN,
}
"""Method -> the scope that its caller needs."""


def needed(method: str) -> Scope:
    """The scope that the caller of a method needs."""
    return SCOPES.get(method, Scope.ADMIN)


def not_permitted(method: str, principal: Principal) -> RPCError:
    """The error for a caller that lacks the scope of a method."""
    scope = needed(method).value
    return RPCError(
        ErrorCode.NOT_PERMITTED,
        f"{principal.name} may not call {method}: it needs the scope {scope!r}",
        {"scope": scope, "scopes": sorted(each.value for each in principal.scopes)},
    )
