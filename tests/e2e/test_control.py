"""PAUSE, RESUME, CANCEL, KILL, SIGNAL: the reply comes when it is true, and /proc agrees."""

import signal

import pytest
import trio

from .client import PATIENCE
from .daemon_process import command_of, eventually, state_of

FAMILY = """
import os, subprocess, sys, time
same_group = subprocess.Popen(["sleep", "301"])
own_session = subprocess.Popen(["sleep", "302"], start_new_session=True)
if not os.fork():
    os.setsid()
    if not os.fork():
        os.execvp("sleep", ["sleep", "303"])  # an orphan in a session of its own
    os._exit(0)
print("ready", flush=True)
time.sleep(300)
"""
"""A leader, a child, a child in a session of its own, and an orphan of a double fork: what agents leave about."""

PAUSE_RESUME = ("PAUSE", "RESUME")

IGNORES_TERM = "trap '' TERM; echo ready; while :; do sleep 300; done"


async def family(one, daemon):
    """Start it; gives the execution and the pids of all four."""
    execution = await one.execute("python3", "-c", FAMILY)
    await execution.printed("ready")

    def all_there() -> list[int]:
        pids = daemon.processes(execution.id)
        programs = {word for pid in pids for word in command_of(pid)}
        return pids if {"301", "302", "303"} <= programs and len(pids) == 4 else []

    return execution, await eventually(all_there, "the family is complete")


def states(pids: list[int]) -> set[str]:
    """The state letters of processes."""
    return {state_of(pid) for pid in pids}


class TestPause:
    """PAUSE and RESUME."""

    async def test_everything_stands_still_and_goes_on(self, client, daemon):
        """At the reply to PAUSE every process of the tree is stopped, whatever its session; at RESUME's none is."""
        async with client() as one:
            execution, pids = await family(one, daemon)
            for _ in range(3):
                reply = await execution.control("PAUSE")
                assert states(pids) == {"T"}
                assert reply == {"status": "paused", "execution_id": execution.id, "survivors": []}
                assert (await one.request("status", execution_id=execution.id))["state"] == "PAUSED"
                assert (await execution.control("RESUME"))["status"] == "resumed"
                assert "T" not in states(pids)
            assert execution.sequence()[-2:] == ["process.paused", "process.resumed"]

    async def test_no_output_is_lost_over_a_pause(self, client):
        """A counter that is stopped and continued over and over counts without a hole, and stands still in between."""
        async with client() as one:
            counts = "import itertools, time\nfor n in itertools.count(): print(n, flush=True); time.sleep(0.001)"
            execution = await one.execute("python3", "-c", counts)
            for _ in range(5):
                printed = len(execution.pieces())
                await eventually(lambda: len(execution.pieces()) > printed + 5, "it counts")  # noqa: B023
                await execution.control("PAUSE")
                before = (await one.request("status", execution_id=execution.id))["stdout_bytes"]
                await one.run("sleep", "0.05")
                assert (await one.request("status", execution_id=execution.id))["stdout_bytes"] == before
                await execution.control("RESUME")
            await execution.control("CANCEL")
            await execution.completed()
            numbers = [int(line) for line in execution.stdout.split()]
            assert numbers == list(range(len(numbers)))

    async def test_the_clock_stands_still_too(self, client):
        """Time paused does not count against the time-out."""
        async with client() as one:
            execution = await one.execute("sh", "-c", "sleep 0.6; echo done", timeout=1.0)
            await execution.control("PAUSE")
            await trio.sleep(1.2)  # longer than the time-out: what is tested is that this time does not count
            await execution.control("RESUME")
            completed = await execution.completed()
            assert (completed["reason"], execution.stdout) == ("exited", "done\n")

    async def test_it_can_be_sent_right_behind_execute(self, client):
        """EXECUTE and PAUSE without waiting for the reply: it is paused as soon as it has started."""
        async with client(subprotocol=None) as one:
            for _ in range(10):
                asked = [
                    await one.ask("execute", command="sleep 300", timeout=0.2),
                    await one.ask("control", type="PAUSE"),
                ]
                answers = [await one.answer(number) for number in asked]
                assert [answer["status"] for answer in answers] == ["started", "paused"]
                assert state_of(answers[0]["pid"]) == "T"
                await one.request("control", type="CANCEL")

    async def test_a_pause_and_a_resume_right_behind_execute_happen_in_order(self, client):
        """EXECUTE, PAUSE and RESUME in one batch: all three are true, in this order."""
        async with client() as one:
            asked = [("execute", {"argv": ["sleep", "300"]}), *(("control", {"type": kind}) for kind in PAUSE_RESUME)]
            calls = [{"jsonrpc": "2.0", "id": n, "method": method, "params": p} for n, (method, p) in enumerate(asked)]
            await one.send(calls)
            replies = {reply["id"]: reply for reply in await one.batch()}
            assert [replies[number].get("result", {}).get("status") for number in range(3)] == [
                "started",
                "paused",
                "resumed",
            ]
            assert state_of(replies[0]["result"]["pid"]) != "T"

    async def test_what_is_sent_without_waiting_happens_in_order(self, client):
        """PAUSE and RESUME over and over, no reply awaited: all are answered in order, and the last one holds."""
        async with client() as one:
            execution = await one.execute("sleep", "300")
            asked = [await one.ask("control", type=kind) for kind in PAUSE_RESUME * 20]
            answers = [await one.answer(number) for number in asked]
            assert [answer["status"] for answer in answers] == ["paused", "resumed"] * 20
            assert state_of(execution.pid) != "T"


class TestCancel:
    """CANCEL: TERM, grace, KILL, and nothing is left."""

    async def test_at_the_reply_nothing_is_left(self, client, daemon):
        """Leader, child, session of its own, orphan: all gone, none even a zombie, when the reply comes."""
        async with client() as one:
            for _ in range(10):
                execution, pids = await family(one, daemon)
                reply = await execution.control("CANCEL")
                assert [state_of(pid) for pid in pids] == [""] * 4
                assert daemon.processes(execution.id) == []
                assert reply == {"status": "cancelled", "execution_id": execution.id, "survivors": []}
                completed = await execution.completed()
                assert (completed["status"], completed["reason"]) == ("failed", "cancelled")
                assert (completed["exit_code"], completed["signal"]) == (-15, 15)
                assert execution.sequence()[-2:] == ["process.cancelled", "process.completed"]

    async def test_it_can_be_sent_right_behind_execute(self, client, daemon):
        """Both are answered, and nothing has started that goes on."""
        async with client() as one:
            for _ in range(10):
                asked = [await one.ask("execute", argv=["sleep", "300"]), await one.ask("control", type="CANCEL")]
                assert [(await one.answer(number))["status"] for number in asked] == ["started", "cancelled"]
                assert daemon.processes() == []

    async def test_a_paused_one_can_be_cancelled(self, client, daemon):
        """A stopped process hears TERM: nothing has to be resumed first, and it does not take the whole grace."""
        async with client() as one:
            execution, _ = await family(one, daemon)
            await execution.control("PAUSE")
            with trio.fail_after(5):
                assert (await execution.control("CANCEL", grace=PATIENCE))["status"] == "cancelled"
            assert daemon.processes(execution.id) == []
            assert (await execution.completed())["exit_code"] == -15

    async def test_last_words_are_delivered(self, client):
        """What a program prints while it cleans up on TERM comes before its end, and its own exit code counts."""
        async with client() as one:
            script = "trap 'seq 50000; echo cleaned; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
            execution = await one.execute(command=script)
            await execution.printed("ready")
            await execution.control("CANCEL")
            completed = await execution.completed()
            assert (completed["exit_code"], completed["reason"]) == (7, "cancelled")
            assert execution.stdout.splitlines()[-1] == "cleaned"
            assert len(execution.stdout.splitlines()) == 50_002

    async def test_what_ignores_term_is_killed_after_its_grace(self, client, daemon):
        """Not before the grace, not long after it."""
        async with client() as one:
            execution = await one.execute(command=IGNORES_TERM)
            await execution.printed("ready")
            asked = trio.current_time()
            await execution.control("CANCEL", grace=0.5)
            assert 0.5 <= trio.current_time() - asked < 5
            assert daemon.processes(execution.id) == []
            assert (await execution.completed())["signal"] == signal.SIGKILL

    async def test_the_grace_of_execute_counts_where_cancel_names_none(self, client):
        """`execute` says how long the program needs; CANCEL keeps to it."""
        async with client() as one:
            execution = await one.execute(command=IGNORES_TERM, grace=0.2)
            await execution.printed("ready")
            with trio.fail_after(5):
                await execution.control("CANCEL")
            assert (await execution.completed())["signal"] == signal.SIGKILL

    async def test_without_waiting_the_reply_comes_at_once(self, client):
        """`wait: false` is answered "cancelling"; asked again with less grace, it hurries."""
        async with client() as one:
            execution = await one.execute(command=IGNORES_TERM)
            await execution.printed("ready")
            assert (await execution.control("CANCEL", grace=PATIENCE, wait=False))["status"] == "cancelling"
            assert (await one.request("status", execution_id=execution.id))["state"] == "TERMINATING"
            with trio.fail_after(5):
                assert (await execution.control("CANCEL", grace=0))["status"] == "cancelled"
            await execution.completed()

    async def test_everybody_who_asks_is_answered(self, client):
        """Ten CANCELs at once: ten replies, one end."""
        async with client() as one:
            execution = await one.execute(command=IGNORES_TERM, grace=0.5)
            await execution.printed("ready")
            asked = [await one.ask("control", type="CANCEL", execution_id=execution.id) for _ in range(10)]
            assert [(await one.answer(number))["status"] for number in asked] == ["cancelled"] * 10
            await execution.completed()


class TestKill:
    """KILL: SIGKILL, now."""

    async def test_nothing_is_left_and_nobody_was_asked(self, client, daemon):
        """The whole tree is gone at the reply; the program gets no TERM that it could answer."""
        async with client() as one:
            execution, _ = await family(one, daemon)
            assert (await execution.control("KILL"))["status"] == "killed"
            assert daemon.processes(execution.id) == []
            completed = await execution.completed()
            assert (completed["signal"], completed["reason"]) == (9, "cancelled")

    async def test_a_handler_of_term_is_not_run(self, client):
        """A program that would print on TERM is killed without a word."""
        async with client() as one:
            script = "import signal, os, time\nsignal.signal(15, lambda *_: os._exit(os.write(1, b'TERM\\n')))\n"
            for _ in range(5):
                execution = await one.execute("python3", "-c", script + "print('ready', flush=True)\ntime.sleep(300)")
                await execution.printed("ready")
                await execution.control("KILL")
                assert (await execution.completed())["signal"] == signal.SIGKILL
                assert execution.stdout == "ready\n"


class TestSignal:
    """SIGNAL: any signal, by name, to every process of the tree."""

    @pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "usr1"])
    async def test_a_signal_arrives(self, client, name):
        """With or without SIG, in either case; the execution goes on."""
        async with client() as one:
            execution = await one.execute(command="trap 'echo caught' USR1; echo ready; while :; do sleep 0.01; done")
            await execution.printed("ready")
            assert (await execution.control("SIGNAL", signal=name))["status"] == "signalled"
            await execution.printed("caught")
            assert (await one.request("status", execution_id=execution.id))["state"] == "RUNNING"

    async def test_a_deadly_one_is_told_as_what_it_was(self, client):
        """A program that a signal ended: -N, the signal, and `signaled` as the reason, for nobody cancelled it."""
        async with client() as one:
            execution = await one.execute("sleep", "300")
            await execution.control("SIGNAL", signal="HUP")
            completed = await execution.completed()
            assert (completed["exit_code"], completed["signal"], completed["reason"]) == (-1, 1, "signaled")


class TestEnd:
    """Exit truth."""

    @pytest.mark.parametrize("code", [0, 1, 42, 255])
    async def test_the_exit_code_is_the_programs(self, client, code):
        """`completed` for 0 only."""
        async with client() as one:
            completed = await (await one.execute("sh", "-c", f"exit {code}")).completed()
            assert (completed["exit_code"], completed["signal"], completed["reason"]) == (code, None, "exited")
            assert completed["status"] == ("failed" if code else "completed")

    async def test_a_time_out_ends_it(self, client, daemon):
        """`timeout` seconds, then TERM, grace, KILL: the reason is `timeout`."""
        async with client() as one:
            execution = await one.execute(command=IGNORES_TERM, timeout=0.3, grace=0.1)
            assert (execution.reply["timeout"], execution.reply["timeout_source"]) == (0.3, "request")
            completed = await execution.completed()
            assert (completed["reason"], completed["signal"]) == ("timeout", 9)
            assert daemon.processes(execution.id) == []

    async def test_what_a_program_leaves_behind_is_ended_and_told(self, client, daemon):
        """A service left in the background does not outlive the command, nor hold up its end for long."""
        async with client() as one:
            with trio.fail_after(10):
                done = await one.run(command="setsid sleep 300 & sleep 300 & echo left; exit 0")
            completed = done.notifications[-1]["params"]
            assert (completed["exit_code"], completed["reason"], len(completed["leftovers"])) == (0, "exited", 2)
            assert daemon.processes(done.id) == []

    async def test_resource_use_is_told(self, client):
        """Seconds of CPU and bytes of memory, of the program and the children it waited for."""
        async with client() as one:
            done = await one.run("python3", "-c", "x = bytearray(100_000_000); sum(range(3_000_000))")
            completed = done.notifications[-1]["params"]
            assert completed["rusage"]["max_rss_bytes"] > 100_000_000
            assert 0.01 < completed["rusage"]["user_s"] < completed["duration"] + 1
            assert completed["duration"] > 0
