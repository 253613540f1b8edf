"""`execute`: the spec that a request becomes, and what is answered when it runs or has to wait."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ccexecd.keys import Config
from ccexecd.process.line_buffering import LineBuffering
from ccexecd.protocol import messages
from ccexecd.protocol.codec import StructureError
from ccexecd.service.executing import default_shell, spec_of
from tests.e2e.client import refused
from tests.e2e.daemon_process import eventually, state_of
from tests.in_process import running


def spec(wanted: messages.Execute, framing: messages.Framing = "lines", **config: Any) -> Any:
    return spec_of(SimpleNamespace(config=Config(**config)), wanted, framing, "uid:0")


class TestSpec:
    """What is run, from what was asked for and what is configured."""

    def test_a_command_is_run_by_the_shell(self):
        """Bash where there is one, or the configured one; what is shown is the command as it came."""
        made = spec(messages.Execute(command="echo $HOME | wc"))
        assert made.argv == (default_shell(), "-c", "echo $HOME | wc")
        assert (made.display, made.shell) == ("echo $HOME | wc", True)
        assert spec(messages.Execute(command="true"), shell="/bin/dash").argv == ("/bin/dash", "-c", "true")

    def test_words_are_run_as_they_are(self):
        """What is shown of them can be pasted into a shell."""
        made = spec(messages.Execute(argv=("printf", "%s", "a b'c")))
        assert made.argv == ("printf", "%s", "a b'c")
        assert (made.display, made.shell) == ("""printf %s 'a b'"'"'c'""", False)

    @pytest.mark.parametrize(
        ("asked", "configured", "timeout", "source"),
        [(None, None, None, "none"), (5, None, 5, "request"), (None, 7, 7, "default"), (5, 7, 5, "request")],
    )
    def test_the_time_and_who_has_set_it(self, asked, configured, timeout, source):
        """The request, else the configuration, else none; past runs are no part of it where nothing asks for them."""
        said = {} if asked is None else {"timeout": asked}
        made = spec(messages.Execute(command="true", **said), default_execution_timeout=configured)
        assert (made.timeout, made.timeout_source) == (timeout, source)

    @pytest.mark.parametrize(
        ("asked", "configured", "leftovers"),
        [(None, "kill", "kill"), (None, "detach", "detach"), ("kill", "detach", "kill"), ("detach", "kill", "detach")],
    )
    def test_what_becomes_of_leftovers(self, asked, configured, leftovers):
        """The request, else the configuration."""
        made = spec(messages.Execute(command="true", leftovers=asked), leftovers=configured)
        assert made.leftovers == leftovers

    @pytest.mark.parametrize(
        ("asked", "configured", "grace"), [(None, None, None), (None, 7.0, 7.0), (0, 7.0, 0), (5, None, 5)]
    )
    def test_how_long_an_agent_may_stay(self, asked, configured, grace):
        """The request, 0 included, else the configuration, else as long as it likes."""
        made = spec(messages.Execute(command="true", post_result_grace=asked), post_result_grace=configured)
        assert (made.post_result_grace, made.agent) == (grace, "auto")

    def test_grace_and_framing_have_defaults(self):
        """The configuration's grace, the manner's framing; a request's own are stronger, a grace of 0, too."""
        plain = spec(messages.Execute(command="true"), framing="line", process_cleanup_timeout=3.0)
        assert (plain.grace, plain.framing) == (3.0, "line")
        own = spec(messages.Execute(command="true", grace=0, framing="raw"), framing="line")
        assert (own.grace, own.framing) == (0, "raw")

    def test_a_lane_is_one_of_the_configuration(self):
        """Another one is refused with the names of those that there are: a slip must not escape a limit."""
        made = spec(messages.Execute(command="true", lane="builds", priority=-3), lanes=("builds=2", "nightly=0"))
        assert (made.lane, made.priority) == ("builds", -3)
        for lanes, known in ((("builds=2", "nightly=0"), "builds, nightly"), ((), "none")):
            with pytest.raises(StructureError, match="no such lane") as refusal:
                spec(messages.Execute(command="true", lane="build"), lanes=lanes)
            assert refusal.value.problems[0]["path"] == "$.lane"
            assert refusal.value.problems[0]["error"].endswith(known)


class TestExecute:
    """A command is started; the answer comes when it runs."""

    async def test_the_answer(self, client):
        """Every field of the contract; the pid is that of a living process."""
        execution = await client.execute("sleep", "60", timeout=50)
        reply = dict(execution.reply)
        assert state_of(reply.pop("pid")) in {"S", "R", "D"}
        assert reply.pop("pgid") == execution.pid
        assert reply.pop("started_at").endswith("+00:00")
        assert reply == {
            "status": "started",
            "execution_id": execution.id,
            "session_id": client.greeting["session_id"],
            "timeout": 50.0,
            "timeout_source": "request",
        }

    async def test_what_it_finds_around_it(self, client, tmp_path):
        """Its directory, environment and mask: the daemon's, with what the request adds and removes, and who it is."""
        execution = await client.run(
            command="pwd; umask; echo $ADDED; echo ${HOME-none}; echo $CCEXEC_EXECUTION_ID $CCEXEC_SESSION_ID",
            cwd=str(tmp_path),
            env={"ADDED": "ä b"},
            unset=["HOME"],
        )
        assert execution.stdout.splitlines() == [
            str(tmp_path),
            "0022",
            "ä b",
            "none",
            f"{execution.id} {client.greeting['session_id']}",
        ]

    @pytest.mark.parametrize("other", [{"policy": "block"}, {"pty": {"cols": 80, "rows": 24}}])
    async def test_a_file_goes_with_nothing_that_holds_up(self, client, other):
        """Neither a terminal nor a policy that has the program wait."""
        error = await refused(client, "execute", command="true", stdio="file", **other)
        assert (error.code, error.facts[0]["path"]) == (-32602, "$.stdio")

    async def test_a_file_is_an_output_like_any_other(self, client):
        """Nobody can tell from what arrives."""
        ran = await client.run("sh", "-c", "echo out; echo err >&2", stdio="file")
        assert (ran.stdout, ran.stderr) == ("out\n", "err\n")

    async def test_limits_reach_the_program(self, client):
        """What was asked for is told, and what went beyond is told of by name."""
        ran = await client.run(
            "sh", "-c", "ulimit -n; exec head -c 9999 /dev/zero >/dev/full", limits={"open_files": 33}
        )
        assert ran.stdout == "33\n"
        assert "limit" not in await ran.completed()
        described = (await client.request("list"))["executions"][0]
        assert (described["limits"], described["limit"]) == ({"open_files": 33}, None)
        ran = await client.run("sh", "-c", "while :; do :; done", limits={"cpu_seconds": 0.3}, grace=0.2)
        outcome = await ran.completed()
        assert (outcome["reason"], outcome["limit"]) == ("limit", "cpu_seconds")

    @pytest.mark.parametrize(
        ("limits", "path"),
        [
            ({"memory_bytes": 1}, "$.limits.memory_bytes"),
            ({"cpu_seconds": 0}, "$.limits.cpu_seconds"),
            ({"processes": 0}, "$.limits.processes"),
            ({"open_files": 2}, "$.limits.open_files"),
            ({"file_bytes": 1 << 62}, "$.limits.file_bytes"),
            ({"nice": 20}, "$.limits.nice"),
            ({"nice": -1}, "$.limits.nice"),
            ({"memory": 1 << 30}, "$.limits"),
            ({"open_files": "many"}, "$.limits.open_files"),
        ],
    )
    async def test_a_limit_that_makes_no_sense_is_refused(self, client, limits, path):
        """With its path."""
        error = await refused(client, "execute", command="true", limits=limits)
        assert error.code == -32602
        assert [problem["path"] for problem in error.facts] == [path]

    async def test_an_agent_that_stays_is_told_of(self, client):
        """In the sequence of its execution, right before its end."""
        line = '{"type":"result","subtype":"success","is_error":false}'
        execution = await client.run(
            *("sh", "-c", f"echo '{line}'; exec sleep 60"), agent="claude", post_result_grace=0.1, labels={"task": "3"}
        )
        assert execution.sequence()[-2:] == ["task.early_completion", "process.completed"]
        told, completed = (each["params"] for each in execution.notifications[-2:])
        assert (told["task"], told["agent"], told["is_error"]) == ("3", "claude", False)
        ending = (completed["status"], completed["exit_code"], completed["signal"], completed["reason"])
        assert ending == ("completed", 0, None, "post_result")

    async def test_stdbuf_that_is_not_there_is_refused(self, daemon, client):
        """The kernel's words for it, and which part of the request it was."""
        daemon.daemon._engine.preparation.line_buffering = LineBuffering("/nowhere")
        error = await refused(client, "execute", argv=["true"], stdbuf=True)
        assert (error.code, error.facts["subject"]) == (-32006, "stdbuf")
        assert "install stdbuf of GNU coreutils" in error.message

    async def test_a_failed_start_leaves_no_watcher(self, client):
        """Nothing is sent of an execution that never began, and it is remembered with the reason."""
        asked = len(client.received)
        error = await refused(client, "execute", argv=["/no/such/program"])
        assert (error.code, error.facts["errno"]) == (-32006, 2)
        assert (await client.run("echo", "next")).stdout == "next\n"
        assert not any(each.get("params", {}).get("reason") == "spawn_failed" for each in client.received[asked:])
        newest_but_one = (await client.request("list"))["executions"][1]
        assert (newest_but_one["state"], newest_but_one["reason"]) == ("FINISHED", "spawn_failed")
        assert "/no/such/program" in newest_but_one["error"]


class TestWaiting:
    """A command that cannot start yet is answered all the same."""

    async def test_it_is_answered_at_once_and_told_of_its_way(self, tmp_path):
        """The reply before any notification, then its positions, its start, its output, its end: one sequence."""
        async with running(tmp_path, max_running=1) as daemon, daemon.client() as one:
            first = await one.execute("sleep", "60")
            waiting = await one.execute("echo", "done")
            reply = dict(waiting.reply)
            assert reply.pop("session_id") == one.greeting["session_id"]
            assert reply == {
                "status": "queued",
                "execution_id": waiting.id,
                "pid": None,
                "pgid": None,
                "started_at": None,
                "timeout": None,
                "timeout_source": "none",
                "queue_position": 1,
            }
            told = await one.request("status", execution_id=waiting.id)
            assert (told["state"], told["queue_position"], told["pid"]) == ("QUEUED", 1, None)
            listed = await one.request("list", state="QUEUED")
            assert [each["execution_id"] for each in listed["executions"]] == [waiting.id]
            await one.request("control", type="KILL", execution_id=first.id)
            assert (await waiting.completed())["exit_code"] == 0
            assert waiting.sequence() == ["process.queued", "process.started", "process.output", "process.completed"]
            assert (await one.request("status", execution_id=waiting.id))["queue_position"] is None

    async def test_what_is_asked_of_one_that_waits(self, tmp_path):
        """A cancel ends it at once; what needs a process is refused; a write waits with it."""
        async with running(tmp_path, max_running=1) as daemon, daemon.client() as one:
            first, waiting = await one.execute("sleep", "60"), await one.execute("cat", stdin="open")
            for asked in ({"type": "PAUSE"}, {"type": "RESUME"}, {"type": "SIGNAL", "signal": "INT"}):
                error = await refused(one, "control", execution_id=waiting.id, **asked)
                assert (error.code, error.facts) == (-32005, {"state": "QUEUED"})
            gone = await one.execute("true")
            cancelled = await one.request("control", type="CANCEL", execution_id=gone.id)
            assert cancelled == {"status": "cancelled", "execution_id": gone.id, "survivors": []}
            outcome = await gone.completed()
            assert (outcome["reason"], outcome["exit_code"], outcome["duration"]) == ("cancelled", None, 0.0)
            writing = await one.ask("write_stdin", execution_id=waiting.id, data="later\n")
            closing = await one.ask("close_stdin", execution_id=waiting.id)
            await one.request("control", type="KILL", execution_id=first.id)
            assert await one.answer(writing) == {"accepted_bytes": len("later\n")}
            assert await one.answer(closing) == {}
            await waiting.completed()
            assert waiting.stdout == "later\n"

    async def test_a_full_queue(self, tmp_path):
        """-32008, with the seconds after which another try may be worth it."""
        async with running(tmp_path, max_running=1, max_queued=0) as daemon, daemon.client() as one:
            await one.execute("sleep", "60")
            error = await refused(one, "execute", command="true")
            assert (error.code, error.facts) == (-32008, {"retry_after": 1.0})

    async def test_an_earlier_client_hears_of_the_start_only(self, tmp_path):
        """It knows no queue, so its reply comes when the command runs, or will never."""
        async with running(tmp_path, max_running=1) as daemon, daemon.client() as one:
            async with daemon.client(subprotocol=None) as earlier, trio.open_nursery() as nursery:
                first = await one.execute("sleep", "60")
                replies = []

                async def execute() -> None:
                    replies.append((await earlier.execute("echo", "done")).reply)

                nursery.start_soon(execute)
                await eventually(lambda: len(daemon.daemon._engine.live) == 2, "it waits")
                assert not replies
                await one.request("control", type="KILL", execution_id=first.id)
            assert [each["status"] for each in replies] == ["started"]


class TestOnce:
    """A request that is sent again under its idempotency key means the execution that there is."""

    async def test_a_repeat_is_told_of_the_execution_that_there_is(self, client):
        """As it is now, running or over, and the whole log once more to a connection that does not have it."""
        params = {"command": "echo $$; read line; exit 3", "stdin": "open", "idempotency_key": "k"}
        execution = await client.execute(**params)
        again = await client.execute(**params)
        assert again.reply == execution.reply
        await client.request("close_stdin", execution_id=execution.id)
        outcome = await execution.completed()
        over = await client.request("execute", **params)
        assert (over["execution_id"], over["status"], over["pid"]) == (execution.id, "failed", execution.pid)
        assert over["outcome"] == {key: outcome[key] for key in outcome if key not in ("execution_id", "seq")}
        assert len((await client.request("list"))["executions"]) == 1

    async def test_another_connection_repeats_it_and_has_its_output(self, daemon):
        """Who has lost the reply with the connection sends the request again, and misses nothing."""
        params = {"command": "echo once; exec sleep 60", "idempotency_key": "k", "on_disconnect": "detach"}
        async with daemon.client() as one:
            first = await one.execute(**params)
        async with daemon.client() as other:
            again = await other.execute(**params)
            assert (again.id, again.pid) == (first.id, first.pid)
            await eventually(lambda: again.stdout == "once\n", "its output is there")
            await other.request("control", type="KILL", execution_id=again.id)
            await again.completed()

    async def test_all_at_once_run_one(self, client):
        """However many ask before the first is answered."""
        replies = []

        async def ask() -> None:
            replies.append(await client.request("execute", command="exec sleep 60", idempotency_key="k"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert len({each["execution_id"] for each in replies}) == 1
        assert len((await client.request("list"))["executions"]) == 1

    async def test_other_params_are_a_conflict(self, client):
        """-32011, with the execution that has the key; the environment, of which nothing is kept, is not compared."""
        first = await client.execute(command="true", env={"A": "1", "B": "2"}, idempotency_key="k")
        same = await client.request("execute", command="true", env={"B": "3"}, idempotency_key="k")
        assert same["execution_id"] == first.id
        for other in ({"command": "false"}, {"command": "true", "labels": {"A": "1"}}):
            error = await refused(client, "execute", idempotency_key="k", **other)
            assert (error.code, error.facts) == (-32011, {"execution_id": first.id})

    async def test_what_waits_is_told_where_it_stands(self, tmp_path):
        """A repeat does not wait, and does not stand in line twice."""
        async with running(tmp_path, max_running=1) as daemon, daemon.client() as one:
            await one.execute("sleep", "60")
            waiting = await one.execute("true", idempotency_key="k")
            again = await one.request("execute", argv=["true"], idempotency_key="k")
            assert again == waiting.reply
            assert (again["status"], again["queue_position"]) == ("queued", 1)

    async def test_what_could_not_be_started_is_said_again(self, client):
        """The same refusal: it has not been tried once more."""
        for _ in range(2):
            error = await refused(client, "execute", argv=["/absent"], idempotency_key="k")
            assert error.code == -32006
        assert len((await client.request("list"))["executions"]) == 1

    async def test_a_key_outlives_the_daemon(self, tmp_path):
        """The next one answers with what the earlier one ran, and still sees other params."""
        async with running(tmp_path) as daemon, daemon.client() as one:
            first = await one.execute(command="echo kept; exit 4", idempotency_key="k")
            await first.completed()
        async with running(tmp_path) as daemon, daemon.client() as one:
            again = await one.execute(command="echo kept; exit 4", idempotency_key="k")
            assert (again.id, again.reply["status"], again.reply["outcome"]["exit_code"]) == (first.id, "failed", 4)
            await again.completed()
            assert again.stdout == "kept\n"
            error = await refused(one, "execute", command="true", idempotency_key="k")
            assert error.code == -32011

    async def test_a_key_of_another_principal_is_another_key(self, daemon):
        """Nobody learns of another one's execution by guessing its key."""
        mine = await daemon.ask("execute", command="true", idempotency_key="k")
        token = (await daemon.ask("token_add", name="ci", scopes=["execute"]))["token"]
        async with daemon.client(token=token) as other:
            theirs = await other.request("execute", command="true", idempotency_key="k")
        assert theirs["execution_id"] != mine["execution_id"]
