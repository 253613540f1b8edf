"""The errors of ccexecctl, and the exit code of each.

Owns the exit codes and the exceptions that carry one. Raised anywhere, printed in one place only: `__main__`.
Must not print, and must not know any verb.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

from ccexecd.protocol.errors import ErrorCode


class Exit(IntEnum):
    """Exit codes of all verbs, of which `run` and `attach` also return the command's own.

    The numbers are those of LSB: 2 for wrong arguments, 3 for a service that does not run, 4 for a lack of permission.
    """

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    NOT_PERMITTED = 4


WHO_MAY = "only root, the user that ccexecd runs as and the groups of its configuration may; try sudo"
"""Hint for a user whom the daemon does not permit something."""

HINTS = {
    ErrorCode.PROCESS_NOT_FOUND: "every id that is known: ccexecctl ps --all",
    ErrorCode.AMBIGUOUS_EXECUTION: "give more characters of the id: ccexecctl ps --all",
    ErrorCode.INVALID_STATE: "what state it is in: ccexecctl ps --all",
    ErrorCode.DRAINING: "ccexecd is shutting down; once it has stopped: ccexecctl start",
    ErrorCode.NOT_PERMITTED: WHO_MAY,
    ErrorCode.METHOD_NOT_FOUND: "daemon and ccexecctl may be of different versions: ccexecctl version",
    ErrorCode.COMMAND_NOT_ALLOWED: "what is allowed: ccexecctl policy show; why this is not: ccexecctl policy test",
    ErrorCode.AUDIT_UNAVAILABLE: "what is wrong with it: ccexecctl status --json; it needs room on its disk",
    ErrorCode.HISTORY_UNAVAILABLE: "what is wrong with it: ccexecctl status; what runs: ccexecctl ps",
    ErrorCode.CONFIG_INVALID: "the running configuration is unchanged; check the file with: ccexecctl config validate",
}
"""Hints for errors of the daemon, by their code."""

OF_HOOKS = "which hooks it meets: ccexecctl hooks test -- COMMAND; what came of them: ccexecctl hooks list"
"""Hint for a command that a hook refused, about which `ccexecctl policy` knows nothing."""


class CtlError(Exception):
    """An error that is told to the user.

    Args:
        message: what failed, which object, and why: one sentence without a full stop.
        hint: what to do about it; empty if that is not known.

    Attributes:
        exit_code: exit code of ccexecctl, by class.
        name: the error's name for `--json`, by class.
        facts: further fields for `--json`.
    """

    exit_code: int = Exit.FAILED
    name = "FAILED"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.add_note(f"hint: {hint}")  # for tracebacks
        self.message = message
        self.hint = hint
        self.facts: dict[str, Any] = {}

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints under `error`, in place of a result."""
        told = {"name": self.name, "message": self.message, "hint": self.hint, "exit_code": int(self.exit_code)}
        return told | self.facts


class UsageError(CtlError):
    """A command line, or arguments of the Python API, that are wrong or do not go together."""

    exit_code = Exit.USAGE
    name = "USAGE"


class NotRunningError(CtlError):
    """No daemon is behind the control socket."""

    exit_code = Exit.NOT_RUNNING
    name = "NOT_RUNNING"


class NotPermittedError(CtlError):
    """The daemon does not admit this user or token, or this user may not signal the daemon."""

    exit_code = Exit.NOT_PERMITTED
    name = "NOT_PERMITTED"


class UnreachableError(CtlError):
    """A daemon was found, but it does not answer, its answers make no sense, or the connection was lost."""

    name = "UNREACHABLE"


def invalid(what: str, problems: Iterable[str]) -> CtlError:
    """Make an error about something that is not valid, such as a file.

    Args:
        what: its name.
        problems: what is wrong with it; each becomes a line of the message.
    """
    return CtlError("\n  ".join([f"{what} is not valid", *problems]))


class RefusedError(CtlError):
    """The daemon answered with an error.

    Args:
        body: the `error` object of the answer.

    Attributes:
        code: its code.
        data: its data; None if it has none.
    """

    def __init__(self, body: dict[str, Any]) -> None:
        self.code = body.get("code")
        self.data = body.get("data")
        known = next((each for each in ErrorCode if each == self.code), None)
        self.name = known.name if known else f"ERROR {self.code}"
        if known is ErrorCode.NOT_PERMITTED:
            self.exit_code = Exit.NOT_PERMITTED
        message = str(body.get("message", "refused without a reason"))
        problems = list(_problems(self.data))
        if known is ErrorCode.INVALID_PARAMS and problems:  # the message has the same problems, less readable
            lines = [line for line, _ in problems]
        else:
            lines = [message, *(line for line, problem in problems if problem not in message)]
        is_of_hook = known is ErrorCode.COMMAND_NOT_ALLOWED and message.startswith("hook ")
        super().__init__("\n  ".join(lines), OF_HOOKS if is_of_hook else HINTS.get(known, "") if known else "")

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints under `error`, with the daemon's own code and data."""
        return {**super().as_json(), "code": self.code, "data": self.data}


def _problems(data: Any) -> Iterator[tuple[str, str]]:
    """Yield a line for each entry of `[{path, error, source?}]` (invalid params or configuration), and its `error`."""
    for each in data if isinstance(data, list) else []:
        if isinstance(each, dict) and "error" in each:
            place = str(each.get("path", "")).removeprefix("$").removeprefix(".")
            source = f" ({each['source']})" if each.get("source") else ""
            yield f"{place}: {each['error']}{source}" if place else f"{each['error']}{source}", each["error"]
