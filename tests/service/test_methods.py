"""Each method's own promises: what it takes, what it answers, and what it says when it cannot."""

import base64
import hashlib
import signal
from typing import Any

import pytest
import trio

from ccexecd.protocol import messages
from ccexecd.protocol.codec import dumps
from ccexecd.service.methods import EXECUTION_METHODS
from tests.e2e.client import PATIENCE, Watched, refused
from tests.e2e.daemon_process import eventually
from tests.in_process import running


def test_a_method_is_listed_under_its_name():
    """The table and the contract use the same words; the params of each are a class of `messages`."""
    assert set(EXECUTION_METHODS) == {
        *("execute", "control", "release", "drop", "write_stdin", "close_stdin", "resize_pty"),
        *("attach", "detach", "read_output", "wait", "list", "verify", "receipt"),
        *("estimate", "history", "stats"),
        *("prompts_list", "prompts_show", "prompts_history", "prompts_record", "prompts_count", "prompts_graduate"),
        *("resume_session", "hook_status", "pong"),
    }
    assert all(vars(messages)[method.params.__name__] is method.params for method in EXECUTION_METHODS.values())


class TestControl:
    """What is asked of something that runs."""

    @pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "usr1", "sigusr1"])
    async def test_a_signal_by_any_of_its_names(self, client, name):
        """With SIG or without, in any case."""
        execution = await client.execute(
            command="trap 'echo got it; exit' USR1; echo ready; while :; do sleep 0.02; done"
        )
        await execution.printed("ready")
        assert (await execution.control("SIGNAL", signal=name))["status"] == "signalled"
        await execution.completed()
        assert "got it" in execution.stdout

    @pytest.mark.parametrize("name", ["", "SIG", "NOPE", "9", "__class__", "RTMIN+1"])
    async def test_a_signal_that_does_not_exist(self, client, name):
        """-32602 names the param; nothing is sent."""
        execution = await client.execute("sleep", "60")
        error = await refused(client, "control", type="SIGNAL", signal=name, execution_id=execution.id)
        assert (error.code, error.facts[0]["path"]) == (-32602, "$.signal")
        assert (await client.request("status", execution_id=execution.id))["state"] == "RUNNING"

    async def test_a_continue_is_a_resume(self, client):
        """What was paused runs then, and so does its clock."""
        execution = await client.execute("sleep", "60", timeout=0.5)
        await execution.control("PAUSE")
        answer = await execution.control("SIGNAL", signal="CONT")
        assert answer["status"] == "signalled"
        assert (await execution.completed())["reason"] == "timeout"
        assert "process.resumed" in execution.sequence()

    @pytest.mark.parametrize("params", [{"type": "SIGNAL"}, {"type": "KILL", "signal": "INT"}])
    async def test_a_signal_belongs_to_signal(self, client, params):
        """Neither without nor elsewhere."""
        error = await refused(client, "control", **params)
        assert (error.code, error.facts[0]["path"]) == (-32602, "$.signal")

    @pytest.mark.parametrize("kind", ["CANCEL", "KILL"])
    async def test_who_does_not_wait_is_answered_at_once(self, client, kind):
        """`wait: false`: it has been decided; the end comes as a notification."""
        execution = await client.execute("sleep", "60")
        assert await execution.control(kind, wait=False) == {
            "status": "cancelling",
            "execution_id": execution.id,
            "survivors": [],
        }
        assert (await execution.completed())["reason"] == "cancelled"

    async def test_who_asks_again_with_less_grace_is_heard(self, client):
        """A second CANCEL shortens the first one's grace; it never lengthens it."""
        execution = await client.execute(command="trap '' TERM; echo ready; while :; do sleep 0.02; done")
        await execution.printed("ready")
        await execution.control("CANCEL", grace=600, wait=False)
        await execution.control("CANCEL", grace=900, wait=False)
        with trio.fail_after(PATIENCE):
            assert (await execution.control("CANCEL", grace=0.1))["status"] == "cancelled"
        assert (await execution.completed())["signal"] == signal.SIGKILL

    async def test_what_the_state_does_not_admit(self, client):
        """-32005 says what cannot be done and why; the state is in the data."""
        execution = await client.execute("sleep", "60")
        error = await refused(client, "control", type="RESUME", execution_id=execution.id)
        assert (error.code, error.facts) == (-32005, {"state": "RUNNING"})
        await execution.control("PAUSE")
        error = await refused(client, "control", type="PAUSE", execution_id=execution.id)
        assert (error.code, error.facts) == (-32005, {"state": "PAUSED"})
        await execution.control("KILL")
        for kind in ("PAUSE", "RESUME", "CANCEL", "KILL"):
            error = await refused(client, "control", type=kind, execution_id=execution.id)
            assert (error.code, error.facts) == (-32005, {"state": "FINISHED"})

    async def test_another_client_may_too(self, client, daemon):
        """Whoever may enter may control: a supervisor's tool is not the client that started it."""
        execution = await client.execute("sleep", "60")
        async with daemon.client() as other:
            assert (await other.request("control", type="KILL", execution_id=execution.id))["status"] == "killed"


class TestStandardInput:
    """What is written arrives, whole and in order, or is refused."""

    async def test_writes_that_are_sent_at_once_arrive_in_order(self, client):
        """Execute, many writes and the end of input, all pipelined: the program reads them as they were sent."""
        for _ in range(10):
            number = await client.ask("execute", argv=["cat"], stdin="open")
            writes = [await client.ask("write_stdin", data=f"{line}\n") for line in range(20)]
            end = await client.ask("close_stdin")
            execution = Watched(client, await client.answer(number))
            for write in writes:
                assert await client.answer(write)
            assert await client.answer(end) == {}
            await execution.completed()
            assert execution.stdout == "".join(f"{line}\n" for line in range(20))

    async def test_bytes_and_text(self, client):
        """Text counts in bytes of UTF-8; base64 carries anything."""
        execution = await client.execute("cat", stdin="open", framing="raw")
        assert await client.request("write_stdin", execution_id=execution.id, data="ä€") == {"accepted_bytes": 5}
        some = bytes(range(256))
        written = await client.request(
            "write_stdin", execution_id=execution.id, data_base64=base64.b64encode(some).decode()
        )
        assert written == {"accepted_bytes": 256}
        assert await client.request("write_stdin", execution_id=execution.id, data="") == {"accepted_bytes": 0}
        await client.request("close_stdin", execution_id=execution.id)
        await execution.completed()
        assert execution.output() == "ä€".encode() + some

    @pytest.mark.parametrize("text", ["a", "not base64!", "YQ", "YQ==\n", "ä", "\ud7ff"])
    async def test_what_is_no_base64(self, client, text):
        """-32602 names the param; nothing of it is written."""
        execution = await client.execute("cat", stdin="open")
        error = await refused(client, "write_stdin", execution_id=execution.id, data_base64=text)
        assert (error.code, error.facts) == (-32602, [{"path": "$.data_base64", "error": "is not base64"}])
        await client.request("close_stdin", execution_id=execution.id)
        await execution.completed()
        assert execution.stdout == ""

    @pytest.mark.parametrize("params", [{}, {"data": "a", "data_base64": "YQ=="}])
    async def test_one_of_the_two(self, client, params):
        """Neither both nor none."""
        assert (await refused(client, "write_stdin", **params)).facts[0]["path"] == "$"

    async def test_who_takes_none(self, client):
        """-32012 for input that was never open, has been closed, or that the program has closed itself."""
        closed = await client.execute("sleep", "60")
        assert (await refused(client, "write_stdin", execution_id=closed.id, data="x")).code == -32012
        deaf = await client.execute(command="exec <&-; echo ready; exec sleep 60", stdin="open")
        await deaf.printed("ready")
        assert (await refused(client, "write_stdin", execution_id=deaf.id, data="x")).code == -32012
        done = await client.execute("cat", stdin="open")
        await client.request("close_stdin", execution_id=done.id)
        await done.completed()
        assert (await refused(client, "write_stdin", execution_id=done.id, data="x")).code == -32005

    async def test_a_write_that_is_repeated_is_not_written_twice(self, client):
        """A client that does not know whether its request arrived asks again."""
        execution = await client.execute("cat", stdin="open")
        for name, text in (("a", "one\n"), ("a", "one\n"), ("b", "one\n"), (None, "two\n"), (None, "two\n")):
            answer = await client.request("write_stdin", execution_id=execution.id, data=text, write_id=name)
            assert answer == {"accepted_bytes": 4}
        await client.request("close_stdin", execution_id=execution.id)
        await execution.completed()
        assert execution.stdout == "one\none\ntwo\ntwo\n"

    async def test_a_write_that_was_cut_goes_on_where_it_was(self, client, daemon):
        """The connection is lost while the program has taken a part of it: the repeat brings the rest."""
        command = "trap go=1 USR1; echo ready; while [ -z $go ]; do sleep 0.02; done; md5sum"
        execution = await client.execute(command=command, stdin="open")
        await execution.printed("ready")
        text = "".join(f"{number}\n" for number in range(100_000))
        async with daemon.client() as other:
            await other.ask("write_stdin", execution_id=execution.id, data=text, write_id="w")
            await other.request("pong")  # so it has begun: the pipe is full
        await eventually(lambda: len(daemon.daemon._shared.connections) == 1, "it has gone")
        await execution.control("SIGNAL", signal="USR1")
        await client.request("write_stdin", execution_id=execution.id, data=text, write_id="w")
        await client.request("close_stdin", execution_id=execution.id)
        await execution.completed()
        assert execution.stdout.split()[1] == hashlib.md5(text.encode()).hexdigest()

    async def test_who_gives_up_his_turn_leaves_it_to_nobody_else(self, client, daemon):
        """While one write waits for the program, another client's is given up: the one behind it still waits."""
        command = "trap go=1 USR1; echo ready; while [ -z $go ]; do sleep 0.02; done; wc -c"
        execution = await client.execute(command=command, stdin="open")
        await execution.printed("ready")
        first = await client.ask("write_stdin", execution_id=execution.id, data="x" * 3_000_000)
        await client.request("pong")  # so it has begun
        async with daemon.client() as other:
            await other.ask("write_stdin", execution_id=execution.id, data="given up")
            await other.request("pong")
        await eventually(lambda: len(daemon.daemon._shared.connections) == 1, "it has gone")
        last = await client.ask("write_stdin", execution_id=execution.id, data="last")
        await execution.control("SIGNAL", signal="USR1")
        assert await client.answer(first) == {"accepted_bytes": 3_000_000}
        assert await client.answer(last) == {"accepted_bytes": 4}
        await client.request("close_stdin", execution_id=execution.id)
        await execution.completed()
        assert execution.stdout.split() == ["ready", "3000004"]

    async def test_who_goes_before_all_is_written(self, daemon):
        """A client that leaves a write half done leaves no execution that nobody can write to any more."""
        async with daemon.client() as watcher:
            execution = await watcher.execute(command="echo ready; sleep 0.2; cat >/dev/null", stdin="open")
            await execution.printed("ready")
            async with daemon.operator() as writer:
                await writer.ask("write_stdin", execution_id=execution.id, data="x" * 3_000_000)
                await writer.request("version")  # so the write has begun
            with trio.fail_after(PATIENCE):
                assert await daemon.ask("write_stdin", execution_id=execution.id, data="\n") == {"accepted_bytes": 1}
                await daemon.ask("close_stdin", execution_id=execution.id)
            assert (await execution.completed())["exit_code"] == 0


SIZE = {"cols": 100, "rows": 30}


class TestTerminal:
    """A program on a terminal: what clients say and hear of it."""

    async def test_all_of_it_is_one_stream_at_once(self, client):
        """Output is `stdout`, an unfinished line as well; what is typed arrives, and Ctrl-C is a signal."""
        execution = await client.execute(command="printf 'name? '; read name; echo hi $name >&2; sleep 60", pty=SIZE)
        await execution.printed("name? ")
        await client.request("write_stdin", execution_id=execution.id, data="you\n")
        await execution.printed("hi you\r\n")
        await client.request("write_stdin", execution_id=execution.id, data="\x03")
        end = await execution.completed()
        assert (end["reason"], end["signal"], end["stderr_bytes"]) == ("signaled", 2, 0)
        assert execution.stdout == "name? you\r\nhi you\r\n^C"

    @pytest.mark.parametrize(("env", "kind"), [({}, "xterm-256color"), ({"TERM": "vt100"}, "vt100")])
    async def test_what_kind_it_is(self, client, env, kind):
        """What the client says; else the daemon's own, and where that has none, the usual one."""
        execution = await client.run(command="echo $TERM", pty=SIZE, env={"TERM": "", **env})
        assert execution.stdout == f"{kind}\r\n"

    async def test_another_framing_is_honoured(self, client):
        """Whole lines, if that is what was asked for."""
        execution = await client.run(command="printf a; sleep 0.1; echo b", pty=SIZE, framing="lines")
        assert [each["data"] for each in execution.pieces()] == ["ab\r\n"]

    async def test_its_size(self, client):
        """`list` and `status` tell it, `resize_pty` changes it, and the program sees it."""
        execution = await client.execute(command="echo ready; read line; stty size", pty=SIZE)
        await execution.printed("ready")
        assert (await client.request("status", execution_id=execution.id))["pty"] == SIZE
        assert await client.request("resize_pty", execution_id=execution.id, cols=7, rows=3) == {}
        (listed,) = (await client.request("list"))["executions"]
        assert (listed["pty"], listed["stdin"]) == ({"cols": 7, "rows": 3}, "open")
        await client.request("write_stdin", execution_id=execution.id, data="\n")
        await execution.completed()
        assert execution.stdout.endswith("3 7\r\n")
        error = await refused(client, "resize_pty", execution_id=execution.id, cols=7, rows=3)
        assert (error.code, error.facts) == (-32005, {"state": "FINISHED"})

    async def test_what_has_none_has_no_size(self, client):
        """-32005 says how to get one; nothing is told of the size of pipes."""
        execution = await client.execute("sleep", "60")
        error = await refused(client, "resize_pty", cols=7, rows=3)
        assert (error.code, error.facts) == (-32005, {"state": "RUNNING"})
        assert "has no terminal; one is made by execute with pty" in str(error)
        described = await client.request("status", execution_id=execution.id)
        assert (described["pty"], described["stdin"]) == (None, "closed")

    async def test_closing_its_input_types_the_end_of_file(self, client):
        """For a program that reads to the end."""
        execution = await client.execute(command="stty -echo; echo ready; cat", pty=SIZE)
        await execution.printed("ready")
        await client.request("write_stdin", execution_id=execution.id, data="some")
        await client.request("close_stdin", execution_id=execution.id)
        assert (await execution.completed())["exit_code"] == 0
        assert execution.stdout == "ready\r\nsome"


class TestWatching:
    """Any number of places in any execution's log."""

    async def test_a_second_attach_moves_the_place(self, client):
        """Asked again, the log comes again from the new position, and only once."""
        execution = await client.run("seq", "1", "3", framing="line")
        for position in (0, 3):
            seen = len(client.received)
            reply = await client.request("attach", execution_id=execution.id, from_seq=position)
            assert reply == {"next_seq": 6, "oldest_seq": 1, "state": "FINISHED"}
            await client.until(lambda message, seen=seen: message in client.received[seen:] and ended(message))
            numbers = [each["params"]["seq"] for each in client.received[seen:] if "method" in each]
            assert numbers == list(range(max(position, 1), 6))

    async def test_only_what_comes(self, client, daemon):
        """Without a position, what was before is not told."""
        execution = await client.execute(command="echo before; read; echo after", stdin="open")
        await execution.printed("before")
        async with daemon.client() as other:
            assert (await other.request("attach", execution_id=execution.id))["next_seq"] == 3
            await client.request("write_stdin", execution_id=execution.id, data="\n")
            await other.notification("process.completed", execution.id)
            outputs = [each["params"]["data"] for each in other.received if each.get("method") == "process.output"]
            assert outputs == ["after\n"]

    async def test_a_position_that_has_gone(self, tmp_path):
        """-32007 tells the oldest one that is left; from there it works, and from 0 a gap tells."""
        async with running(tmp_path, max_buffer_size=20_000, spool_execution_bytes=0) as daemon, daemon.client() as one:
            execution = await one.execute("seq", "1", "20000", framing="line")
            await one.request("wait", execution_id=execution.id)
            error = await refused(one, "attach", execution_id=execution.id, from_seq=2)
            assert error.code == -32007
            oldest = error.facts["oldest_seq"]
            assert oldest > 2
            assert (await one.request("attach", execution_id=execution.id, from_seq=oldest))["oldest_seq"] == oldest

    async def test_a_position_in_the_future(self, client):
        """A place behind the end is the end."""
        execution = await client.execute("cat", stdin="open")
        assert (await client.request("attach", execution_id=execution.id, from_seq=1_000_000))["next_seq"] == 2
        await client.request("close_stdin", execution_id=execution.id)
        await client.notification("process.completed", execution.id)

    @pytest.mark.parametrize("method", ["attach", "read_output", "wait", "status", "detach"])
    async def test_something_that_does_not_exist(self, client, method):
        """-32003, and how to learn what there is."""
        error = await refused(client, method, execution_id="b" * 200)
        assert error.code == -32003
        assert "list" in error.message
        assert "b" * 65 not in error.message

    @pytest.mark.parametrize("name", ["beginning", "prefix"])
    async def test_a_client_names_executions_in_full(self, client, name):
        """Short forms are for people, at the other door."""
        execution = await client.execute("sleep", "60")
        short = {"beginning": execution.id[:8], "prefix": execution.id[:-1]}[name]
        assert (await refused(client, "wait", execution_id=short)).code == -32003


def ended(message: dict[str, Any]) -> bool:
    return message.get("method") == "process.completed"


class TestReadOutput:
    """The same output, pulled."""

    async def test_very_many_lines_hold_up_nobody(self, client):
        """An answer fits into a frame, however short the lines are; the next one goes on there."""
        execution = await client.run("sh", "-c", "yes '' | head -100000", framing="line")
        first = await client.request("read_output", execution_id=execution.id, max_bytes=1 << 24)
        assert len(dumps(first)) < 1 << 20
        assert [chunk["seq"] for chunk in first["chunks"]] == list(range(2, first["next_seq"]))
        then = await client.request("read_output", execution_id=execution.id, from_seq=first["next_seq"])
        assert then["chunks"][0]["seq"] == first["next_seq"]

    async def test_a_piece_at_a_time(self, client):
        """`max_bytes` bounds each answer; from position to position everything comes once, and the outcome last."""
        execution = await client.run("seq", "1", "1000", framing="line")
        whole, position, answers = "", 0, 0
        while True:
            answer = await client.request("read_output", execution_id=execution.id, from_seq=position, max_bytes=500)
            whole += "".join(chunk["data"] for chunk in answer["chunks"])
            position, answers = answer["next_seq"], answers + 1
            if "outcome" in answer:
                break
        assert whole == execution.stdout
        assert answers > 1
        assert answer["outcome"]["exit_code"] == 0
        assert answer["state"] == "FINISHED"

    async def test_a_stream_at_a_time(self, client):
        """`streams` chooses; offsets and positions are those of the log."""
        execution = await client.run(command="echo out; sleep 0.05; echo err >&2")
        answer = await client.request("read_output", execution_id=execution.id, streams=["stderr"])
        (chunk,) = answer["chunks"]
        assert (chunk["type"], chunk["data"], chunk["offset"], chunk["seq"]) == ("stderr", "err\n", 0, 3)
        assert (await client.request("read_output", execution_id=execution.id, streams=[]))["chunks"] == []

    async def test_bytes_that_are_no_text(self, client):
        """Pulled output is exact: base64 where it is no UTF-8."""
        execution = await client.run(command=r"printf 'a\377\n'")
        answer = await client.request("read_output", execution_id=execution.id)
        assert base64.b64decode(answer["chunks"][0]["data"]) == b"a\xff\n"
        assert answer["chunks"][0]["encoding"] == "base64"

    async def test_waiting_for_some(self, client):
        """`wait_s` waits for output, no longer than until it is there, and answers empty when none comes."""
        execution = await client.execute("cat", stdin="open")
        empty = await client.request("read_output", execution_id=execution.id, from_seq=2, wait_s=0.05)
        assert (empty["chunks"], empty["next_seq"], empty["state"]) == ([], 2, "RUNNING")
        number = await client.ask("read_output", execution_id=execution.id, from_seq=2, wait_s=600)
        await client.request("write_stdin", execution_id=execution.id, data="here\n")
        with trio.fail_after(PATIENCE):
            assert (await client.answer(number))["chunks"][0]["data"] == "here\n"

    async def test_waiting_ends_with_the_execution(self, client):
        """The end is news, too: whoever waits hears it at once, and whoever asks later does not wait."""
        execution = await client.execute("cat", stdin="open")
        number = await client.ask("read_output", execution_id=execution.id, from_seq=2, wait_s=600)
        await client.request("close_stdin", execution_id=execution.id)
        with trio.fail_after(PATIENCE):
            answer = await client.answer(number)
            assert answer["outcome"]["reason"] == "exited"
            again = await client.request("read_output", execution_id=execution.id, from_seq=99, wait_s=600)
            assert again["outcome"] == answer["outcome"]

    async def test_a_program_does_not_wait_for_who_has_read(self, tmp_path):
        """Under policy `block`, a pull that is over holds up nothing."""
        async with running(tmp_path, max_buffer_size=65536) as daemon, daemon.operator() as one:
            execution = await one.execute(command="read; seq 1 100000", stdin="open", policy="block")
            await one.request("detach", execution_id=execution.id)
            number = await one.ask("read_output", execution_id=execution.id, from_seq=2, wait_s=600)
            await one.request("write_stdin", execution_id=execution.id, data="\n")
            assert (await one.answer(number))["chunks"]
            with trio.fail_after(PATIENCE):
                assert (await one.request("wait", execution_id=execution.id))["stdout_bytes"] == 588895

    @pytest.mark.parametrize(
        "params", [{"max_bytes": 0}, {"max_bytes": 1 << 40}, {"streams": ["stdin"]}, {"from_seq": -1}]
    )
    async def test_wrong_params(self, client, params):
        """Each is named."""
        execution = await client.execute("sleep", "60")
        error = await refused(client, "read_output", execution_id=execution.id, **params)
        assert error.code == -32602
        assert next(iter(params)) in error.facts[0]["path"]


class TestWait:
    """Until the end, or until the time is up."""

    async def test_the_outcome_is_that_of_the_notification(self, client):
        """Pushed or pulled, the same."""
        execution = await client.run(command="echo x; exit 3")
        waited = await client.request("wait", execution_id=execution.id)
        completed = dict(execution.notifications[-1]["params"])
        assert completed.pop("execution_id") == execution.id
        assert completed.pop("seq") > 0
        assert waited == completed

    async def test_the_time_is_up(self, client):
        """The state instead of the outcome; 0 only looks."""
        execution = await client.execute("sleep", "60")
        for seconds in (0, 0.05):
            assert await client.request("wait", execution_id=execution.id, timeout=seconds) == {"state": "RUNNING"}

    async def test_many_may_wait(self, client, daemon):
        """All hear it."""
        execution = await client.execute("sleep", "60")
        async with daemon.client() as other:
            numbers = [await other.ask("wait", execution_id=execution.id) for _ in range(20)]
            await execution.control("KILL")
            for number in numbers:
                assert (await other.answer(number))["reason"] == "cancelled"


class TestSessions:
    """`resume_session` gives a claim back to whoever can prove it."""

    async def test_a_wrong_token_and_no_session_are_told_alike(self, client):
        """Whoever guesses learns nothing from the answer."""
        wrong_token = await refused(
            client, "resume_session", session_id=client.greeting["session_id"], resume_token="x" * 43
        )
        no_session = await refused(client, "resume_session", session_id="x", resume_token="x")
        not_ascii = await refused(client, "resume_session", session_id=client.greeting["session_id"], resume_token="ä")
        assert wrong_token.code == no_session.code == not_ascii.code == -32003
        assert wrong_token.message == no_session.message == not_ascii.message


async def test_what_earlier_clients_ask(client):
    """Hooks are none where none are configured, and a pong is taken."""
    assert await client.request("hook_status") == {"enabled": False, "hooks": [], "running": 0, "waiting": 0}
    assert await client.request("pong") == {}
