"""The keeper as a program: what it answers, what it tells by itself, and that it leaves nothing behind."""

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccexecd.process import keeper

from .programs import DOUBLE_FORK, HOSTILE, LAST_WORDS, LEADER_FIRST, SLEEPER, TERM_PROOF, Program, python, sh
from .stage import PATIENCE, described, is_alive, living, state_of, thread_states

Message = dict[str, Any]

ENV = {"PATH": os.environ["PATH"]}

TERMINATING = sorted(
    signal.valid_signals()
    - {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}  # ignored by default
    - {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}  # stop by default
)


class Channel:
    """A keeper, and the daemon's end of its socket.

    Attributes:
        process: the keeper.
        hello: what it said first.
        events: what it said unasked, in order.
    """

    def __init__(self, program: str = "", **popen: Any) -> None:
        code = ["-c", program] if program else [keeper.__file__]
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", *code, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                **popen,
            )
        self.events: list[Message] = []
        self._requests = 0
        self._replies: dict[int, Message] = {}
        self.hello = self._receive()

    def _receive(self) -> Message:
        packet = self.socket.recv(1 << 20)
        if not packet:
            raise EOFError
        message: Message = json.loads(packet)
        return message

    def _sort(self) -> None:
        message = self._receive()
        if "re" in message:
            self._replies[message["re"]] = message
        else:
            self.events.append(message)

    def tell(self, op: str, fds: tuple[int, ...] = (), **message: object) -> int:
        """Send a request and give its number."""
        self._requests += 1
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([json.dumps({"re": self._requests, "op": op, **message}).encode()], rights)
        return self._requests

    def answer(self, request: int) -> Message:
        """Wait for the reply to a request."""
        while request not in self._replies:
            self._sort()
        return self._replies.pop(request)

    def ask(self, op: str, fds: tuple[int, ...] = (), **message: object) -> Message:
        """Send a request and wait for its reply."""
        return self.answer(self.tell(op, fds, **message))

    def event(self, kind: str, number: int) -> Message:
        """Wait for an event of an execution."""
        while True:
            for each in self.events:
                if each["event"] == kind and each["n"] == number:
                    return each
            self._sort()

    def start(self, number: int, argv: tuple[str, ...], /, **message: object) -> Message:
        """Start a leader that writes to nowhere."""
        with Path(os.devnull).open("r+b") as nowhere:
            fds = (nowhere.fileno(), nowhere.fileno())
            return self.ask("spawn", fds, **_launch(number, argv, **message))

    def start_and_read(self, number: int, program: Program, **message: object) -> tuple[int, bytes]:
        """Start a leader, and read until its lines are there; its pid and what it wrote."""
        ours, theirs = os.pipe()
        reply = self.ask("spawn", (theirs, theirs), **_launch(number, program.argv, **message))
        os.close(theirs)
        text = b""
        while text.count(b"\n") < program.lines and (part := os.read(ours, 65536)):
            text += part
        os.close(ours)
        return reply["pid"], text

    def output_of(self, argv: tuple[str, ...], number: int = 1, **message: object) -> str:
        """Start a leader, and read all that it writes."""
        return self.start_and_read(number, Program(argv, lines=1 << 30), **message)[1].decode()

    def hang_up(self) -> None:
        """The daemon is gone."""
        self.socket.close()


def _launch(number: int, argv: tuple[str, ...], /, **message: object) -> Message:
    wanted = {
        "cwd": None,
        "env": ENV,
        "unset": [],
        "grace": 5.0,
        "limits": {},
        "pty": None,
        "stdin": False,
        "user": None,
    }
    return {"n": number, "argv": argv, **wanted, **message}


@contextlib.contextmanager
def opened(program: str = "", **popen: Any) -> Iterator[Channel]:
    """A keeper that leaves when the test is over, without a complaint."""
    channel = Channel(program, **popen)
    yield channel
    channel.hang_up()
    _, complaints = channel.process.communicate(timeout=PATIENCE)
    assert complaints == b""
    assert channel.process.returncode == 0


@pytest.fixture
def channel() -> Iterator[Channel]:
    with opened() as channel:
        yield channel


def wait_until(condition: Any, what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, f"in vain: waited until {what}"
        time.sleep(0.005)


# What it is


def test_it_says_first_who_it_is(channel):
    """A daemon that was upgraded can tell an older keeper."""
    assert channel.hello["event"] == "hello"
    assert channel.hello["protocol"] == keeper.PROTOCOL == 1
    assert channel.hello["pid"] == channel.process.pid


def test_it_is_small(channel):
    """One thread, a handful of descriptors, and nothing from site-packages."""
    assert len(list(Path(f"/proc/{channel.process.pid}/task").iterdir())) == 1
    assert len(list(Path(f"/proc/{channel.process.pid}/fd").iterdir())) < 10
    assert "site-packages" not in Path(f"/proc/{channel.process.pid}/maps").read_text()


def test_it_is_in_a_session_of_its_own(channel):
    """A signal that a terminal sends to the daemon's group is not for it."""
    assert os.getsid(channel.process.pid) == channel.process.pid


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_it_does_not_heed(channel, signum):
    """INT and HUP are the daemon's to act on."""
    channel.process.send_signal(signum)
    assert channel.start(1, ("true",))["pid"]
    assert channel.event("exit", 1)["status"] == 0


# Exits


def test_exit_codes_are_told_as_they_are(channel):
    """All of them, 0 and 255 included."""
    for code in (0, 1, 2, 127, 128, 254, 255):
        channel.start(code + 1, sh(f"exit {code}"))
    assert {code: channel.event("exit", code + 1)["status"] for code in (0, 1, 2, 127, 128, 254, 255)} == {
        code: code for code in (0, 1, 2, 127, 128, 254, 255)
    }


def test_every_signal_that_ends_a_program_is_told_with_its_number(channel):
    """From HUP to the last of the real-time ones: -N."""
    for signum in TERMINATING:
        channel.start(signum, python(KILL_SELF, str(int(signum))))
    assert {signum: channel.event("exit", signum)["status"] for signum in TERMINATING} == {
        signum: -signum for signum in TERMINATING
    }


KILL_SELF = """
import os, signal, sys
signum = int(sys.argv[1])
if signum not in (signal.SIGKILL, signal.SIGSTOP):
    signal.signal(signum, signal.SIG_DFL)
os.kill(os.getpid(), signum)
"""


def test_what_a_leader_used_is_told(channel):
    """Processor time and the greatest memory, as the kernel counted them."""
    channel.start(1, python("x = bytearray(64 << 20)\nfor _ in range(10**6): pass"))
    told = channel.event("exit", 1)
    assert told["max_rss_kib"] > 64 << 10
    assert told["user_s"] > 0


def test_an_exit_is_told_once_and_before_the_end_of_its_tree(channel):
    """`gone` follows only where somebody survived the leader."""
    channel.start(1, ("true",))
    channel.event("exit", 1)
    channel.start_and_read(2, LEADER_FIRST)
    told = channel.event("exit", 2)
    [straggler] = told["survivors"]
    assert is_alive(straggler)
    channel.ask("kill", n=2)
    channel.event("gone", 2)
    assert not is_alive(straggler)
    assert [(each["event"], each["n"]) for each in channel.events] == [("exit", 1), ("exit", 2), ("gone", 2)]


# What a leader is given


def test_a_leader_has_default_signal_dispositions():
    """Whatever whoever started the daemon ignores or blocks: a program starts with a clean slate."""

    def ignore_and_block() -> None:
        for signum in (signal.SIGUSR1, signal.SIGQUIT, signal.SIGTTOU, signal.SIGPIPE, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGALRM, signal.SIGCHLD, signal.SIGTERM})

    with opened(preexec_fn=ignore_and_block) as channel:
        status = channel.output_of(("cat", "/proc/self/status"))
    masks = {
        name: int(mask, 16)
        for name, _, mask in (line.partition(":\t") for line in status.splitlines())
        if name.startswith("Sig") and name != "SigQ"
    }
    for_glibc_alone = 1 << (32 - 1) | 1 << (33 - 1)  # its posix_spawn ignores them; nobody else can use them (nptl(7))
    assert masks == {"SigPnd": 0, "SigBlk": 0, "SigIgn": masks["SigIgn"] & for_glibc_alone, "SigCgt": 0}


def test_a_leader_has_three_descriptors(channel):
    """Nothing of ours leaks into it: not the socket, not the wake-up pipe, not another one's output."""
    channel.start_and_read(1, TERM_PROOF)
    listed = channel.output_of(("ls", "-l", "/proc/self/fd"), 2)
    names = [line.split()[8] for line in listed.splitlines()[1:]]
    assert names == ["0", "1", "2", "3"]  # 3 is what ls reads the directory with
    assert "0 -> /dev/null" in listed
    channel.ask("kill", n=1)
    channel.event("exit", 1)


def test_a_leader_has_a_session_and_a_group_of_its_own(channel):
    """Its pid is both."""
    pid, _ = channel.start_and_read(1, TERM_PROOF)
    assert os.getsid(pid) == os.getpgid(pid) == pid
    channel.ask("kill", n=1)
    channel.event("exit", 1)


def test_a_leader_has_exactly_the_environment_that_was_asked_for(channel):
    """Nothing of the keeper's own."""
    env = {"PATH": ENV["PATH"], "A": "b c\nd", "LEER": ""}
    text = channel.output_of(("env", "-0"), env=env)
    assert dict(entry.split("=", 1) for entry in text.split("\0") if entry) == env


def test_a_leader_is_where_it_was_asked_to_be(channel, tmp_path):
    """Its working directory."""
    assert channel.output_of(("pwd",), cwd=str(tmp_path)) == f"{tmp_path}\n"


def test_a_leader_reads_what_it_was_given_to_read(channel):
    """Its standard input, where there is one."""
    ours, theirs = os.pipe()
    output, write_end = os.pipe()
    channel.ask("spawn", (ours, write_end, write_end), **_launch(1, ("cat",), stdin=True))
    os.close(ours)
    os.close(write_end)
    os.write(theirs, b"hello")
    os.close(theirs)
    assert os.read(output, 100) == b"hello"
    assert os.read(output, 100) == b""  # the keeper holds no end of it
    os.close(output)


# What cannot be started


@pytest.mark.parametrize(
    ("argv", "cwd", "errno", "subject"),
    [
        (("/nowhere/at/all",), None, 2, "program"),
        (("no-such-program-in-path",), None, 2, "program"),
        (("/etc/passwd",), None, 13, "program"),
        (("/etc",), None, 13, "program"),
        (("/etc/passwd/x",), None, 20, "program"),
        (("true",), "/nowhere/at/all", 2, "cwd"),
        (("true",), "/etc/passwd", 20, "cwd"),
        (("true", "x" * 140_000), None, 7, "program"),
    ],
    ids=[
        "missing",
        "not in PATH",
        "not executable",
        "a directory",
        "below a file",
        "cwd missing",
        "cwd a file",
        "word too long",
    ],
)
def test_what_the_kernel_refuses_is_told_with_its_number_and_subject(channel, argv, cwd, errno, subject):
    """The answer says whether it was the program or the working directory."""
    request = _launch(1, argv, cwd=cwd)
    with Path(os.devnull).open("r+b") as nowhere:
        fds = (nowhere.fileno(), nowhere.fileno())
        if len(argv) > 1:  # too large for a packet
            memfd = os.memfd_create("launch")
            size = os.write(memfd, json.dumps({"re": 1, "op": "spawn", **request}).encode())
            channel._requests += 1
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (*fds, memfd)))]
            channel.socket.sendmsg([json.dumps({"memfd": size}).encode()], rights)
            os.close(memfd)
            reply = channel.answer(1)
        else:
            reply = channel.ask("spawn", fds, **request)
    assert (reply["errno"], reply["subject"]) == (errno, subject)
    assert reply["strerror"] == os.strerror(errno)


@pytest.mark.parametrize(
    "message",
    [
        {"argv": ["true", "a\0b"]},
        {"argv": ["a\0b"]},
        {"argv": []},
        {"argv": ["true", "\ud800"]},
        {"env": {"A=B": "c", **ENV}},
        {"env": {"A": "b\0c", **ENV}},
        {"env": {"": "b", **ENV}},
        {"env": {"A": "\ud800", **ENV}},
        {"cwd": "a\0b"},
    ],
    ids=repr,
)
def test_what_cannot_be_a_command_is_refused_and_nobody_else_notices(channel, message):
    """The protocol lets none of it through; if ever it does, the keeper of all others must not end by it."""
    channel.start_and_read(1, TERM_PROOF)
    reply = channel.start(2, ("true",), **message)
    assert reply.get("errno") is not None or message.get("env", {}).get("") == "b"
    assert channel.ask("members", n=1)["pids"]
    channel.ask("kill", n=1)
    assert channel.event("exit", 1)["status"] == -signal.SIGKILL


def test_a_command_that_could_not_be_started_leaves_no_descriptor_and_no_process(channel):
    """A hundred failures cost the keeper nothing."""
    directory = Path(f"/proc/{channel.process.pid}/fd")
    before = len(list(directory.iterdir()))
    for number in range(100):
        assert channel.start(number, ("/nowhere",))["errno"]
    channel.ask("members", n=1)  # it closes what it was given after it has answered
    assert len(list(directory.iterdir())) == before
    assert not living(channel.process.pid)


# Trees


def test_what_is_asked_of_an_execution_that_is_not_there_is_answered(channel):
    """It may have ended a moment ago."""
    assert channel.ask("members", n=9)["pids"] == []
    assert channel.ask("pause", n=9)["running"] == []
    assert channel.ask("resume", n=9)["signalled"] == 0
    assert channel.ask("signal", n=9, signal=15, then=[18])["signalled"] == 0
    channel.ask("kill", n=9)


@pytest.mark.parametrize("name", HOSTILE)
def test_killing_leaves_nothing(channel, name):
    """Whatever a program did to escape."""
    program = HOSTILE[name]
    channel.start_and_read(1, program)
    channel.ask("kill", n=1)
    exited = channel.event("exit", 1)
    if exited["survivors"]:
        channel.event("gone", 1)
    assert not living(channel.process.pid)


def test_the_end_of_a_tree_is_told_once(channel):
    """Whether its leader is reaped while it is killed or after: an end that nobody waits for is no end."""
    for number in range(1, 201):
        channel.start(number, sh("sleep 1000 & sleep 1000"))
    for number in range(1, 201):
        channel.ask("kill", n=number)
    for number in range(1, 201):
        if channel.event("exit", number)["survivors"]:
            channel.event("gone", number)
    channel.ask("members", n=1)  # what was still to be told has been told now
    told = [(each["event"], each["n"]) for each in channel.events]
    assert len(told) == len(set(told))
    with_survivors = {each["n"] for each in channel.events if each.get("survivors")}
    assert {number for event, number in told if event == "gone"} == with_survivors


def test_a_pause_of_what_ends_at_that_moment_is_answered(channel):
    """There is nothing left that could run."""
    for number in range(1, 201):
        channel.start(number, SLEEPER)
        channel.tell("signal", n=number, signal=signal.SIGKILL, then=[])
        request = channel.tell("pause", n=number)
        assert channel.event("exit", number)["status"] == -signal.SIGKILL
        assert channel.answer(request)["running"] == []


def test_a_tree_that_dies_from_the_top_loses_nobody(channel):
    """A leader and its child end at the same moment; the grandchild, deaf to TERM, is a survivor, not a stranger."""
    grandchild = HOSTILE["TERM ignored in a grandchild"]
    for number in range(1, 41):
        channel.start_and_read(number, grandchild)
        channel.ask("signal", n=number, signal=signal.SIGTERM, then=[])
        assert channel.event("exit", number)["survivors"]
        channel.ask("kill", n=number)
        channel.event("gone", number)
    assert not living(channel.process.pid)


def test_a_pause_is_answered_when_every_process_has_stopped(channel):
    """Also those that left the group."""
    pid, _ = channel.start_and_read(1, HOSTILE["twenty daemons"])
    assert channel.ask("pause", n=1)["running"] == []
    tree = {pid, *living(channel.process.pid)}
    assert {letter for each in tree for letter in thread_states(each)} == {"T"}
    channel.ask("resume", n=1)
    assert "T" not in {state_of(each) for each in tree}
    channel.ask("kill", n=1)
    channel.event("exit", 1)


def test_a_fork_bomb_is_listed_in_part():
    """The pids of 32,000 processes do not fit into a packet: the keeper tells some, and lives."""
    crowd = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(keeper.__file__).parents[2])!r})\n"
        "from ccexecd.process import containment, keeper\n"
        "crowd = [containment.Process(pid, 'S', 1) for pid in range(1, 40_000)]\n"
        "containment.Forest.members = lambda forest, number: crowd\n"
        "keeper.main()\n"
    )
    with opened(crowd) as channel:
        listed = channel.ask("members", n=1)["pids"]
        assert listed == list(range(1, len(listed) + 1))
        assert len(listed) >= 1000


def test_two_pauses_at_once_are_both_answered(channel):
    """Neither request gets lost, whatever the order."""
    channel.start_and_read(1, DOUBLE_FORK)
    requests = [channel.tell("pause", n=1) for _ in range(3)]
    assert [channel.answer(each)["running"] for each in requests] == [[], [], []]
    channel.ask("kill", n=1)
    channel.event("exit", 1)


@pytest.fixture
def door(tmp_path: Path) -> Path:
    """A named pipe: whoever opens it waits for the other side."""
    os.mkfifo(tmp_path / "door")
    return tmp_path / "door"


def vforking(door: Path) -> Program:
    """It cannot stop before its child has exec'ed, and that waits for somebody at the door."""
    return Program(
        python(
            "import os, signal, sys, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
            "print('ready', flush=True)\n"
            "child = os.posix_spawn('/bin/sleep', ['sleep', '1000'], {},"
            " file_actions=[(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)])\n"
            "time.sleep(1000)\n",
            str(door),
        )
    )


def test_a_pause_waits_for_the_child_of_a_vfork_to_exec(channel, door):
    """Stopped before, it would keep its parent from stopping: neither would."""
    pid, _ = channel.start_and_read(1, vforking(door))
    wait_until(lambda: state_of(pid) == "D", "it waits in vfork")
    request = channel.tell("pause", n=1)
    channel.ask("members", n=1)  # by now it has begun
    door.write_bytes(b"")
    assert channel.answer(request)["running"] == []
    assert {letter for each in living(channel.process.pid) for letter in thread_states(each)} == {"T"}
    channel.ask("kill", n=1)
    channel.event("exit", 1)


def test_what_does_not_stop_is_named(channel, door):
    """After a while the answer says what is still running."""
    pid, _ = channel.start_and_read(1, vforking(door))
    wait_until(lambda: state_of(pid) == "D", "it waits in vfork")
    began = time.monotonic()
    assert pid in channel.ask("pause", n=1)["running"]
    assert 1.5 < time.monotonic() - began < 5
    channel.ask("kill", n=1)
    channel.event("exit", 1)


def test_a_resume_overtakes_a_pause_that_is_under_way(channel, door):
    """The pause is answered, and stops nothing any more."""
    pid, _ = channel.start_and_read(1, vforking(door))
    wait_until(lambda: state_of(pid) == "D", "it waits in vfork")
    request = channel.tell("pause", n=1)
    channel.ask("resume", n=1)
    channel.answer(request)
    door.write_bytes(b"")
    wait_until(lambda: state_of(pid) == "S", "it goes on")
    assert "T" not in {state_of(each) for each in living(channel.process.pid)}
    channel.ask("kill", n=1)
    channel.event("exit", 1)


def test_an_end_overtakes_a_pause_that_is_under_way(channel, door):
    """A program that is told to end can do so in its own way; the pause does not stop it in the middle of it."""
    pid, _ = channel.start_and_read(1, vforking(door))
    wait_until(lambda: state_of(pid) == "D", "it waits in vfork")
    request = channel.tell("pause", n=1)
    channel.ask("signal", n=1, signal=signal.SIGTERM, then=[signal.SIGCONT])
    door.write_bytes(b"")
    assert channel.event("exit", 1)["status"] == 7
    channel.answer(request)
    channel.ask("kill", n=1)


# The end


@pytest.mark.parametrize("how", ["the daemon is lost", "TERM"])
def test_the_end_of_the_daemon_is_the_end_of_every_tree(how):
    """TERM, grace, KILL, whatever the programs do; then the keeper leaves."""
    channel = Channel()
    for number, program in enumerate(HOSTILE.values()):
        channel.start_and_read(number, program, grace=0.3)
    began = time.monotonic()
    if how == "TERM":
        channel.process.terminate()
    else:
        channel.hang_up()
    _, complaints = channel.process.communicate(timeout=PATIENCE)
    assert complaints == b""
    assert channel.process.returncode == 0
    assert time.monotonic() - began < 0.3 + 2
    assert not described(living())
    channel.hang_up()


def test_a_program_that_ends_at_term_is_not_killed():
    """It has its grace, and what it does in it is done."""
    channel = Channel()
    ours, theirs = os.pipe()
    channel.ask("spawn", (theirs, theirs), **_launch(1, LAST_WORDS.argv, grace=PATIENCE))
    os.close(theirs)
    assert os.read(ours, 100) == b"ready\n"
    channel.hang_up()
    assert b"".join(iter(lambda: os.read(ours, 100), b"")) == b"." * 20 + b"last words\n"
    assert channel.process.wait(PATIENCE) == 0
    os.close(ours)
    channel.process.communicate()


@pytest.mark.parametrize("grace", [3e6, 1e9])
def test_a_grace_of_months_is_waited_for(grace):
    """The kernel counts the milliseconds of a wait in 31 bits."""
    channel = Channel()
    pid, _ = channel.start_and_read(1, Program(sh("trap '' TERM; echo ready; exec sleep 1000")), grace=grace)
    channel.hang_up()
    wait_until(lambda: state_of(channel.process.pid) == "S", "it waits")
    os.kill(pid, signal.SIGKILL)
    _, complaints = channel.process.communicate(timeout=PATIENCE)
    assert (channel.process.returncode, complaints) == (0, b"")


def test_a_keeper_that_leaves_starts_nothing_more():
    """It would wait for what it has just started, for ever."""
    channel = Channel()
    ours, theirs = os.pipe()
    channel.ask("spawn", (theirs, theirs), **_launch(1, LAST_WORDS.argv, grace=PATIENCE))
    os.close(theirs)
    assert os.read(ours, 100) == b"ready\n"
    channel.process.terminate()
    assert os.read(ours, 1) == b"."  # it has heard TERM
    refusal = channel.start(2, SLEEPER)
    assert refusal["subject"] == "keeper"
    assert channel.event("exit", 1)["status"] == 7
    assert channel.process.wait(PATIENCE) == 0
    os.close(ours)
    channel.process.communicate()
    channel.hang_up()


def test_strays_end_with_the_keeper():
    """Even what could not be told apart does not outlive it."""
    channel = Channel()
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
    channel.start_and_read(1, stray)
    channel.event("exit", 1)
    assert living(channel.process.pid)
    channel.hang_up()
    assert channel.process.wait(PATIENCE) == 0
    channel.process.communicate()
    assert not described(living())
