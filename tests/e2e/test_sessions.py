"""What happens to a client's executions when its connection closes, breaks, comes back, or is one too many."""

import os

import pytest

from .client import ClosedError, RefusedError, Watched, connect
from .daemon_process import eventually

TICKS = "i=0; while :; do echo $((i+=1)); sleep 0.01; done"
"""A program that never stops printing numbers."""


def outcome(daemon, execution_id: str) -> dict:
    """What is known of an execution, seen from the operator's door."""
    return daemon.request("status", execution_id=execution_id)


def claim(one) -> dict:
    """What proves a session to be one's own."""
    return {name: one.greeting[name] for name in ("session_id", "resume_token")}


class TestClosed:
    """The client closed the connection: its executions end now."""

    @pytest.mark.parametrize("code", [1000, 1001])
    @pytest.mark.parametrize("on_disconnect", [None, "auto", "cancel"])
    async def test_what_it_ran_is_ended(self, client, daemon, code, on_disconnect):
        """With a close frame, everything that is not to be detached is cancelled: `disconnected`, nothing left."""
        params = {"on_disconnect": on_disconnect} if on_disconnect else {}
        async with client() as one:
            execution = await one.execute("sleep", "300", **params)
            await one.close(code)
        await eventually(lambda: outcome(daemon, execution.id)["state"] == "FINISHED", "it has ended")
        assert outcome(daemon, execution.id)["reason"] == "disconnected"
        assert daemon.processes(execution.id) == []

    async def test_what_is_detached_goes_on(self, client, daemon):
        """With `on_disconnect: "detach"` it outlives its session, and another client can watch it to its end."""
        async with client() as one:
            execution = await one.execute(
                "sh", "-c", "echo first; read go; echo last", stdin="open", on_disconnect="detach"
            )
            await execution.printed("first")
        await eventually(lambda: not daemon.request("status")["sessions"], "its session has ended")
        assert outcome(daemon, execution.id)["state"] == "RUNNING"
        async with client() as other:
            reply = await other.request("attach", execution_id=execution.id, from_seq=0)
            again = Watched(other, {**reply, "execution_id": execution.id})
            await other.request("write_stdin", execution_id=execution.id, data="\n")
            assert (await again.completed())["exit_code"] == 0
            assert again.stdout == "first\nlast\n"


class TestCut:
    """The connection broke: the session stays for a while."""

    async def test_everything_can_be_taken_up_again(self, client, daemon):
        """After a reset, `resume_session` and `attach` from the last position give every byte, none twice."""
        async with client() as one:
            execution = await one.execute("sh", "-c", TICKS)
            await execution.printed("20\n")
            await one.cut()
        seen = execution.notifications
        async with client() as again:
            resumed = await again.request("resume_session", **claim(one))
            assert resumed["session_id"] == one.greeting["session_id"]
            assert [(each["execution_id"], each["state"]) for each in resumed["executions"]] == [
                (execution.id, "RUNNING")
            ]
            position = seen[-1]["params"]["seq"] + 1
            reply = await again.request("attach", execution_id=execution.id, from_seq=position)
            rest = Watched(again, {**reply, "execution_id": execution.id}, from_seq=position)
            await eventually(lambda: len(rest.pieces()) > 20, "it goes on")
            await rest.control("CANCEL")
            await rest.completed()
            numbers = [int(line) for line in (execution.stdout + rest.stdout).split()]
            assert numbers == list(range(1, len(numbers) + 1))
        assert len(daemon.request("list", session=one.greeting["session_id"])["executions"]) == 1

    async def test_what_is_not_worth_keeping_ends_at_once(self, start_daemon):
        """`cancel` ends with a cut too; `auto` waits for the resume, and ends with the window; `detach` outlives it."""
        daemon = start_daemon(resume_window=0.5)
        async with connect(daemon.address) as one:
            started = {
                word: await one.execute("sh", "-c", TICKS, on_disconnect=word) for word in ("auto", "cancel", "detach")
            }
            await one.cut()

        def reasons() -> dict:
            return {word: outcome(daemon, execution.id)["reason"] for word, execution in started.items()}

        await eventually(lambda: reasons()["cancel"], "`cancel` has ended")
        assert reasons() == {"auto": None, "cancel": "disconnected", "detach": None}
        await eventually(lambda: reasons()["auto"], "`auto` has ended with the window")
        assert reasons() == {"auto": "session_expired", "cancel": "disconnected", "detach": None}
        await eventually(lambda: not daemon.request("status")["sessions"], "the session has ended")
        assert daemon.processes(started["auto"].id) == daemon.processes(started["cancel"].id) == []
        with pytest.raises(RefusedError, match="-32003"):
            async with connect(daemon.address) as again:
                await again.request("resume_session", **claim(one))
        daemon.request("control", type="CANCEL", execution_id=started["detach"].id)
        assert reasons()["detach"] == "cancelled"

    async def test_what_ended_meanwhile_is_still_told(self, client):
        """An execution that finished while nobody was there gives its output and its end afterwards."""
        async with client() as one:
            execution = await one.execute("sh", "-c", "sleep 0.2; echo late; exit 3")
            await one.cut()
        async with client() as again:
            await again.request("resume_session", **claim(one))
            assert (await again.request("wait", execution_id=execution.id))["exit_code"] == 3
            reply = await again.request("attach", execution_id=execution.id, from_seq=0)
            whole = Watched(again, {**reply, "execution_id": execution.id})
            await whole.completed()
            assert whole.stdout == "late\n"


class TestTakeOver:
    """`resume_session`: one session, one connection."""

    async def test_an_older_connection_is_closed(self, client):
        """Whoever held the session is closed with 4409; its executions go on with the one that took it over."""
        async with client() as one, client() as other:
            execution = await one.execute("sleep", "300")
            await other.request("resume_session", **claim(one))
            assert await one.closed() == 4409
            with pytest.raises(ClosedError):
                await one.request("list")
            assert (await other.request("control", type="CANCEL"))["execution_id"] == execution.id

    async def test_it_takes_the_token(self, client):
        """Another's id alone, a wrong token, and a session that never was get the same answer."""
        async with client() as one, client() as other:
            wrong = {**claim(one), "resume_token": other.greeting["resume_token"]}
            never = {**claim(one), "session_id": "no-such-session"}
            answers = []
            for params in (wrong, never):
                with pytest.raises(RefusedError) as refused:
                    await other.request("resume_session", **params)
                answers.append((refused.value.code, refused.value.message))
            assert answers[0] == answers[1]
            assert answers[0][0] == -32003
            assert (await one.run("echo", "mine")).stdout == "mine\n"

    async def test_to_resume_what_one_holds_changes_nothing(self, client):
        """Asked for one's own session, the answer is what is in it, and the connection stays."""
        async with client() as one:
            execution = await one.execute("sleep", "300")
            resumed = await one.request("resume_session", **claim(one))
            assert [each["execution_id"] for each in resumed["executions"]] == [execution.id]
            assert (await one.request("control", type="CANCEL"))["status"] == "cancelled"


async def test_one_session_too_many_may_look_but_not_execute(start_daemon):
    """Beyond `max_sessions`, `execute` is -32001; when a place is free, the same connection gets it."""
    daemon = start_daemon(max_sessions=2)
    async with connect(daemon.address) as first, connect(daemon.address) as second:
        execution = await first.execute("sleep", "300")
        await second.run("true")
        async with connect(daemon.address) as third:
            with pytest.raises(RefusedError) as refused:
                await third.execute("true")
            assert (refused.value.code, refused.value.facts) == (-32001, {"max_sessions": 2})
            assert (await third.request("status", execution_id=execution.id))["state"] == "RUNNING"
            await second.close()
            await eventually(lambda: daemon.request("status")["sessions"] == 2, "the second session has ended")
            assert (await third.run("echo", "mine")).stdout == "mine\n"


async def test_an_idle_session_ends(start_daemon):
    """After `session_timeout` without anything running, the connection is closed with 1000; work keeps it open."""
    daemon = start_daemon(session_timeout=0.5)
    async with connect(daemon.address) as idle, connect(daemon.address) as busy:
        execution = await busy.execute("sh", "-c", "sleep 1; echo done")
        assert await idle.closed() == 1000
        await execution.completed()
        assert execution.stdout == "done\n"
        assert await busy.closed() == 1000
    await eventually(lambda: not daemon.request("status")["sessions"], "both sessions have ended")


async def test_a_default_time_out_can_be_configured(start_daemon):
    """`default_execution_timeout` holds where a request names none; the reply says where the time-out comes from."""
    daemon = start_daemon(default_execution_timeout=0.3)
    async with connect(daemon.address) as one:
        execution = await one.execute("sleep", "300")
        assert (execution.reply["timeout"], execution.reply["timeout_source"]) == (0.3, "default")
        assert (await execution.completed())["reason"] == "timeout"
        longer = await one.execute("sh", "-c", "sleep 0.6; echo done", timeout=60)
        assert longer.reply["timeout_source"] == "request"
        assert (await longer.completed())["exit_code"] == 0


async def test_a_stop_tells_everybody_and_ends_everything(start_daemon):
    """SIGTERM: `server.draining`, the last output and `process.completed` with `shutdown`, close 1001, exit 0."""
    daemon = start_daemon()
    async with connect(daemon.address) as one, connect(daemon.address, subprotocol=None) as other:
        script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
        execution = await one.execute(command=script)
        await execution.printed("ready")
        daemon.process.terminate()
        assert "deadline" in await one.notification("server.draining")
        completed = await execution.completed()
        assert (completed["reason"], completed["exit_code"]) == ("shutdown", 0)
        assert execution.stdout == "ready\nbye\n"
        assert await one.closed() == 1001
        assert await other.closed() == 1001
    daemon.stop()


@pytest.mark.parametrize("who", ["daemon", "keeper"])
async def test_a_crash_leaves_nothing_running(start_daemon, who):
    """`kill -9` of the daemon, or of its keeper: every tree is ended; with the keeper it is told as `lost`."""
    daemon = start_daemon()
    daemon.may_log_errors = True
    async with connect(daemon.address) as one:
        execution = await one.execute("sh", "-c", "setsid sleep 300 & echo ready; exec sleep 300", grace=0.5)
        await execution.printed("ready")
        if who == "keeper":
            os.kill(daemon.keeper, 9)
            completed = await execution.completed()
            assert completed["reason"] == "lost"
            assert daemon.processes(execution.id) == []
            assert (await one.run("echo", "on")).stdout == "on\n"
        else:
            daemon.process.kill()
            assert await one.closed() == 1006
            daemon.process.wait()
            daemon.wait_until_nothing_is_left()
