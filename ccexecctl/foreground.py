"""One execution in the foreground: its output is ours, our signals are its, its exit code is ours.

Owns the conversation of `ccexecctl run` from the request to the ending. Must not know how the command was asked for.

Signals. A handler of ours runs between two steps of the main thread, also while that waits for the daemon or for a
slow reader of our output. It only sends a request, whose answer nobody waits for: the truth comes as
`process.completed`. The first signal asks for CANCEL, the second for KILL, the third stops waiting.
"""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ccexecctl import render
from ccexecctl.client import Client
from ccexecctl.errors import CtlError, Exit, RefusedError, UnreachableError
from ccexecctl.output import Output, piece_of
from ccexecd.protocol.errors import ErrorCode

DEEDS = ("CANCEL", "KILL")
"""What the first and the second signal ask for."""

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""A shell's exit codes (POSIX, Shell Command Language, 2.8.2)."""

OWN_ENDINGS = {"exited", "signaled", "post_result"}
"""Reasons that need no explanation: the command, or who signalled it, decided."""

EXPLANATIONS = {
    "timeout": "ended by its time-out",
    "stalled": "ended because it wrote nothing for too long",
    "cancelled": "cancelled",
    "disconnected": "ended because its client went away",
    "session_expired": "ended because its session expired",
    "shutdown": "ended by the shutdown of ccexecd",
    "limit": "ended by a limit on its resources",
    "lost": "lost: how it ended is not known",
    "spawn_failed": "could not be started",
}


class AbandonedError(CtlError):
    """We were told three times to go, and did not wait for the ending."""

    exit_code = 128 + signal.SIGINT
    name = "ABANDONED"


class Foreground:
    """Runs one command.

    Args:
        client: a connection for this execution alone, for when it ends the daemon cancels the execution.
        output: where stdout and stderr go.
    """

    def __init__(self, client: Client, output: Output) -> None:
        self._client = client
        self._output = output
        self._execution_id = ""
        self._signals = 0
        self._is_output_unwanted = False
        self._is_output_incomplete = False
        self._missed_bytes = 0

    def run(self, request: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Execute, and stay until the end.

        Args:
            request: params of `execute`.

        Returns:
            All that is known of the execution, and the exit code for us.

        Raises:
            RefusedError: it was not started.
            UnreachableError: the daemon went away in the middle.
        """
        with self._forwarded_signals():
            started = execute(self._client, request)
            self._execution_id = started["execution_id"]
            if self._signals:
                self._pass_on()
            try:
                outcome = self._watch()
            except UnreachableError as error:
                error.message += f", while {self._short_id} was running"
                raise
        self._explain(outcome)
        return {**started, **outcome}, self._exit_code(outcome)

    @property
    def _short_id(self) -> str:
        return f"execution {render.short(self._execution_id)}"

    def _watch(self) -> dict[str, Any]:
        """Hand on output until the execution has ended."""
        while True:
            message = self._client.next_message()
            params = message.get("params", {})
            match message.get("method"):
                case "process.output":
                    self._write(params["type"], piece_of(params))
                case "process.gap":
                    self._miss(params["dropped_bytes"] or 0)
                case "server.draining":
                    render.remark("ccexecd is shutting down")
                case "process.completed":
                    outcome: dict[str, Any] = params
                    return outcome

    def _write(self, stream: str, piece: bytes) -> None:
        if self._is_output_unwanted:
            return
        try:
            self._output.write(stream, piece)
        except BrokenPipeError:  # `ccexecctl run ... | head`: the command ends as it would have by SIGPIPE
            self._is_output_unwanted = True
            self._ask_for("CANCEL")

    def _miss(self, count: int) -> None:
        if not self._is_output_incomplete:
            render.remark("output comes faster than it is read here: some of it is dropped")
        self._is_output_incomplete = True
        self._missed_bytes += count

    def _exit_code(self, outcome: dict[str, Any]) -> int:
        if self._is_output_unwanted:
            return 128 + signal.SIGPIPE
        code = exit_code(outcome)
        # 0 tells a script that it has the output, all of it.
        return Exit.FAILED if code == 0 and self._is_output_incomplete else code

    def _explain(self, outcome: dict[str, Any]) -> None:
        reason = outcome.get("reason")
        if reason not in OWN_ENDINGS and not self._is_output_unwanted:
            render.remark(f"{self._short_id} was {EXPLANATIONS.get(str(reason), str(reason))}")
        if self._is_output_incomplete:
            render.remark(f"{self._short_id} wrote {render.size(self._missed_bytes)} that are missing here")
        if outcome.get("leftovers"):
            render.remark(f"{self._short_id} left processes behind, which were ended: {outcome['leftovers']}")

    @contextmanager
    def _forwarded_signals(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, action in before.items():
            if action is not signal.SIG_IGN:  # a shell starts its background jobs deaf to Ctrl-C: so they stay
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._execution_id:  # else it is being started, and `run` passes the signal on as soon as there is an id
            self._pass_on()

    def _pass_on(self) -> None:
        if self._signals > len(DEEDS):
            raise AbandonedError(f"did not wait for the end of {self._short_id}", "what is left of it: ccexecctl ps")
        self._ask_for(DEEDS[self._signals - 1])

    def _ask_for(self, deed: str) -> None:
        self._client.send("control", {"type": deed, "execution_id": self._execution_id})


def execute(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    """Ask for an execution.

    Raises:
        RefusedError: it was not started; when the kernel refused, with a shell's exit code for that.
    """
    try:
        started: dict[str, Any] = client.call("execute", request)
    except RefusedError as error:
        if error.code == ErrorCode.SPAWN_FAILED and isinstance(error.data, dict):
            _explain_spawn_failure(error, error.data, request)
        elif error.code == ErrorCode.COMMAND_NOT_ALLOWED and isinstance(error.data, dict):  # names of the environment
            error.hint = "run it in the daemon's environment instead of this one: ccexecctl run --no-env"
        raise
    return started


def _explain_spawn_failure(error: RefusedError, data: dict[str, Any], request: dict[str, Any]) -> None:
    """Name what could not be used, which only we know as the user wrote it, and choose the exit code."""
    why = str(data.get("strerror", "")).lower()
    match data.get("subject"):
        case "program":
            error.message = f"cannot run {request['argv'][0] if request['argv'] else 'the shell'}: {why}"
            error.exit_code = NOT_FOUND if data.get("errno") == errno.ENOENT else NOT_EXECUTABLE
        case "cwd":
            error.message = f"cannot run in {request['cwd']}: {why}"


def exit_code(outcome: dict[str, Any]) -> int:
    """The exit code of a shell for this ending.

    Never 0 unless the command itself exited with 0 and nothing else ended it: a command that answers TERM with a clean
    exit has not done what it was asked for.
    """
    code = outcome.get("exit_code")
    if code is None or (code == 0 and outcome.get("reason") not in OWN_ENDINGS):
        return Exit.FAILED
    return 128 - code if code < 0 else int(code)
