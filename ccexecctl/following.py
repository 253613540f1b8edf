"""Follows one execution: passes its output to ours and our standard input to it, until it ends or we leave.

Owns the loop that `run` and `attach` share. Must not know who asked for the execution, nor how its ending is shown.
"""

from typing import Any

from ccexecctl import render
from ccexecctl.client import Client
from ccexecctl.errors import UnreachableError
from ccexecctl.output import Output, piece_of
from ccexecctl.standard_input import StandardInput


class Following:
    """One execution, followed.

    Args:
        client: a connection on which it is watched.
        output: takes its stdout and stderr.
        source: the standard input to pass on; None for none.
        line_end: line end of remarks to people; a terminal in raw mode needs a carriage return, too.

    Attributes:
        missed_bytes: bytes of output that did not reach us; None if all did.
    """

    def __init__(self, client: Client, output: Output, source: StandardInput | None, line_end: str = "\n") -> None:
        self.missed_bytes: int | None = None
        self._client = client
        self._output = output
        self._source = source
        self._line_end = line_end

    def follow(self, execution_id: str) -> dict[str, Any] | None:
        """Pass on output and input until the execution has ended.

        Args:
            execution_id: its id.

        Returns:
            The params of `process.completed`; None if the detach key was typed.

        Raises:
            UnreachableError: the daemon went away in the middle.
            BrokenPipeError: nobody reads our output any more.
        """
        if self._source is not None:
            self._source.begin(execution_id)
        try:
            while True:
                if not self._is_message_here():
                    if self._source is not None and self._source.is_left:
                        return None
                    continue
                outcome = self._heed(self._client.next_message())
                if outcome is not None:
                    return outcome
        except UnreachableError as error:
            error.message += f", while execution {render.short(execution_id)} was running"
            raise

    def _is_message_here(self) -> bool:
        """Wait for a message or for input to pass on; a flood of either never holds up the other."""
        source = self._source
        if source is None or not source.wants:
            return True
        is_here, can_read = self._client.message_or(source.descriptor)
        if can_read:
            source.read()
        return is_here and not source.is_left

    def _heed(self, message: dict[str, Any]) -> dict[str, Any] | None:
        params: dict[str, Any] = message.get("params", {})
        match message.get("method"):
            case "process.output":
                self._output.write(params["type"], piece_of(params))
            case "process.gap":
                self._miss(params)
            case "process.queued":
                self._remark(f"waits for its turn: position {params['queue_position']}")
            case "process.held":
                self._remark("held since the daemon died: ccexecctl release lets it run, ccexecctl drop ends it")
            case "server.draining":
                self._remark("ccexecd is shutting down")
            case "process.completed":
                return params
            case None if self._source is not None:
                self._source.heard(message)
        return None

    def _remark(self, text: str) -> None:
        render.remark(text, self._line_end)

    def _miss(self, gap: dict[str, Any]) -> None:
        if gap["dropped_bytes"] is None:  # it had gone before we came
            self._remark(f"what it wrote before piece {gap['to_seq'] + 1} is no longer kept")
            return
        if not (gap["dropped_bytes"] or gap.get("dropped_lines")):  # no output: what it was told under another daemon
            return
        if self.missed_bytes is None:
            self._remark("output comes faster than it is read here: some of it is dropped")
        self.missed_bytes = (self.missed_bytes or 0) + gap["dropped_bytes"]
