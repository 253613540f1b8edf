"""The daemon's side of the keeper: asking it, large and odd requests, losing it, and letting go of it."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ccexecd.process import keeper, keeper_client, keeper_link
from ccexecd.process.keeper_client import KeeperClient
from ccexecd.process.leader import Launch, Leader, SpawnError

from .programs import DOUBLE_FORK, HOSTILE, LEADER_FIRST, SLEEPER, TERM_PROOF, Program, python, sh
from .stage import (
    PATIENCE,
    described,
    family,
    is_alive,
    living,
    open_descriptors,
    running_keeper,
    spawn,
    thread_states,
    wait_for,
)

ENV = {"PATH": os.environ["PATH"]}


async def spawned(keeper: KeeperClient, argv: tuple[str, ...], **launch: object) -> Leader:
    """Start a leader that writes to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        wanted = Launch(**{"argv": argv, "cwd": None, "env": ENV, "grace": 5.0, **launch})  # type: ignore[arg-type]
        return await spawn(keeper, wanted, nowhere, nowhere)
    finally:
        os.close(nowhere)


async def ready(keeper: KeeperClient, program: Program, **launch: object) -> Leader:
    """Start a leader, and wait for its lines."""
    ours, theirs = os.pipe()
    wanted = Launch(**{"argv": program.argv, "cwd": None, "env": ENV, "grace": 5.0, **launch})  # type: ignore[arg-type]
    leader = await spawn(keeper, wanted, theirs, theirs)
    os.close(theirs)
    async with trio.lowlevel.FdStream(ours) as output:
        text = b""
        with trio.fail_after(PATIENCE):
            while text.count(b"\n") < program.lines:
                text += await output.receive_some()
    return leader


async def output_of(keeper: KeeperClient, argv: tuple[str, ...], **launch: object) -> bytes:
    """Start a leader, and read all that it writes."""
    ours, theirs = os.pipe()
    wanted = Launch(**{"argv": argv, "cwd": None, "env": ENV, "grace": 5.0, **launch})  # type: ignore[arg-type]
    await spawn(keeper, wanted, theirs, theirs)
    os.close(theirs)
    text = bytearray()
    async with trio.lowlevel.FdStream(ours) as output:
        with trio.fail_after(PATIENCE):
            while part := await output.receive_some():
                text += part
    return bytes(text)


async def ended(keeper: KeeperClient, leader: Leader) -> None:
    """Kill a tree, and wait for its end."""
    await keeper.kill(leader)
    with trio.fail_after(PATIENCE):
        await leader.gone.wait()


@pytest.fixture
def slow_keepers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that does not answer is not waited for as long as a real one."""
    monkeypatch.setattr(keeper_link, "ANSWER_PATIENCE", 0.3)


# Asking


async def test_a_leader_is_told_of_as_it_lives_and_ends():
    """Its pid, its exit, and the end of its tree."""
    async with running_keeper() as keeper:
        leader = await spawned(keeper, sh("exit 3"))
        assert leader.pid > 0
        with trio.fail_after(PATIENCE):
            await leader.gone.wait()
        assert leader.exited.is_set()
        assert leader.exit is not None
        assert (leader.exit.code, leader.exit.survivors, leader.exit.supervision_lost) == (3, (), False)


async def test_a_tree_is_gone_when_its_last_process_is():
    """Not when its leader has exited."""
    async with running_keeper() as keeper:
        leader = await ready(keeper, LEADER_FIRST)
        with trio.fail_after(PATIENCE):
            await leader.exited.wait()
        assert leader.exit is not None
        assert leader.exit.code == 0
        assert list(leader.exit.survivors) == await keeper.members(leader)
        assert not leader.gone.is_set()
        await ended(keeper, leader)
        assert not is_alive(leader.exit.survivors[0])


async def test_every_request_reaches_the_whole_tree():
    """Pause, resume, signal, terminate, kill."""
    async with running_keeper() as keeper:
        leader = await ready(keeper, HOSTILE["twenty daemons"])
        tree = set(await keeper.members(leader))
        assert tree == living(keeper.pid)
        assert len(tree) == 21
        assert await keeper.pause(leader) == []
        assert {letter for pid in tree for letter in thread_states(pid)} == {"T"}
        await keeper.resume(leader)
        assert "T" not in {letter for pid in tree for letter in thread_states(pid)}
        await keeper.signal(leader, signal.SIGSTOP)
        await wait_for(lambda: {letter for pid in tree for letter in thread_states(pid)} == {"T"}, "all have stopped")
        await keeper.terminate(leader)
        with trio.fail_after(PATIENCE):
            await leader.exited.wait()
        assert set(await keeper.members(leader)) == tree - {leader.pid}
        await ended(keeper, leader)


async def test_a_tree_that_is_gone_needs_nothing_more():
    """Whatever is asked of it, there is nothing to do."""
    async with running_keeper() as keeper:
        leader = await spawned(keeper, ("true",))
        with trio.fail_after(PATIENCE):
            await leader.gone.wait()
        await keeper.terminate(leader)
        await keeper.kill(leader)
        await keeper.resume(leader)
        assert await keeper.pause(leader) == []
        assert await keeper.members(leader) == []


# What is started


async def test_a_large_environment_and_many_words_arrive_whole():
    """What does not fit into a packet goes another way."""
    words = [f"{number:0100d}" for number in range(5000)]
    env = {f"NAME_{number}": "v" * 1000 for number in range(500)} | ENV
    async with running_keeper() as keeper:
        counted = await output_of(
            keeper,
            python("import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))", *words),
            env=env,
        )
    arrived_words, arrived_env = json.loads(counted)
    assert arrived_words == words
    assert env.items() <= arrived_env.items()


async def test_an_inherited_environment_that_is_no_utf8_arrives_as_it_is():
    """Bytes that Python shows as lone surrogates (PEP 383)."""
    env = {"ODD": os.fsdecode(b"a\xff\xfeb"), os.fsdecode(b"N\xe4me"): "x", **ENV}
    async with running_keeper() as keeper:
        text = await output_of(keeper, ("env", "-0"), env=env)
        assert b"ODD=a\xff\xfeb" in text.split(b"\0")
        assert b"N\xe4me=x" in text.split(b"\0")


async def test_words_and_directories_may_have_any_name(tmp_path):
    """Line feeds, quotes, and characters from anywhere."""
    directory = tmp_path / "a 'b' \"c\"\n\u00e4\u4e2d\U0001f600"
    directory.mkdir()
    async with running_keeper() as keeper:
        text = await output_of(keeper, sh('pwd; printf "%s" "$1"', "x\n'\"\u4e2d"), cwd=str(directory))
        assert text.decode() == f"{directory}\nx\n'\"\u4e2d"


@pytest.mark.parametrize(
    ("argv", "cwd", "errno", "text"),
    [
        (("/nowhere/at/all",), None, 2, "program '/nowhere/at/all': No such file or directory"),
        (("/etc/passwd",), None, 13, "program '/etc/passwd': Permission denied"),
        (("true",), "/nowhere", 2, "working directory '/nowhere': No such file or directory"),
        (("true",), "/etc/passwd", 20, "working directory '/etc/passwd': Not a directory"),
        (("true", *["x" * 100_000] * 30), None, 7, "program 'true': Argument list too long"),
        (("true", "a\0b"), None, 22, "program 'true': embedded null byte"),
    ],
    ids=["program missing", "not executable", "cwd missing", "cwd a file", "list too long", "NUL"],
)
async def test_a_refusal_says_what_was_refused_and_why(argv, cwd, errno, text):
    """For the client: the kernel's number and its words, and the name that they are about."""
    async with running_keeper() as keeper:
        with pytest.raises(SpawnError) as refused:
            await spawned(keeper, argv, cwd=cwd)
        assert refused.value.errno == errno
        assert str(refused.value) == text
        assert (await spawned(keeper, ("true",))).pid


@pytest.mark.parametrize("umask", [0o022, 0o077])
async def test_leaders_get_the_umask_of_whoever_started_the_daemon(umask):
    """The daemon's own is strict, for its sockets."""
    async with running_keeper(umask) as keeper:
        assert int(await output_of(keeper, sh("umask")), 8) == umask


async def test_a_burst_is_started_in_order_and_nothing_gets_mixed_up():
    """Two hundred at once: each has its own exit code."""
    async with running_keeper() as keeper:
        leaders: dict[int, Leader] = {}

        async def start(code: int) -> None:
            leaders[code] = await spawned(keeper, sh(f"exit {code}"))

        async with trio.open_nursery() as nursery:
            for code in range(200):
                nursery.start_soon(start, code)
        with trio.fail_after(PATIENCE):
            for leader in leaders.values():
                await leader.gone.wait()
        assert {code: leader.exit and leader.exit.code for code, leader in leaders.items()} == {
            code: code for code in range(200)
        }
        assert not keeper._leaders


async def test_whoever_asked_may_go_but_the_leader_is_known():
    """A spawn is not given up half way: nothing runs that nobody knows of."""
    async with running_keeper() as keeper:
        leaders = []
        with trio.CancelScope() as client:
            client.cancel()
            leaders.append(await spawned(keeper, SLEEPER))
        assert living(keeper.pid) == {leaders[0].pid}
        await ended(keeper, leaders[0])


# Losing it


async def test_a_lost_keeper_is_replaced_and_nothing_of_it_is_left():
    """Its trees are ended and reaped, each is told of as lost, and the next one works."""
    async with running_keeper() as keeper:
        leaders = [await ready(keeper, program) for program in (*HOSTILE.values(), *[TERM_PROOF] * 5)]
        descriptors = open_descriptors()
        first = keeper.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(PATIENCE):
            for leader in leaders:
                await leader.gone.wait()
        assert all(
            leader.exit and (leader.exit.code is None or leader.exit.supervision_lost or leader.exit.survivors)
            for leader in leaders
        )
        await wait_for(lambda: keeper.pid not in (first, None), "there is another")
        assert family() == {keeper.pid}
        assert (await output_of(keeper, sh("echo fine"))) == b"fine\n"
        assert open_descriptors() == descriptors


async def test_what_had_no_tag_is_ended_with_its_keeper():
    """Nobody could tell whose it was; now that its keeper is lost, nobody would ever look after it."""
    stray = Program(
        python(
            "import os, resource, time\n"
            "resource.setrlimit(resource.RLIMIT_RTTIME, (-1, -1))\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    print('ready', flush=True)\n"
            "    time.sleep(1000)\n"
        )
    )
    async with running_keeper() as keeper:
        leader = await ready(keeper, stray)
        with trio.fail_after(PATIENCE):
            await leader.gone.wait()
        first = keeper.pid
        assert living(first)
        os.kill(first, signal.SIGKILL)
        await wait_for(
            lambda: keeper.pid not in (first, None) and not living() - {keeper.pid},
            "nothing but another keeper is left",
        )


async def test_a_keeper_that_is_told_to_end_gives_its_trees_their_grace():
    """TERM to it alone: programs end as they like, exits are true, and another keeper takes over."""
    heeding = Program(
        python(
            "import os, signal, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
            "print('ready', flush=True)\n"
            "time.sleep(1000)\n"
        )
    )
    async with running_keeper() as keeper:
        leader = await ready(keeper, heeding)
        proof = await ready(keeper, TERM_PROOF, grace=0.3)
        first = keeper.pid
        assert first is not None
        os.kill(first, signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            await leader.gone.wait()
            await proof.gone.wait()
        assert leader.exit is not None
        assert proof.exit is not None
        assert (leader.exit.code, proof.exit.code) == (7, -signal.SIGKILL)
        await wait_for(lambda: keeper.pid not in (first, None), "there is another")
        assert (await output_of(keeper, sh("echo fine"))) == b"fine\n"


async def test_a_burst_in_which_the_keeper_is_lost_ends_one_way_or_the_other():
    """Each of 200 is started or refused; those that had not been asked for yet get the next keeper."""
    async with running_keeper() as keeper:
        outcomes: list[Leader | SpawnError] = []

        async def start() -> None:
            try:
                outcomes.append(await spawned(keeper, SLEEPER))
            except SpawnError as refused:
                outcomes.append(refused)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(start)
                await wait_for(lambda: len(outcomes) > 20, "some have been started")
                assert keeper.pid
                os.kill(keeper.pid, signal.SIGKILL)
        refused = [each for each in outcomes if isinstance(each, SpawnError)]
        assert len(outcomes) == 200
        assert len(refused) <= 16
        assert {each.subject for each in refused} <= {"keeper"}
        leaders = [each for each in outcomes if isinstance(each, Leader) and not each.gone.is_set()]
        assert {each.pid for each in leaders} == living(keeper.pid)
        for leader in leaders:
            await keeper.kill(leader)
        with trio.fail_after(PATIENCE):
            for leader in leaders:
                await leader.gone.wait()


async def test_a_leader_that_the_keeper_reaped_as_its_last_act_is_not_waited_for():
    """Nobody will ever tell how it ended: it is lost at once."""
    async with running_keeper() as keeper:
        leader = await ready(keeper, TERM_PROOF)
        first = keeper.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        forgotten = Leader(1000)
        forgotten.pid = 1  # no child of ours
        keeper._leaders[forgotten.number] = forgotten
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(3):
            await leader.gone.wait()
            await forgotten.gone.wait()
            await wait_for(lambda: keeper.pid not in (first, None), "there is another")
        assert forgotten.exit is not None
        assert (forgotten.exit.code, forgotten.exit.supervision_lost) == (None, True)


async def test_a_keeper_that_does_not_answer_is_replaced(slow_keepers):
    """It is stopped, or a file system holds it up: what it kept is lost, but nobody waits for ever."""
    async with running_keeper() as keeper:
        leader = await ready(keeper, DOUBLE_FORK)
        assert keeper.pid
        os.kill(keeper.pid, signal.SIGSTOP)
        with trio.fail_after(PATIENCE):
            assert await keeper.members(leader) == []
            await leader.gone.wait()
            assert await output_of(keeper, sh("echo fine")) == b"fine\n"


# Letting go of it


async def test_letting_go_ends_what_runs():
    """The keeper of a daemon that ends, in order or not, leaves nothing behind."""
    async with running_keeper() as keeper:
        leader = await ready(keeper, TERM_PROOF, grace=0.2)
        process = keeper._process
        assert process is not None
    with trio.fail_after(1):
        await leader.gone.wait()
    assert leader.exit is not None
    assert leader.exit.supervision_lost
    await wait_for(lambda: not described(living()), "nothing is left")
    assert process.wait() == 0


@asynccontextmanager
async def stopped_keeper() -> AsyncIterator[tuple[KeeperClient, Leader, trio.Nursery]]:
    """A keeper that does not answer, to a client that is let go at the end; and a nursery that outlives it."""
    async with trio.open_nursery() as outer, running_keeper() as keeper:
        leader = await ready(keeper, TERM_PROOF, grace=0.0)
        process = keeper._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        yield keeper, leader, outer
        await wait_all_tasks_blocked(
            0.02
        )  # and now it is let go of, which takes the second that a keeper gets to leave
    process.send_signal(signal.SIGCONT)
    process.wait()


async def test_whoever_waits_for_a_keeper_that_is_let_go_is_told():
    """No answer will come: not to a spawn, and not to a question, shielded as they are."""
    answers = []
    with trio.fail_after(PATIENCE):
        async with stopped_keeper() as (keeper, leader, outer):

            async def ask() -> None:
                with trio.CancelScope(shield=True):
                    answers.append(await keeper.pause(leader))

            async def start() -> None:
                with pytest.raises(SpawnError) as refused:
                    await spawned(keeper, SLEEPER)
                answers.append(refused.value.subject)

            outer.start_soon(ask)
            for _ in range(20):  # more than may be under way at a time
                outer.start_soon(start)
    assert answers.count([]) == 1
    assert answers.count("keeper") == 20


async def test_whoever_waits_for_room_to_ask_is_told():
    """The socket is full because the keeper does not read, and then it is closed."""
    answers = []
    with trio.fail_after(PATIENCE):
        async with stopped_keeper() as (keeper, leader, outer):

            async def ask() -> None:
                with trio.CancelScope(shield=True):
                    answers.append(await keeper.members(leader))

            for _ in range(1000):
                outer.start_soon(ask)
    assert answers == [[]] * 1000


async def test_a_keeper_that_cannot_be_started_again_is_tried_again(monkeypatch):
    """The daemon goes on without one: a spawn that waited for it is refused, and once there is one again, all works."""
    monkeypatch.setattr(keeper_client, "_RETRY_AFTER", 0.05)
    async with running_keeper() as client:
        with monkeypatch.context() as broken:
            broken.setattr(keeper, "__file__", "/nowhere/keeper.py")
            assert client.pid
            os.kill(client.pid, signal.SIGKILL)
            await wait_for(lambda: client.pid is None, "it is noticed")
            for _ in range(3):
                with (
                    trio.fail_after(PATIENCE),
                    pytest.raises(SpawnError, match="the keeper ended at once") as no,
                ):
                    await spawned(client, SLEEPER)
                assert no.value.subject == "keeper"
        with trio.fail_after(PATIENCE):
            while True:
                with suppress(SpawnError):
                    assert await output_of(client, sh("echo fine")) == b"fine\n"
                    break


async def test_what_is_asked_of_a_lost_keeper_is_never_asked_of_the_next():
    """The socket is full of questions when the keeper is lost: all are told so, and the next one hears none of them."""
    answers = []
    async with running_keeper() as keeper:
        leader = await ready(keeper, TERM_PROOF)
        first = keeper.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)

        async def ask() -> None:
            answers.append(await keeper.members(leader))

        async def start() -> None:
            try:
                await ended(keeper, await spawned(keeper, SLEEPER))
                answers.append("started")
            except SpawnError as refused:
                answers.append(str(refused))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(1000):
                    nursery.start_soon(ask)
                for _ in range(100):
                    nursery.start_soon(start)
                await wait_all_tasks_blocked()
                os.kill(first, signal.SIGKILL)
            assert await output_of(keeper, sh("echo fine")) == b"fine\n"
        assert answers.count([]) == 1000
        lost = "keeper: was lost while starting it; try again"
        assert answers.count(lost) == 16  # as many as are asked for at a time
        assert answers.count("started") == 84
        await wait_for(lambda: not keeper._leaders, "nobody waits for anything")


# Starting it


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another program is started as the keeper: what is written here."""
    program = tmp_path / "keeper.py"
    monkeypatch.setattr(keeper, "__file__", str(program))
    monkeypatch.setattr(keeper_client, "_START_PATIENCE", 0.3)
    return program


OTHER_VERSION = """
import socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
channel.send(b'{"event": "hello", "protocol": 99, "pid": 1, "epoch": 1}')
channel.recv(1)
"""


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("raise SystemExit(1)", "the keeper ended at once"),
        ("import time; time.sleep(1000)", "the keeper did not start"),
        (OTHER_VERSION, "the keeper speaks version 99, not 1"),
    ],
    ids=["ends", "is silent", "speaks another version"],
)
async def test_a_keeper_that_is_none_is_told_to_whoever_starts_the_daemon(stand_in, program, complaint):
    """The daemon does not come up without one, and the text says why."""
    stand_in.write_text(program)
    client = KeeperClient(0o022)
    with trio.fail_after(PATIENCE), pytest.raises(OSError, match=complaint):
        await client.run()
    assert not described(living())
