"""A stand-in for the model's API: POST /v1/messages as the Claude Code command line uses it, and nothing more.

A test says beforehand how a prompt is answered, one turn for each request of the conversation:

    api.answers["Say hello"] = [Text(["Hello", " there"])]
    api.answers["List it"] = [Bash("ls"), Text(["Done."])]

Standard library only, in threads of the test's process. Must not know which program asks.
"""

import itertools
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ids = itertools.count(1)


@dataclass(frozen=True)
class Text:
    """An answer in pieces, so many a second."""

    pieces: Sequence[str]
    per_second: float = float("inf")


@dataclass(frozen=True)
class Bash:
    """The wish to have a command run by the Bash tool."""

    command: str


@dataclass(frozen=True)
class Hang:
    """No answer, not even a beginning of one, for as long as the client waits."""


@dataclass(frozen=True)
class Failure:
    """An HTTP error."""

    status: int
    kind: str
    message: str


Turn = Text | Bash | Hang | Failure


class Api:
    """What is served.

    Attributes:
        url: its address, for ANTHROPIC_BASE_URL.
        answers: the turns for each prompt; a prompt is recognised wherever it stands in the user's messages.
        asked: the prompts that have been asked, one for each request.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Sequence[Turn]] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()

    def turn_for(self, request: dict[str, Any]) -> Turn:
        """What a request is answered with: as many turns have passed as the assistant has spoken."""
        messages = request["messages"]
        said = "\n".join(_texts(message["content"]) for message in messages if message["role"] == "user")
        prompt = next((prompt for prompt in self.answers if prompt in said), None)
        if prompt is None:
            return Failure(400, "invalid_request_error", f"the test has no answer to {said[-200:]!r}")
        self.asked.append(prompt)
        turns = self.answers[prompt]
        return turns[min(sum(message["role"] == "assistant" for message in messages), len(turns) - 1)]


@contextmanager
def serve() -> Iterator[Api]:
    """Serve on a free port of the loopback interface."""
    server = _Server(("127.0.0.1", 0), _Exchange)
    api = server.api
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        api.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
    assert not server.faults, f"the stand-in API itself failed: {server.faults}"


class _Server(ThreadingHTTPServer):
    """A thread for each request.

    Attributes:
        faults: exceptions that are no client's doing.
    """

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.api = Api(f"http://127.0.0.1:{self.server_port}")
        self.faults: list[BaseException | None] = []

    def handle_error(self, *_: object) -> None:
        """Keep what was raised, but for clients that go in the middle of an answer: those are what is tested."""
        if not isinstance(sys.exception(), OSError):
            self.faults.append(sys.exception())


class _Exchange(BaseHTTPRequestHandler):
    """One request and its answer; the end of the connection is the end of the body."""

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def do_HEAD(self) -> None:
        """Some versions look whether anybody is there."""
        self._begin(200, "application/json")

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.partition("?")[0] != "/v1/messages":
            self._fail(Failure(404, "not_found_error", self.path))
            return
        match self.server.api.turn_for(request):
            case Hang():
                self.server.api.closing.wait()
            case Failure() as failure:
                self._fail(failure)
            case turn if request.get("stream"):
                self._begin(200, "text/event-stream")
                for event in _events(turn, request["model"], self.server.api.closing):
                    self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            case turn:
                self._begin(200, "application/json")
                self.wfile.write(json.dumps({**_message(request["model"]), **_whole(turn)}).encode())

    def _fail(self, failure: Failure) -> None:
        self._begin(failure.status, "application/json")
        error = {"type": "error", "error": {"type": failure.kind, "message": failure.message}}
        self.wfile.write(json.dumps(error).encode())

    def _begin(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()


def _texts(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")


def _message(model: str) -> dict[str, Any]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    head = {"id": f"msg_{next(_ids)}", "type": "message", "role": "assistant", "model": model}
    return {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def _block(turn: Text | Bash) -> dict[str, Any]:
    """A content block, as it is before anything has been streamed into it."""
    if isinstance(turn, Text):
        return {"type": "text", "text": ""}
    return {"type": "tool_use", "id": f"toolu_{next(_ids)}", "name": "Bash", "input": {}}


def _input(turn: Bash) -> dict[str, str]:
    return {"command": turn.command, "description": "what the test wants"}


def _whole(turn: Text | Bash) -> dict[str, Any]:
    filled = {"text": "".join(turn.pieces)} if isinstance(turn, Text) else {"input": _input(turn)}
    return {"content": [{**_block(turn), **filled}], "stop_reason": _reason(turn)}


def _reason(turn: Text | Bash) -> str:
    return "end_turn" if isinstance(turn, Text) else "tool_use"


def _events(turn: Text | Bash, model: str, closing: threading.Event) -> Iterator[dict[str, Any]]:
    """The events of a streamed answer with one content block."""
    yield {"type": "message_start", "message": _message(model)}
    yield {"type": "content_block_start", "index": 0, "content_block": _block(turn)}
    for delta in _deltas(turn, closing):
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    ending = {"stop_reason": _reason(turn), "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


def _deltas(turn: Text | Bash, closing: threading.Event) -> Iterator[dict[str, str]]:
    if isinstance(turn, Text):
        for piece in _paced(turn.pieces, turn.per_second, closing):
            yield {"type": "text_delta", "text": piece}
    else:
        yield {"type": "input_json_delta", "partial_json": json.dumps(_input(turn))}


def _paced(pieces: Iterable[str], per_second: float, closing: threading.Event) -> Iterator[str]:
    """Each piece at its moment, counted from the first: being late with one does not delay the others."""
    begun = time.monotonic()
    for number, piece in enumerate(pieces):
        early = begun + number / per_second - time.monotonic()
        if early > 0 and closing.wait(early):
            return
        yield piece
