"""`POST /execute` against a real daemon: one command, a list of tasks, a stream of events, and clients that leave."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ccexecd.core.entries import Chunk
from ccexecd.core.framing import JOINED, Piece
from ccexecd.external.execute import _Collected
from tests.e2e.client import PATIENCE
from tests.e2e.daemon_process import eventually, state_of
from tests.in_process import Running, running

SSE = "Accept: text/event-stream"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """A daemon on which nothing of an exchange is left by the end: neither session nor connection nor execution."""
    async with running(tmp_path) as one:
        yield one
        await nothing_left(one)


async def nothing_left(daemon: Running) -> None:
    engine, door = daemon.daemon._engine, daemon.daemon._door
    await eventually(lambda: not (engine.live or engine.sessions or door.open_connections), "nothing is left")
    assert door._site.counters.crashed == 0


class Exchange:
    """One request and its answer, as far as it has come."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def until(self, what: bytes) -> None:
        """Read until the answer holds this."""
        with trio.fail_after(PATIENCE):
            while what not in self.received:
                data = await self.stream.receive_some()
                assert data, self.received
                self.received += data

    async def answer(self) -> "Answer":
        """Read to the end."""
        with trio.fail_after(PATIENCE):
            while data := await self.stream.receive_some():
                self.received += data
        return Answer(self.received)


class Answer:
    """A whole answer.

    Attributes:
        status: of the first line.
        headers: by lower-case name.
        body: chunks put together.
    """

    def __init__(self, received: bytes) -> None:
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.body = dechunked(body) if self.headers.get("transfer-encoding") == "chunked" else body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Names and values of the events of a stream."""
        assert self.headers["content-type"] == "text/event-stream"
        found = []
        for block in self.body.decode().split("\n\n")[:-1]:
            name, value = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(value.removeprefix("data: "))))
        return found


def dechunked(body: bytes) -> bytes:
    whole = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        if not int(size, 16):
            assert body == b"\r\n", "nothing follows the last chunk"
            return whole
        whole += body[: int(size, 16)]
        assert body[int(size, 16) :].startswith(b"\r\n")
        body = body[int(size, 16) + 2 :]


@asynccontextmanager
async def posted(daemon: Running, body: object, *lines: str, version: str = "1.1") -> AsyncIterator[Exchange]:
    """Send a request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST /execute HTTP/{version}", "Host: localhost", f"Content-Length: {len(content)}", *lines, "", ""]
    async with await daemon.dial() as stream:
        await stream.send_all("\r\n".join(head).encode() + content)
        yield Exchange(stream)


async def post(daemon: Running, body: object, *lines: str, version: str = "1.1") -> Answer:
    async with posted(daemon, body, *lines, version=version) as exchange:
        return await exchange.answer()


class TestOneCommand:
    """A command is answered when it has ended."""

    async def test_what_it_printed_and_how_it_ended(self, daemon):
        """Both streams, the exit code and the times."""
        answer = await post(daemon, {"command": "echo out; echo err >&2; exit 3"})
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        result = answer.json
        assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")
        assert (result["exit_code"], result["status"], result["reason"]) == (3, "failed", "exited")
        assert result["execution_time"] > 0
        assert result["completed_at"].endswith("+00:00")
        known = await daemon.ask("status", execution_id=result["execution_id"])
        assert (known["state"], known["exit_code"]) == ("FINISHED", 3)

    async def test_words(self, daemon):
        """`argv` runs without a shell."""
        result = (await post(daemon, {"argv": ["printf", "%s|", "a b", "$HOME"]})).json
        assert (result["stdout"], result["status"]) == ("a b|$HOME|", "completed")

    async def test_params_of_execute_count(self, daemon, tmp_path):
        """Directory, environment, time-out; what nobody knows is passed over, as earlier clients expect."""
        body = {
            "command": "pwd; echo $WHO; sleep 60",
            "cwd": str(tmp_path),
            "env": {"WHO": "me"},
            "timeout": 0.3,
            "grace": 0.1,
            "unknown": 1,
        }
        result = (await post(daemon, body)).json
        assert result["stdout"] == f"{tmp_path}\nme\n"
        assert (result["reason"], result["status"]) == ("timeout", "failed")

    async def test_output_that_is_no_text(self, daemon):
        """Bytes that are not UTF-8 become U+FFFD; the sizes tell the truth."""
        result = (await post(daemon, {"command": r"printf 'a\377b'"})).json
        assert (result["stdout"], result["stdout_bytes"]) == ("a\ufffdb", 3)

    async def test_more_than_an_answer_holds(self, tmp_path):
        """The end of the output is there, and how much is not."""
        async with running(tmp_path, max_buffer_size=65536) as daemon:
            result = (await post(daemon, {"command": "seq 1 100000"})).json
            assert result["stdout"].endswith("\n99999\n100000\n")
            assert len(result["stdout"]) + result["dropped_bytes"] == result["stdout_bytes"] == 588895

    async def test_an_old_client(self, daemon):
        """HTTP/1.0 knows no chunks: the answer ends with the connection."""
        answer = await post(daemon, {"command": "echo hello"}, version="1.0")
        assert "transfer-encoding" not in answer.headers
        assert answer.json["stdout"] == "hello\n"

    async def test_several_at_a_time(self, daemon):
        """Each exchange is a session of its own."""
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(self._prints, daemon, number)

    async def _prints(self, daemon: Running, number: int) -> None:
        assert (await post(daemon, {"command": f"echo {number}"})).json["stdout"] == f"{number}\n"


class TestList:
    """A list of tasks runs in order, and is answered with a report of all."""

    @pytest.fixture(autouse=True)
    def stand_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A `claude` that repeats its prompt."""
        program = tmp_path / "bin" / "claude"
        program.parent.mkdir()
        program.write_text('#!/bin/sh\n[ "$1" = -p ] || exit 2\necho "answer to $2"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/local/bin:/usr/bin:/bin")

    async def test_prompts_and_commands(self, daemon):
        """A string is a prompt for Claude Code, an object is an execution; the report has them in order."""
        tasks = ["What is 2+2?", {"command": "echo two; exit 1"}, {"argv": ["echo", "three"]}]
        report = (await post(daemon, {"tasks": tasks})).json
        assert [each["stdout"] for each in report["results"]] == ["answer to What is 2+2?\n", "two\n", "three\n"]
        assert [each["exit_code"] for each in report["results"]] == [0, 1, 0]
        assert [each["task_number"] for each in report["results"]] == [1, 2, 3]
        assert [each["task_description"] for each in report["results"]] == ["What is 2+2?", "echo two; exit 1", "three"]
        assert (report["total_tasks"], report["completed_tasks"], report["failed_tasks"]) == (3, 3, 1)
        assert report["total_execution_time"] > 0
        assert report["started_at"] < report["completed_at"]

    async def test_one_after_another(self, daemon, tmp_path):
        """The next begins when the one before has ended."""
        tasks = [{"command": f"echo {number} >>order; sleep 0.05", "cwd": str(tmp_path)} for number in range(5)]
        assert (await post(daemon, {"tasks": tasks})).status == 200
        assert (tmp_path / "order").read_text() == "0\n1\n2\n3\n4\n"

    async def test_all_results_together_are_bounded(self, tmp_path):
        """A hundred floods do not fill the memory: the more tasks, the less of each is in the report."""
        async with running(tmp_path, max_buffer_size=1 << 19) as daemon:
            for count, each in ((4, 1 << 19), (8, 1 << 18)):
                report = (await post(daemon, {"tasks": [{"command": "seq 1 100000"}] * count})).json
                for result in report["results"]:
                    assert each - (1 << 16) < len(result["stdout"]) <= each
                    assert len(result["stdout"]) + result["dropped_bytes"] == result["stdout_bytes"] == 588895

    async def test_what_cannot_be_started_stops_nothing(self, daemon):
        """The report says why; the tasks behind it run."""
        tasks = [{"argv": ["/no/such/program"]}, {"command": "echo fine"}]
        report = (await post(daemon, {"tasks": tasks})).json
        assert report["results"][0]["exit_code"] is None
        assert "/no/such/program" in report["results"][0]["error"]
        assert report["results"][1]["stdout"] == "fine\n"
        assert (report["total_tasks"], report["completed_tasks"], report["failed_tasks"]) == (2, 1, 1)

    async def test_a_time_for_each(self, daemon):
        """`timeout_per_task` counts where a task has none of its own."""
        body = {
            "tasks": [{"command": "exec sleep 60"}, {"command": "echo own", "timeout": 50}],
            "timeout_per_task": 0.2,
        }
        first, second = (await post(daemon, body)).json["results"]
        assert first["reason"] == "timeout"
        assert (second["reason"], second["stdout"]) == ("exited", "own\n")


class TestEvents:
    """Whoever accepts `text/event-stream` gets every notification when it happens."""

    async def test_everything_in_order(self, daemon):
        """The start, the output, the end; nothing else."""
        answer = await post(daemon, {"command": "echo out; echo err >&2"}, SSE)
        names = [name for name, _ in answer.events]
        assert names[0] == "process.started"
        assert names[-1] == "process.completed"
        assert set(names[1:-1]) == {"process.output"}
        assert [params["seq"] for _, params in answer.events] == [1, 2, 3, 4]
        assert len({params["execution_id"] for _, params in answer.events}) == 1
        assert answer.events[-1][1]["exit_code"] == 0

    async def test_when_it_happens(self, daemon):
        """A line is there while its program still runs."""
        async with posted(daemon, {"command": "echo first; read x; echo last", "stdin": "open"}, SSE) as exchange:
            await exchange.until(b"first")
            (execution_id,) = daemon.daemon._engine.live
            await daemon.ask("write_stdin", execution_id=execution_id, data="\n")
            answer = await exchange.answer()
        outputs = [params["data"] for name, params in answer.events if name == "process.output"]
        assert outputs == ["first\n", "last\n"]

    async def test_a_list_ends_with_its_report(self, daemon):
        """The events of every task, and then the report."""
        tasks = [{"command": "echo one"}, {"argv": ["/no/such/program"]}, {"command": "echo two"}]
        events = (await post(daemon, {"tasks": tasks}, SSE)).events
        assert [name for name, _ in events if name != "process.output"] == [
            *("process.started", "process.completed"),
            *("process.started", "process.completed"),
            "report",
        ]
        assert events[-1][1]["failed_tasks"] == 1

    @pytest.mark.parametrize(
        "accept",
        [
            "text/event-stream",
            "Text/Event-Stream",
            "text/event-stream; charset=utf-8",
            "application/json;q=0.5, text/event-stream",
        ],
    )
    async def test_the_header_as_clients_write_it(self, daemon, accept):
        """Media types have parameters, company and any case (RFC 9110 section 8.3.1)."""
        answer = await post(daemon, {"command": "true"}, f"Accept: {accept}")
        assert answer.headers["content-type"] == "text/event-stream"

    @pytest.mark.parametrize("accept", ["*/*", "application/json", "text/event-stream-not", "text/*"])
    async def test_who_does_not_ask_for_it_gets_one_answer(self, daemon, accept):
        """JSON is the default."""
        answer = await post(daemon, {"command": "true"}, f"Accept: {accept}")
        assert answer.json["exit_code"] == 0

    @pytest.mark.parametrize("lines", [(), (SSE,)], ids=["json", "events"])
    async def test_a_program_that_waits_for_its_reader(self, tmp_path, lines):
        """Under policy `block` the exchange is the watcher that the program waits for: everything comes."""
        async with running(tmp_path, max_buffer_size=262_144) as daemon:
            answer = await post(daemon, {"command": "seq 1 200000", "policy": "block"}, *lines)
            assert answer.status == 200
            if lines:
                data = "".join(params["data"] for name, params in answer.events if name == "process.output")
                assert data == "".join(f"{number}\n" for number in range(1, 200_001))
            await nothing_left(daemon)

    async def test_what_is_written_at_once_is_accounted_for(self, tmp_path):
        """A program that writes more than is kept before anybody can look: the gap knows how much went."""
        async with running(tmp_path, max_buffer_size=4096, spool_execution_bytes=0) as daemon:
            for _ in range(5):
                events = (await post(daemon, {"argv": ["seq", "1", "200000"]}, SSE)).events
                gaps = [params["dropped_bytes"] for name, params in events if name == "process.gap"]
                data = "".join(params["data"] for name, params in events if name == "process.output")
                assert gaps
                assert len(data) + sum(gaps) == events[-1][1]["stdout_bytes"]

    @pytest.mark.parametrize("on_disk", [0, 1 << 20, 1 << 30], ids=["nothing", "little", "all"])
    async def test_a_reader_that_is_slow(self, tmp_path, on_disk):
        """It gets all that is kept, to the end, and hears of what is not."""
        async with running(tmp_path, max_buffer_size=65536, spool_execution_bytes=on_disk) as daemon:
            body = {"command": "seq -f 'line %020.0f' 1 200000; read", "stdin": "open"}
            async with posted(daemon, body, SSE) as exchange:
                await exchange.until(b"event: ")
                (execution,) = daemon.daemon._engine.live.values()
                await eventually(lambda: execution.log.sizes["stdout"] == 200_000 * 26, "all is written")
                await daemon.ask("write_stdin", execution_id=execution.id, data="\n")
                events = (await exchange.answer()).events
        gaps = [params for name, params in events if name == "process.gap"]
        data = "".join(params["data"] for name, params in events if name == "process.output")
        assert bool(gaps) is (on_disk < events[-1][1]["stdout_bytes"])
        assert len(data) + sum(gap["dropped_bytes"] for gap in gaps) == events[-1][1]["stdout_bytes"]
        assert data.endswith("200000\n")


class TestClientsThatLeave:
    """Whoever hangs up wants nothing more."""

    @pytest.mark.parametrize("lines", [(), (SSE,)], ids=["json", "events"])
    @pytest.mark.parametrize("wrap", [lambda task: task, lambda task: {"tasks": [task, task]}], ids=["one", "list"])
    async def test_what_runs_is_cancelled(self, daemon, lines, wrap: Callable[[object], object]):
        """The execution ends, and those behind it never begin."""
        async with posted(daemon, wrap({"command": "sleep 60 & sleep 60", "grace": 1}), *lines):
            await eventually(lambda: daemon.daemon._engine.live, "it runs")
            (execution,) = daemon.daemon._engine.live.values()
            with trio.fail_after(PATIENCE):
                await execution.spawned.wait()
        with trio.fail_after(PATIENCE):
            await execution.finished.wait()
        assert execution.outcome.reason.value == "disconnected"
        assert state_of(execution.pid) in {"", "Z"}
        await nothing_left(daemon)
        assert daemon.daemon._engine.started_total == 1

    async def test_a_reader_that_takes_nothing_has_the_time_of_a_websocket(self, tmp_path):
        """`stream_timeout` counts here, too: no less, and when it is over the client counts as gone."""
        async with running(tmp_path, stream_timeout=0.3) as daemon:
            async with posted(daemon, {"command": "yes"}, SSE) as exchange:
                await exchange.until(b"event: ")
                (execution,) = daemon.daemon._engine.live.values()
                with trio.fail_after(5):
                    await execution.finished.wait()
            assert execution.outcome.reason.value == "disconnected"
            assert execution.duration > 0.3
            await nothing_left(daemon)

    async def test_what_is_detached_goes_on(self, daemon):
        """`on_disconnect: detach` is honoured here, too."""
        async with posted(daemon, {"command": "exec sleep 60", "on_disconnect": "detach"}):
            await eventually(lambda: daemon.daemon._engine.live, "it runs")
            (execution,) = daemon.daemon._engine.live.values()
        await eventually(lambda: not daemon.daemon._engine.sessions, "its session has ended")
        assert execution.is_live
        assert (await daemon.ask("control", type="KILL", execution_id=execution.id))["status"] == "killed"

    async def test_at_any_moment(self, daemon):
        """Fifty clients that leave before, while or after their command starts leave nothing behind."""
        for delay in range(50):
            async with posted(daemon, {"command": "sleep 60"}, *[SSE] * (delay % 2)):
                for _ in range(delay):
                    await trio.lowlevel.checkpoint()
        await nothing_left(daemon)


REFUSED = {
    "no key": ({"command": "true", "idempotency_key": ""}, 400, "$.idempotency_key"),
    "lane": ({"command": "true", "lane": "builds"}, 400, "no such lane"),
    "no JSON": (b"command=ls", 400, "not valid JSON"),
    "nothing": (b"", 400, "not valid JSON"),
    "an array": (b"[]", 400, "expected object, got array"),
    "null": (b"null", 400, "exactly one of command and argv"),
    "neither": ({}, 400, "exactly one of command and argv"),
    "both": ({"command": "true", "argv": ["true"]}, 400, "exactly one of command and argv"),
    "empty": ({"command": " "}, 400, "$.command"),
    "type": ({"command": "true", "timeout": "1"}, 400, "$.timeout"),
    "surrogate": (rb'{"command": "\ud800"}', 400, "$.command"),
    "NUL": ({"command": "a\0"}, 400, "NUL"),
    "nested": (b"[" * 100_000, 400, "not valid JSON"),
    "no tasks": ({"tasks": []}, 400, "1 to 100"),
    "many tasks": ({"tasks": [{"command": "true"}] * 101}, 400, "1 to 100"),
    "tasks of no array": ({"tasks": "ls"}, 400, "$.tasks"),
    "a task of no kind": ({"tasks": [{"command": "true"}, 5]}, 400, "$.tasks[1]"),
    "a task with a wrong param": ({"tasks": [{"command": "true", "cwd": 5}]}, 400, "$.tasks[0].cwd"),
    "an unknown program": ({"argv": ["/no/such/program"]}, 422, "/no/such/program"),
    "an unknown directory": ({"command": "true", "cwd": "/no/such/place"}, 422, "/no/such/place"),
}


class TestRefusals:
    """What cannot be done has a status, and a text that says what and why."""

    @pytest.mark.parametrize("name", REFUSED)
    async def test_it_is_told(self, daemon, name):
        """Nothing has been run."""
        body, status, words = REFUSED[name]
        answer = await post(daemon, body)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
        assert words in answer.error
        assert not [each for each in daemon.daemon._engine.executions.values() if each.leader]

    async def test_not_allowed(self, tmp_path):
        """403 for what an allow-list does not name; in a list, in its report."""
        async with running(tmp_path, allowed_commands=["true"]) as daemon:
            answer = await post(daemon, {"argv": ["id"]})
            assert (answer.status, "not allowed" in answer.error) == (403, True)
            assert (await post(daemon, {"argv": ["true"]})).json["exit_code"] == 0
            report = (await post(daemon, {"tasks": [{"argv": ["id"]}, {"argv": ["true"]}]})).json
            assert "not allowed" in report["results"][0]["error"]
            assert report["results"][1]["exit_code"] == 0
            await nothing_left(daemon)

    async def test_too_many_sessions(self, tmp_path):
        """429 while all sessions are taken."""
        async with running(tmp_path, max_sessions=1) as daemon:
            async with daemon.client() as one:
                await one.run("true")
                answer = await post(daemon, {"command": "true"})
                assert (answer.status, "session limit" in answer.error) == (429, True)
            await eventually(lambda: not daemon.daemon._engine.sessions, "the client has gone")
            assert (await post(daemon, {"command": "true"})).status == 200

    async def test_a_full_queue(self, tmp_path):
        """429, with the seconds after which another try may be worth it."""
        async with running(tmp_path, max_running=1, max_queued=0) as daemon, daemon.client() as one:
            await one.execute("sleep", "60")
            answer = await post(daemon, {"command": "true"})
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert "queue full" in answer.error

    async def test_what_waits_is_answered_when_it_has_ended(self, tmp_path):
        """As everything is; a client that does not wait for that cancels it."""
        async with running(tmp_path, max_running=1) as daemon, daemon.client() as one:
            first = await one.execute("sleep", "60")
            engine, answers = daemon.daemon._engine, []

            async def ask() -> None:
                answers.append(await post(daemon, {"command": "echo done"}))

            async with posted(daemon, {"command": "true"}):
                await eventually(lambda: len(engine.turns) == 1, "it waits")
            await eventually(lambda: len(engine.turns) == 0, "it is cancelled")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await eventually(lambda: len(engine.turns) == 1, "it waits")
                await one.request("control", type="KILL", execution_id=first.id)
            assert answers[0].json["stdout"] == "done\n"

    async def test_a_body_that_is_too_long(self, tmp_path):
        """413, by the same limit as for a message."""
        async with running(tmp_path, ws_max_size=2000) as daemon:
            answer = await post(daemon, {"command": "true", "env": {"A": "x" * 2000}})
            assert (answer.status, "2000 bytes" in answer.error) == (413, True)

    async def test_other_methods(self, daemon):
        """Only POST executes."""
        async with await daemon.dial() as stream:
            await stream.send_all(b"GET /execute HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await Exchange(stream).answer()
        assert (answer.status, answer.headers["allow"]) == (405, "POST")

    async def test_a_web_page(self, daemon):
        """A page in somebody's browser runs nothing here."""
        answer = await post(daemon, {"command": "true"}, "Origin: http://localhost:8003")
        assert answer.status == 403
        assert daemon.daemon._engine.started_total == 0


class TestKey:
    """A request with a key that is sent again means the execution that there is."""

    async def test_it_runs_once_and_is_answered_as_often_as_asked(self, daemon, tmp_path):
        """From memory and from the past, with its output; with other params it is a conflict. A list has its own."""
        script = f"echo ran >> {tmp_path}/ran; echo out; exit 3"
        wanted = {"command": script, "idempotency_key": "k"}
        answers = []
        for number in range(3):
            async with posted(daemon, wanted, "Connection: close") as exchange:
                answers.append((await exchange.answer()).json)
            if number == 1:
                daemon.daemon._engine._remember = lambda _: None
                execution = daemon.daemon._engine.executions.pop(answers[0]["execution_id"])
                daemon.daemon._engine.idempotency_keys.forget(execution)
                await eventually(lambda: daemon.daemon._archive.is_settled, "it is in the history")
        assert answers[0] == answers[1] == answers[2]
        assert (answers[0]["exit_code"], answers[0]["stdout"]) == (3, "out\n")
        async with posted(daemon, {"command": "true", "idempotency_key": "k"}, "Connection: close") as exchange:
            answer = await exchange.answer()
        assert (answer.status, answers[0]["execution_id"] in answer.error) == (409, True)
        tasks = {"tasks": [wanted, {"command": "echo new"}]}
        async with posted(daemon, tasks, "Connection: close") as exchange:
            first, second = (await exchange.answer()).json["results"]
        assert (first["execution_id"], first["stdout"], second["stdout"]) == (
            answers[0]["execution_id"],
            "out\n",
            "new\n",
        )
        assert (tmp_path / "ran").read_text() == "ran\n"

    async def test_a_key_that_cannot_be_looked_up_runs_nothing(self, tmp_path, monkeypatch):
        """The history is locked: it may stand for something that has run, and 503 says when to ask again."""
        monkeypatch.setattr("ccexecd.storage.history.BUSY", 0.01)
        somebody = sqlite3.connect(tmp_path / "history.db", isolation_level=None)
        somebody.execute("PRAGMA locking_mode = EXCLUSIVE")
        somebody.execute("BEGIN EXCLUSIVE")
        wanted = {"command": f"touch {tmp_path}/ran", "idempotency_key": "k"}
        async with running(tmp_path) as daemon:
            answer = await post(daemon, wanted, "Connection: close")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            [result] = (await post(daemon, {"tasks": [wanted]}, "Connection: close")).json["results"]
            assert (result["exit_code"], "history cannot be read" in result["error"]) == (None, True)
            await nothing_left(daemon)
            daemon.errors.clear()
            somebody.close()
        assert not (tmp_path / "ran").exists()

    async def test_a_client_that_goes_leaves_it_for_the_next_one(self, daemon, tmp_path):
        """It is not cancelled; who sends the request again holds it, and gets all of it."""
        wanted = {"command": f"echo first; until [ -e {tmp_path}/go ]; do sleep 0.01; done", "idempotency_key": "k"}
        for _ in range(2):
            async with posted(daemon, wanted, SSE) as exchange:
                await exchange.until(b"first")
            await eventually(lambda: not daemon.daemon._door.open_connections, "it has been noticed")
        (execution,) = daemon.daemon._engine.live.values()
        (session,) = daemon.daemon._engine.sessions
        assert session.is_cut
        async with posted(daemon, wanted, SSE, "Connection: close") as exchange:
            await exchange.until(b"first")
            assert not session.is_cut
            (tmp_path / "go").touch()
            events = (await exchange.answer()).events
        assert [name for name, _ in events] == ["process.started", "process.output", "process.completed"]
        assert {value["execution_id"] for _, value in events} == {execution.id}
        assert execution.outcome.reason.value == "exited"


@pytest.mark.parametrize(("size", "kept"), [(1, 6_000), (3_000, 40_000), (70_000, 1)])
def test_what_is_collected_takes_little_more_than_its_bytes(size, kept):
    """The last of both streams, however small the pieces are that they come in, and however they alternate."""
    collected, whole = _Collected(kept), {"stdout": b"", "stderr": b""}
    for number in range(10_000 if size == 1 else 30):
        stream = ("stdout", "stderr")[number % 2]
        text = b"%d" % (number % 10) * size
        collected.add(Chunk(number + 1, 1, stream, 0, Piece(text)))
        whole[stream] += text
    for stream, text in whole.items():
        assert text.endswith(collected.text(stream).encode())
    assert kept - 2 * JOINED < collected.size <= max(kept, size)
    assert sum(map(len, collected._parts.values())) <= collected.size / 1000 + 2
