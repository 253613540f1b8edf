"""The daemon's side of the keeper: starting it, asking it, and surviving its loss.

Owns the keeper's life and the numbering of executions towards it. When the keeper ends unexpectedly, the daemon has
what it left ended, tells the supervisors that supervision was lost, and starts another keeper. Must not decide when an
execution ends.
"""

import contextlib
import logging
import resource
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from ccexecd.core.execution import Exit, ResourceUse
from ccexecd.process import containment, control_groups, keeper
from ccexecd.process.control_groups import Base
from ccexecd.process.inheritance import end_inherited
from ccexecd.process.keeper_link import KeeperLink, KeeperLostError, close_all
from ccexecd.process.leader import Launch, Leader, SpawnError
from ccexecd.process.packets import Message
from ccexecd.threads import NoThreadError, in_thread

log = logging.getLogger(__name__)

_START_PATIENCE = 10.0
"""Seconds until a keeper that says no hello is given up: it starts in 0.04 s on an idle machine."""

_RETRY_AFTER = 1.0
"""Seconds until a keeper that could not be replaced (no descriptors, no processes) is tried again."""

_SPAWNS_UNDER_WAY = 16
"""Spawns asked for at a time: enough to keep the keeper busy, few enough that descriptors in flight stay far from their
limit (the sender's RLIMIT_NOFILE, unix(7))."""

Settled = Callable[[Leader | SpawnError], None]
"""Called with the result of a spawn, in the step in which it is known. Must not raise."""


@attrs.frozen
class _Spawn:
    launch: Launch
    stdio: Sequence[int]
    settled: Settled


class KeeperClient:
    """The one keeper of a daemon, replaced when it is lost.

    Args:
        umask: file creation mask of the leaders.
        with_groups: give executions control groups, if the daemon may make some.
        descriptors: soft and hard limit of descriptors of the keeper and all that it starts; None takes our own.
    """

    def __init__(self, umask: int, *, with_groups: bool = True, descriptors: tuple[int, int] | None = None) -> None:
        self._umask = umask
        self._descriptors = descriptors
        self._with_groups = with_groups
        self._groups: Base | None = None
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._link: KeeperLink | None = None  # from its hello to its end
        self._epoch = 0
        self._wanted: deque[_Spawn] = deque()  # not asked for yet
        self._under_way = 0
        self._leaders: dict[int, Leader] = {}
        self._last_number = 0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The keeper's pid; None while there is none."""
        return self._process.pid if self._process else None

    @property
    def control_group(self) -> str | None:
        """Path of the group that contains the executions' control groups; None if they have none."""
        return self._groups.path if self._groups is not None else None

    # Its life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep one keeper running until cancelled.

        Args:
            task_status: called when the first keeper works.

        Raises:
            OSError: the first keeper could not be started. A later failure is logged, and the start tried again.
        """
        containment.become_subreaper()
        self._groups = control_groups.claim() if self._with_groups else None
        try:
            await self._live(task_status.started)
            while True:
                log.error("the keeper ended unexpectedly; starting another")
                try:
                    await self._live(self._go_on)
                except OSError as error:
                    log.error("the keeper could not be replaced: %s; trying again", error)  # noqa: TRY400
                    self._refuse(f"could not be replaced: {error}; try again")
                    await trio.sleep(_RETRY_AFTER)
        finally:
            self._close()

    async def _live(self, greeted: Callable[[], None]) -> None:
        """Start one keeper, serve it until it is lost, and end what it leaves.

        Args:
            greeted: called when the keeper has said its hello.

        Raises:
            OSError: the keeper could not be started.
        """
        mismatch = ""

        def told(message: Message) -> None:
            nonlocal mismatch
            if message["event"] != "hello":
                self._told(message)
            elif message["protocol"] != keeper.PROTOCOL:  # the daemon was upgraded under our feet
                mismatch = f"the keeper speaks version {message['protocol']}, not {keeper.PROTOCOL}; restart the daemon"
                link.close()
            else:
                self._epoch = message["epoch"]
                self._link = link
                self.inherit(self._environment)
                greeted()

        link = KeeperLink(self._start(), told, _START_PATIENCE)
        try:
            hung_up = await link.run()
        finally:
            works, self._link = self._link is not None, None
            link.close()  # what was under way is told so; if it lives, it ends everything and itself
        if works and not hung_up:
            log.error("the keeper does not answer; ending it")
        await self._bury(by_force=not hung_up or not works)
        if not works:
            complaint = "the keeper ended at once" if hung_up else "the keeper did not start"
            raise OSError(mismatch or f"{complaint}; its errors are in the daemon's log")

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lock = [self._groups.lock] if self._groups is not None else []
        groups = [self._groups.path, str(self._groups.lock)] if self._groups is not None else []
        try:
            ours.setblocking(False)
            self._process = subprocess.Popen(  # noqa: S603  # our own keeper, by this interpreter
                [sys.executable, "-I", "-S", "-X", "utf8", keeper.__file__, str(theirs.fileno()), *groups],
                pass_fds=[theirs.fileno(), *lock],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                umask=self._umask,
            )
            if self._descriptors is not None:
                with contextlib.suppress(OSError):  # it has ended at once: its hello will not come
                    resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, self._descriptors)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    async def _bury(self, *, by_force: bool) -> None:
        """Reap a keeper that has ended, or that `by_force` is killed first, and end what it had started."""
        process, self._process = self._process, None
        if process is None:
            return
        if by_force:
            process.kill()
        try:
            await in_thread(process.wait)
        except NoThreadError:  # it will be over in a moment, or is
            process.wait()
        await end_inherited(self._epoch, self._leaders, self._groups)

    def _close(self) -> None:
        """Fail all queued requests, and wait up to a second for the keeper, which ends what is left, and itself."""
        self._closed = True
        self._refuse("is ending; try again")
        for leader in self._leaders.values():
            leader.is_lost()
        self._leaders.clear()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1.0)
        if self._groups is not None:
            self._groups.dissolve()

    # Asking

    def inherit(self, environment: Mapping[str, str]) -> None:
        """Set the environment that every leader inherits from now on."""
        self._environment = dict(environment)
        if self._link is not None:
            self._link.post({"op": "environment", "env": self._environment}, (), _heed_nothing)

    def spawn(self, launch: Launch, stdio: Sequence[int], settled: Settled) -> None:
        """Ask for a leader, without waiting. A request cannot be withdrawn, so that no leader gets lost.

        Args:
            launch: what to start.
            stdio: descriptors for its standard input, output and error; if the first is left out, it reads /dev/null.
                With a terminal: the descriptor that keeps the terminal alive until the leader has opened it. They
                belong to this object from here on, and are closed.
            settled: called once, with the leader or the reason why there is none; perhaps before this returns.
        """
        self._wanted.append(_Spawn(launch, stdio, settled))
        if self._closed:
            self._refuse("is ending; try again")
        self._go_on()

    def _go_on(self) -> None:
        """Send queued requests for leaders to the keeper, `_SPAWNS_UNDER_WAY` at a time."""
        while self._wanted and self._link is not None and self._under_way < _SPAWNS_UNDER_WAY:
            self._post(self._link, self._wanted.popleft())

    def _post(self, link: KeeperLink, wanted: _Spawn) -> None:
        self._last_number += 1
        leader = Leader(self._last_number)
        self._leaders[leader.number] = leader
        self._under_way += 1
        launch = wanted.launch

        def heard(answer: Message | None) -> None:
            self._under_way -= 1
            if answer is None:  # whatever it had started already is found by its tag and ended
                wanted.settled(SpawnError(0, "was lost while starting it; try again", "keeper"))
            elif "errno" in answer:
                self._leaders.pop(leader.number, None)
                refused = {"cwd": launch.cwd, "program": next(iter(launch.argv), None)}.get(answer["subject"]) or ""
                wanted.settled(SpawnError(answer["errno"], answer["strerror"], answer["subject"], refused[:200]))
            else:
                leader.pid = answer["pid"]
                wanted.settled(leader)
            self._go_on()

        message = {
            "op": "spawn",
            "n": leader.number,
            "argv": list(launch.argv),
            "cwd": launch.cwd,
            "env": dict(launch.env),
            "unset": list(launch.unset),
            "grace": launch.grace,
            "limits": dict(launch.limits),
            "user": [launch.user.uid, launch.user.gid, launch.user.groups] if launch.user is not None else None,
            "stdin": len(wanted.stdio) == len(("stdin", "stdout", "stderr")),
            "pty": launch.terminal,
        }
        link.post(message, wanted.stdio, heard)

    def _refuse(self, why: str) -> None:
        """Settle all queued requests for leaders with an error."""
        while self._wanted:
            spawn = self._wanted.popleft()
            close_all(spawn.stdio)
            spawn.settled(SpawnError(0, why, "keeper"))

    async def terminate(self, leader: Leader) -> None:
        """Send TERM to the whole tree, then CONT, so that stopped processes receive it."""
        await self._tell(leader, op="signal", signal=signal.SIGTERM, then=[signal.SIGCONT])

    async def signal(self, leader: Leader, signum: int) -> None:
        """Send a signal to the whole tree."""
        await self._tell(leader, op="signal", signal=signum, then=[])

    async def kill(self, leader: Leader) -> None:
        """Send KILL to everything in the tree, and to whatever appears in it later; `Leader.gone` is set at its end."""
        await self._tell(leader, op="kill")

    async def pause(self, leader: Leader) -> list[int]:
        """Stop the whole tree.

        Returns:
            The pids that could not be stopped; empty when every process of it is stopped now.
        """
        return list((await self._tell(leader, op="pause")).get("running", ()))

    async def resume(self, leader: Leader) -> None:
        """Continue the whole tree."""
        await self._tell(leader, op="resume")

    async def members(self, leader: Leader) -> list[int]:
        """Return the pids of the living processes of the tree."""
        return list((await self._tell(leader, op="members")).get("pids", ()))

    async def _tell(self, leader: Leader, **message: object) -> dict[str, Any]:
        """Send a request about a tree and return the answer; empty if the tree is gone or the keeper lost."""
        if leader.gone.is_set() or self._link is None:
            return {}
        try:
            return await self._link.ask({"n": leader.number, **message})
        except KeeperLostError:
            return {}

    # Hearing

    def _told(self, message: Message) -> None:
        leader = self._leaders[message["n"]]
        match message["event"]:
            case "exit":
                leader.has_exited(_exit_of(message))
            case "limit":
                leader.is_beyond(message["limit"])
            case "gone":
                leader.gone.set()
        if leader.gone.is_set():
            del self._leaders[leader.number]


def _exit_of(message: Message) -> Exit:
    use = ResourceUse(message["user_s"], message["system_s"], message["max_rss_kib"] * 1024)
    return Exit(message["status"], use, tuple(message["survivors"]), limit=message["limit"])


def _heed_nothing(_: Message | None) -> None:
    """Ignore the answer to a request."""
