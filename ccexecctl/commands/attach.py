"""`ccexecctl attach`: follow an execution that runs already."""

from argparse import ArgumentParser, Namespace
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ccexecctl import render, terminal
from ccexecctl.client import Client, connect_to
from ccexecctl.ending import exit_code, explain
from ccexecctl.errors import Exit, RefusedError
from ccexecctl.following import Following
from ccexecctl.output import Collected, Output, Passed
from ccexecctl.standard_input import StandardInput
from ccexecctl.steering import add_id
from ccexecd.protocol.errors import ErrorCode

DESCRIPTION = f"""\
Show what an execution writes from now on, until it ends; the exit code is the command's own. From a terminal, our
keys go to it if it has a terminal or an open standard input; {terminal.DETACH_NAME} leaves it running (exit 0).
Where no keys go to it, Ctrl-C leaves it running."""

EXAMPLES = """\
examples:
  ccexecctl attach 1f0c9b2e
  ccexecctl attach 1f0c9b2e --since-seq 0       all that is kept, and on
"""


def configure(parser: ArgumentParser) -> None:
    """Add the execution, and where in its output to begin."""
    add_id(parser)
    parser.add_argument("--since-seq", type=int, metavar="N", help="from piece number N on (0: from the start)")


def run(arguments: Namespace) -> int:
    """Follow the execution. Returns its own exit code, or 0 if it is left running."""
    with connect_to(arguments) as client:
        known = client.call("status", {"execution_id": arguments.execution_id})
        if not arguments.json:
            takes_keys = terminal.is_terminal() and known["state"] != "FINISHED"
            return _Attachment(client, known, Passed(), takes_keys=takes_keys).stay(arguments.since_seq)[1]
        output = Collected()
        outcome, code = _Attachment(client, known, output, takes_keys=False).stay(arguments.since_seq)
        render.show({"execution_id": known["execution_id"], **outcome, **output.texts()}, [], as_json=True)
        return code


class _Attachment:
    """Follows one execution.

    Args:
        client: the connection to the daemon.
        known: the daemon's description of the execution.
        output: takes its stdout and stderr.
        takes_keys: whether our standard input is a terminal whose keys are passed on.
    """

    def __init__(self, client: Client, known: dict[str, Any], output: Output, *, takes_keys: bool) -> None:
        self._client = client
        self._id: str = known["execution_id"]
        self._on_terminal = takes_keys and known["pty"] is not None
        takes_lines = takes_keys and known["stdin"] == "open"
        self._source = (
            StandardInput(client, may_detach=True, ends=not self._on_terminal)
            if self._on_terminal or takes_lines
            else None
        )
        self._following = Following(client, output, self._source, "\r\n" if self._on_terminal else "\n")

    def stay(self, since: int | None) -> tuple[dict[str, Any], int]:
        """Follow the execution until it has ended, or the detach key is typed.

        Args:
            since: `seq` of the first entry to show; None for new ones only.

        Returns:
            The params of `process.completed`, empty if it goes on; and the exit code for ccexecctl.
        """
        if self._source is not None:
            render.remark(f"attached to execution {render.short(self._id)}; {terminal.DETACH_NAME} leaves it running")
        answer = self._attach(since)
        if answer["state"] == "FINISHED" and (since is None or since >= answer["next_seq"]):  # nothing will come
            outcome: dict[str, Any] | None = self._client.call("wait", {"execution_id": self._id})
        else:
            with self._mode():
                if self._on_terminal:
                    self._redraw()
                outcome = self._following.follow(self._id)
        if outcome is None:
            self._leave()
            return {}, Exit.DONE
        missed = self._following.missed_bytes
        explain(self._id, outcome, missed)
        return outcome, exit_code(outcome, is_incomplete=missed is not None)

    def _attach(self, since: int | None) -> dict[str, Any]:
        request = {"execution_id": self._id, "from_seq": since}
        try:
            answer: dict[str, Any] = self._client.call("attach", request)
        except RefusedError as error:
            if error.code != ErrorCode.OUTPUT_GONE:
                raise
            answer = self._client.call("attach", {**request, "from_seq": 0})  # what is missing is told as a gap
        return answer

    def _mode(self) -> AbstractContextManager[None]:
        if self._on_terminal:
            return terminal.raw(self._resized)
        return terminal.by_line() if self._source is not None else nullcontext()

    def _resized(self) -> None:
        self._client.send("resize_pty", {"execution_id": self._id, **terminal.size()})

    def _redraw(self) -> None:
        """Have the program draw its screen again, as it does when the size changes: to another one, and back."""
        size = terminal.size()
        another = {**size, "rows": size["rows"] - 1 or 2}
        self._client.send("resize_pty", {"execution_id": self._id, **another})
        self._resized()

    def _leave(self) -> None:
        if self._on_terminal:
            terminal.leave_screen()
        render.remark(f"left execution {render.short(self._id)} running")
