"""Runs one execution in the foreground: passes its output to ours, our signals to it, and returns its exit code.

Owns the conversation of `ccexecctl run` from the request to the ending, and what our signals mean for the command. Must
not know how the command was asked for.

Signals. A handler of ours runs between two steps of the main thread, also while that waits for the daemon or for a
slow reader of our output. It only sends a request, whose answer nobody waits for: the truth comes as
`process.completed`. The first signal asks for CANCEL, the second for KILL, the third stops waiting.
"""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from ccexecctl import render, terminal
from ccexecctl.client import Client
from ccexecctl.ending import exit_code, explain
from ccexecctl.errors import CtlError, RefusedError
from ccexecctl.following import Following
from ccexecctl.output import Output
from ccexecctl.standard_input import StandardInput
from ccexecd.protocol.errors import ErrorCode

DEEDS = ("CANCEL", "KILL")
"""What the first and the second signal ask for."""

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""A shell's exit codes (POSIX, Shell Command Language, 2.8.2)."""


class AbandonedError(CtlError):
    """A third signal came, so that the ending was not waited for."""

    exit_code = 128 + signal.SIGINT
    name = "ABANDONED"


class Foreground:
    """Runs one command.

    Args:
        client: a connection for this execution alone: when it is closed, the daemon cancels the execution.
        output: takes its stdout and stderr.
        source: the standard input to pass on; None for none.
        on_terminal: whether the command has a terminal, which ours shows.
    """

    def __init__(
        self, client: Client, output: Output, source: StandardInput | None = None, *, on_terminal: bool = False
    ) -> None:
        self._client = client
        self._output = output
        self._on_terminal = on_terminal
        self._following = Following(client, self, source, "\r\n" if on_terminal else "\n")
        self._execution_id = ""
        self._size: dict[str, int] | None = None
        self._signals = 0
        self._is_output_unwanted = False

    def run(self, request: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Execute the command, and wait for its end.

        Args:
            request: params of `execute`.

        Returns:
            All that is known of the execution, and the exit code for ccexecctl.

        Raises:
            RefusedError: it was not started.
            UnreachableError: the daemon went away in the middle.
            SignalledError: our terminal is gone, or a signal has ended us while we had it.
        """
        self._size = request.get("pty")
        with self._forwarded_signals(), terminal.raw(self._resized) if self._on_terminal else nullcontext():
            started = execute(self._client, request)
            self._execution_id = started["execution_id"]
            if self._signals:
                self._pass_on()
            if self._on_terminal:
                self._resized()
            outcome = self._following.follow(self._execution_id) or {}
        if not self._is_output_unwanted:
            explain(self._execution_id, outcome, self._following.missed_bytes)
        return {**started, **outcome}, self._exit_code(outcome)

    def write(self, stream: str, piece: bytes) -> None:
        """Pass on a piece of output, as long as our own output has a reader."""
        if self._is_output_unwanted:
            return
        try:
            self._output.write(stream, piece)
        except BrokenPipeError:  # `ccexecctl run ... | head`: the command ends as it would have by SIGPIPE
            self._is_output_unwanted = True
            self._ask_for("CANCEL")

    def _exit_code(self, outcome: dict[str, Any]) -> int:
        if self._is_output_unwanted:
            return 128 + signal.SIGPIPE
        return exit_code(outcome, is_incomplete=self._following.missed_bytes is not None)

    def _resized(self) -> None:
        """Send the size of our terminal, which may have changed; nothing to do before there is an execution."""
        size = terminal.size()
        if self._execution_id and size != self._size:
            self._size = size
            self._client.send("resize_pty", {"execution_id": self._execution_id, **size})

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
            which = f"execution {render.short(self._execution_id)}"
            raise AbandonedError(f"did not wait for the end of {which}", "what is left of it: ccexecctl ps")
        self._ask_for(DEEDS[self._signals - 1])

    def _ask_for(self, deed: str) -> None:
        self._client.send("control", {"type": deed, "execution_id": self._execution_id})


def execute(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    """Send `execute`, and return the answer.

    Args:
        client: a connection.
        request: params of `execute`.

    Raises:
        RefusedError: it was not started; if the kernel refused, with the exit code that a shell has for that.
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
    """Complete the error of a failed start: name what could not be used as the user wrote it, and set the exit code."""
    why = str(data.get("strerror", "")).lower()
    match data.get("subject"):
        case "program":
            error.message = f"cannot run {request['argv'][0] if request['argv'] else 'the shell'}: {why}"
            error.exit_code = NOT_FOUND if data.get("errno") == errno.ENOENT else NOT_EXECUTABLE
        case "cwd":
            error.message = f"cannot run in {request['cwd']}: {why}"
