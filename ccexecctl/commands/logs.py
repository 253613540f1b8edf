"""`ccexecctl logs`: print the output of an execution, byte for byte."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from ccexecctl import render
from ccexecctl.arguments import count
from ccexecctl.client import Client, connect_to
from ccexecctl.errors import Exit, RefusedError, UsageError
from ccexecctl.output import Passed, piece_of
from ccexecd.protocol.errors import ErrorCode

DESCRIPTION = """\
Print what an execution has written, byte for byte: its stdout to stdout, its stderr to stderr. With --json: one object
with all pieces, or, when following, one object a line for each piece."""

EXAMPLES = """\
examples:
  ccexecctl logs 1f0c9b2e
  ccexecctl logs 1f0c9b2e --follow
  ccexecctl logs 1f0c9b2e --tail 20 --follow
  ccexecctl logs 1f0c9b2e --stderr --since-seq 1200
"""

FOLLOW_WAIT = 20.0
"""Seconds that one request of `--follow` waits for output. Each answer also shows that the daemon is alive."""

FIRST_STEP = 64
"""Pieces at the end of the log that `--tail` reads first: 4 MiB at most. As long as they hold too few lines, it reads
four times as many."""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments: which execution, and which part of its output."""
    parser.usage = f"{parser.prog} [OPTIONS] ID"
    parser.add_argument(
        "execution_id", metavar="ID", help="an execution id, or 4 or more characters that only it begins with"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the execution has finished")
    parser.add_argument("--stdout", action="store_true", help="only its stdout")
    parser.add_argument("--stderr", action="store_true", help="only its stderr")
    parser.add_argument("-n", "--tail", type=count, metavar="N", help="only the last N lines of what there is by now")
    parser.add_argument("--since-seq", type=count, default=0, metavar="N", help="only pieces from number N on")


def run(arguments: Namespace) -> int:
    """Print the output, from the given position to its end at this moment or, with `--follow`, to its final end."""
    if arguments.tail is not None and (arguments.json or arguments.since_seq):
        raise UsageError("--tail goes neither with --json nor with --since-seq", "ccexecctl logs --help")
    with connect_to(arguments) as client:
        if arguments.json:
            _print_json(client, arguments)
            return Exit.DONE
        output = Passed()
        if arguments.tail is not None:
            pieces, arguments.since_seq = _tail(client, arguments)
            for stream, piece in pieces:
                output.write(stream, piece)
            if not arguments.follow:
                return Exit.DONE
        for answer in _answers(client, arguments):
            for chunk in answer["chunks"]:
                output.write(chunk["type"], piece_of(chunk))
    return Exit.DONE


def _tail(client: Client, arguments: Namespace) -> tuple[list[tuple[str, bytes]], int]:
    """Read the last lines of the output, from its end backwards.

    Returns:
        The pieces, each with its stream; and the number of the log's entry that follows them.
    """
    request = {"execution_id": arguments.execution_id, "streams": _streams(arguments)}
    end = client.call("status", {"execution_id": arguments.execution_id})["next_seq"]
    step = FIRST_STEP
    while True:
        pieces: list[tuple[str, bytes]] = []
        first = position = max(end - step, 0)
        while position < end:
            answer = _read(client, {**request, "from_seq": position}, 0.0)
            pieces += [(chunk["type"], piece_of(chunk)) for chunk in answer["chunks"]]
            if answer["next_seq"] <= position:
                break
            position = answer["next_seq"]
        last, is_enough = _last_lines(pieces, arguments.tail)
        if is_enough or not first:
            return last, position
        step *= 4


def _last_lines(pieces: list[tuple[str, bytes]], lines: int) -> tuple[list[tuple[str, bytes]], bool]:
    """Cut off what precedes the last lines.

    Args:
        pieces: pieces of output, each with its stream, in order.
        lines: how many lines are wanted.

    Returns:
        The pieces with these lines, and whether there were as many.
    """
    kept: list[tuple[str, bytes]] = []
    for stream, piece in reversed(pieces):
        end = len(piece) - (not kept and piece.endswith(b"\n"))  # no line begins after the last line feed
        breaks = piece.count(b"\n", 0, end)
        if breaks >= lines:
            for _ in range(lines):
                end = piece.rindex(b"\n", 0, end)
            return [(stream, piece[end + 1 :]), *reversed(kept)] if lines else [], True
        lines -= breaks
        kept.append((stream, piece))
    return kept[::-1], False


def _streams(arguments: Namespace) -> list[str]:
    both = ["stdout", "stderr"]
    return [name for name in both if getattr(arguments, name)] or both


def _print_json(client: Client, arguments: Namespace) -> None:
    chunks: list[dict[str, Any]] = []
    answer: dict[str, Any] = {}
    for answer in _answers(client, arguments):  # after the loop, the last answer: it has the execution's state
        if arguments.follow:
            for chunk in answer["chunks"]:
                render.show(chunk, [], as_json=True)
        else:
            chunks += answer["chunks"]
    if not arguments.follow:
        render.show({**answer, "chunks": chunks}, [], as_json=True)


def _answers(client: Client, arguments: Namespace) -> Iterator[dict[str, Any]]:
    """Yield the answers of `read_output`, up to the end of the log as it was when this began.

    Without that bound, reading would never end while the program goes on writing. With `--follow`, it goes on until the
    execution has finished.
    """
    wait = FOLLOW_WAIT if arguments.follow else 0.0
    request = {"execution_id": arguments.execution_id, "streams": _streams(arguments), "wait_s": wait}
    known = client.call("status", {"execution_id": arguments.execution_id})
    end = known["next_seq"]
    position, is_over = arguments.since_seq, False
    while not is_over:
        answer = _read(client, {**request, "from_seq": position}, wait)
        oldest, has_begun = answer["oldest_seq"], position != arguments.since_seq
        if oldest > max(position, 1) and (
            has_begun or known.get("dropped_bytes", True)
        ):  # else only entries without output are missing
            render.remark(f"what it wrote before piece {oldest} is no longer kept")
        yield answer
        is_at_end = answer["next_seq"] == position
        if arguments.follow:
            is_over = is_at_end and answer["state"] == "FINISHED"
        else:
            is_over = is_at_end or answer["next_seq"] >= end
        position = answer["next_seq"]


def _read(client: Client, request: dict[str, Any], wait: float) -> dict[str, Any]:
    """Call `read_output`; if the piece that it asks for is no longer kept, from the oldest one that is.

    Args:
        client: the connection.
        request: params of `read_output`.
        wait: seconds that the daemon may wait for output.
    """
    try:
        answer: dict[str, Any] = client.call("read_output", request, extra=wait)
    except RefusedError as error:
        if error.code != ErrorCode.OUTPUT_GONE or not isinstance(error.data, dict):
            raise
        answer = client.call("read_output", {**request, "from_seq": error.data["oldest_seq"]}, extra=wait)
    return answer
