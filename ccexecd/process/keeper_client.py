"""The daemon's side of the keeper: starting it, asking it, and surviving its loss.

Owns the socket pair and the numbering of executions towards the keeper. When the keeper ends unexpectedly, the daemon,
itself a subreaper, has inherited every tree: it ends and reaps them here, tells their supervisors that supervision was
lost, and starts another keeper. Must not decide when an execution ends.
"""

import array
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import orjson
import trio

from ccexecd.core.execution import Exit, ResourceUse
from ccexecd.process import containment, keeper
from ccexecd.process.leader import Launch, Leader, SpawnError

log = logging.getLogger(__name__)

_START_PATIENCE = 10.0
"""Seconds until a keeper that says no hello is given up: it starts in 0.04 s on an idle machine."""

_ANSWER_PATIENCE = 15.0
"""Seconds until a keeper that does not answer is replaced, and with it everything that it kept. It answers within
milliseconds, but for the start of a program: a file system that hangs can hold it up there."""

_SPAWNS_UNDER_WAY = 16
"""Spawns asked for at a time: enough to keep the keeper busy, few enough that descriptors in flight stay far from their
limit (the sender's RLIMIT_NOFILE, unix(7))."""

_INHERIT_PATIENCE = 5.0
"""Seconds for killing and reaping what a lost keeper left; only a process in uninterruptible sleep takes so long."""


class KeeperLostError(Exception):
    """The keeper ended before it answered."""


@attrs.define(eq=False)
class _Reply:
    arrived: trio.Event = attrs.field(factory=trio.Event)
    message: dict[str, Any] | None = None


class KeeperClient:
    """The one keeper of a daemon, replaced when it is lost.

    Args:
        umask: what leaders get as their file creation mask.
    """

    def __init__(self, umask: int) -> None:
        self._umask = umask
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._epoch = 0
        self._ready = trio.Event()
        self._replies: dict[int, _Reply] = {}
        self._leaders: dict[int, Leader] = {}
        self._last_request = 0
        self._last_number = 0
        self._spawning = trio.Semaphore(_SPAWNS_UNDER_WAY)
        self._sending = trio.StrictFIFOLock()

    @property
    def pid(self) -> int | None:
        """The keeper's pid; None while there is none."""
        return self._process.pid if self._process else None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a keeper until cancelled.

        Raises:
            OSError: the first one could not be started.
        """
        containment.become_subreaper()
        try:
            while True:
                self._start()
                with trio.move_on_after(_START_PATIENCE) as patience:
                    await self._receive_until(self._ready)
                if patience.cancelled_caught and not self._ready.is_set():
                    raise OSError("the keeper did not start; its errors are in the daemon's log")
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await self._receive_until(None)
                log.error("the keeper ended unexpectedly; ending what it kept and starting another")
                await self._inherit()
        finally:
            self._close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", keeper.__file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
            )
        self._socket = ours

    def _close(self) -> None:
        """Let go of the keeper: it ends whatever is left, and then itself. Nobody waits for what it would have told."""
        self._hang_up()
        self._ready.set()
        for number in list(self._leaders):
            self._lose(number)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1.0)

    # Asking

    async def spawn(self, launch: Launch, stdin: int | None, stdout: int, stderr: int) -> Leader:
        """Start a leader. Not to be interrupted: once asked, the answer is awaited, so that no leader gets lost.

        Args:
            launch: what to start.
            stdin: the descriptor that it reads; None is /dev/null.
            stdout: the descriptor that it writes.
            stderr: likewise. All three stay the caller's to close.

        Raises:
            SpawnError: it could not be started.
        """
        # Shielded, yet bounded: the keeper answers, or is lost and then told so.
        with trio.CancelScope(shield=True):
            try:
                self._spawning.acquire_nowait()  # as a rule there is room: no pass of the scheduler for it
            except trio.WouldBlock:
                await self._spawning.acquire()
            try:
                if not self._ready.is_set():  # nothing has been asked yet: the next keeper will do
                    await self._ready.wait()
                leader = await self._spawn(launch, stdin, stdout, stderr)
            finally:
                self._spawning.release()
        return leader

    async def _spawn(self, launch: Launch, stdin: int | None, stdout: int, stderr: int) -> Leader:
        self._last_number += 1
        leader = Leader(self._last_number)
        self._leaders[leader.number] = leader
        message = {
            "op": "spawn",
            "n": leader.number,
            "argv": list(launch.argv),
            "cwd": launch.cwd,
            "env": dict(launch.env),
            "umask": self._umask,
            "grace": launch.grace,
            "stdin": stdin is not None,
        }
        try:
            answer = await self._ask(message, [fd for fd in (stdin, stdout, stderr) if fd is not None])
        except KeeperLostError:  # whatever it had started already is found by its tag and ended
            raise SpawnError(0, "the keeper was lost while starting it; try again", "keeper") from None
        if "errno" in answer:
            del self._leaders[leader.number]
            refused = {"cwd": launch.cwd, "program": launch.argv[0]}.get(answer["subject"]) or ""
            raise SpawnError(answer["errno"], answer["strerror"], answer["subject"], refused[:200])
        return leader

    async def terminate(self, leader: Leader) -> None:
        """TERM, then CONT so that a stopped process hears it, to the whole tree."""
        await self._tell(leader, op="signal", signal=signal.SIGTERM, then=[signal.SIGCONT])

    async def signal(self, leader: Leader, signum: int) -> None:
        """Any signal to the whole tree."""
        await self._tell(leader, op="signal", signal=signum, then=[])

    async def kill(self, leader: Leader) -> None:
        """KILL everything in the tree now, and what turns up in it later on sight; `gone` tells when it is done."""
        await self._tell(leader, op="kill")

    async def pause(self, leader: Leader) -> list[int]:
        """Stop the whole tree.

        Returns:
            The pids that could not be stopped; empty when every process of it is stopped now.
        """
        return list((await self._tell(leader, op="pause")).get("running", ()))

    async def resume(self, leader: Leader) -> None:
        """Let the whole tree go on."""
        await self._tell(leader, op="resume")

    async def members(self, leader: Leader) -> list[int]:
        """The living processes of the tree."""
        return list((await self._tell(leader, op="members")).get("pids", ()))

    async def _tell(self, leader: Leader, **message: object) -> dict[str, Any]:
        """Ask about a tree that may be gone, by a keeper that may be lost: then there is nothing to do any more."""
        if leader.gone.is_set():
            return {}
        try:
            return await self._ask({"n": leader.number, **message})
        except KeeperLostError:
            return {}

    async def _ask(self, message: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        self._last_request += 1
        request = self._last_request
        reply = self._replies[request] = _Reply()
        try:
            await self._send({"re": request, **message}, fds)
            with trio.move_on_after(_ANSWER_PATIENCE) as patience:
                await reply.arrived.wait()
            if patience.cancelled_caught and self._process is not None:
                log.error("the keeper does not answer; replacing it")
                self._process.kill()  # `run` notices, inherits what it kept, and lets every waiting request go
                await reply.arrived.wait()
        finally:
            self._replies.pop(request, None)
        if reply.message is None:
            raise KeeperLostError
        return reply.message

    async def _send(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        packet = _encode(message)
        if len(packet) <= keeper.MAX_PACKET:
            await self._send_packet(packet, fds)
            return
        memfd = os.memfd_create("ccexecd-launch", os.MFD_CLOEXEC)
        try:
            os.write(memfd, packet)
            await self._send_packet(_encode({"memfd": len(packet)}), [*fds, memfd])
        finally:
            os.close(memfd)

    async def _send_packet(self, packet: bytes, fds: Sequence[int]) -> None:
        """Send at once where the socket takes it; else wait in line, for only one task may wait for a socket."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        if not self._sending.locked() and self._sent(packet, rights):
            return
        async with self._sending:
            while not self._sent(packet, rights):
                if self._socket is not None:
                    with contextlib.suppress(trio.ClosedResourceError):  # the keeper is lost: the next try tells
                        await trio.lowlevel.wait_writable(self._socket)

    def _sent(self, packet: bytes, rights: list[tuple[int, int, "array.array[int]"]]) -> bool:
        """Try to send. Returns whether the socket took it."""
        if self._socket is None:
            raise KeeperLostError
        try:
            self._socket.sendmsg([packet], rights)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            raise KeeperLostError from None
        return True

    # Hearing

    async def _receive_until(self, event: trio.Event | None) -> None:
        """Take messages until the event is set, or, with none, until the keeper is gone."""
        connected = self._socket
        while connected is not None and not (event is not None and event.is_set()):
            try:
                packet = connected.recv(keeper.MAX_PACKET)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(connected)
                continue
            except ConnectionResetError:
                packet = b""
            if not packet:
                if event is not None:
                    raise OSError("the keeper ended at once; its errors are in the daemon's log")
                return
            self._heard(orjson.loads(packet))

    def _heard(self, message: dict[str, Any]) -> None:
        if "pid" in message and "n" in message:
            self._leaders[message["n"]].pid = message["pid"]
        if "re" in message:
            reply = self._replies.get(message["re"])
            if reply is not None:
                reply.message = message
                reply.arrived.set()
            return
        match message["event"]:
            case "hello":
                if message["protocol"] != keeper.PROTOCOL:
                    raise OSError(f"the keeper speaks version {message['protocol']}, not {keeper.PROTOCOL}")
                self._epoch = message["epoch"]
                self._ready.set()
            case "exit":
                use = ResourceUse(message["user_s"], message["system_s"], message["max_rss_kib"] * 1024)
                self._exited(message["n"], Exit(message["status"], use, tuple(message["survivors"])))
            case "gone":
                self._gone(message["n"])

    def _exited(self, number: int, how: Exit) -> None:
        leader = self._leaders[number]
        leader.exit = how
        leader.exited.set()
        if not how.survivors:
            self._gone(number)

    def _gone(self, number: int) -> None:
        self._leaders.pop(number).gone.set()

    # Losing it

    def _hang_up(self) -> None:
        """There is no keeper: whoever waits for an answer, or for room to ask, is told so."""
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None
        for reply in self._replies.values():
            reply.arrived.set()

    async def _inherit(self) -> None:
        """End and reap, as the subreaper that inherited them, the trees of a keeper that is gone."""
        self._ready = trio.Event()
        self._hang_up()
        if self._process is not None:
            await trio.to_thread.run_sync(self._process.wait)
        forest = containment.Forest(self._epoch)
        forest.leaders.update({leader.pid: number for number, leader in self._leaders.items() if leader.pid})
        with trio.move_on_after(_INHERIT_PATIENCE):
            while self._leaders or forest.strays():
                self._end_inherited(forest)
                await trio.sleep(0.005)  # a killed process needs a moment to die; the patience bounds it
        for number, leader in list(self._leaders.items()):
            log.error("process %d and what it started could not be ended", leader.pid)
            self._lose(number)

    def _end_inherited(self, forest: containment.Forest) -> None:
        for number in self._leaders:
            for process in forest.members(number):
                containment.send(process, signal.SIGKILL)
        for process in forest.strays():  # nobody but the keeper had children
            containment.send(process, signal.SIGKILL)
        for pid, how in _reap_all():
            forest.reaped(pid)
            number_of_leader = forest.leaders.pop(pid, None)
            if number_of_leader is not None:
                leader = self._leaders[number_of_leader]
                leader.exit = how
                leader.exited.set()
        inherited = containment.children_of(os.getpid())
        for number, leader in list(self._leaders.items()):
            is_reaped = leader.exit is not None or leader.pid not in inherited  # by us, or by the keeper
            if is_reaped and not forest.members(number):
                self._lose(number)

    def _lose(self, number: int) -> None:
        """Nothing more will be heard of an execution."""
        leader = self._leaders[number]
        leader.exit = leader.exit or Exit(None, supervision_lost=True)
        leader.exited.set()
        self._gone(number)


def _reap_all() -> Iterator[tuple[int, Exit]]:
    """Every dead child of the daemon: with the keeper gone, all of them are inherited ones."""
    while True:
        try:
            pid, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        use = ResourceUse(used.ru_utime, used.ru_stime, used.ru_maxrss * 1024)
        yield pid, Exit(os.waitstatus_to_exitcode(status), use, supervision_lost=True)


def _encode(message: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(message)
    except (TypeError, orjson.JSONEncodeError):  # an inherited environment that is not UTF-8 (PEP 383)
        return json.dumps(message).encode()
