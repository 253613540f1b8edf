"""The keeper: the small process that is parent of every leader, so that none outlives the daemon by accident.

Theory of operation. The daemon starts one keeper by exec (`python -I -S`, so no site-packages: standard library only,
a few megabytes, one thread but for moves between control groups) and talks to it over a SEQPACKET socket pair. The
keeper starts leaders, reaps them, signals their trees and says when a tree is empty; output never passes through it,
for the daemon makes the pipes and hands over only the ends that a leader gets. When the socket ends, because the daemon
was killed, the keeper ends every tree (TERM, grace, KILL) and leaves. It is a subreaper: what a tree abandons becomes
its child, and SIGCHLD tells it, so nothing here polls but a kill, a pause or a limit that nobody else counts.

Messages are JSON objects, one a packet; one too large for a packet travels in a memfd. The daemon asks with ``{"re":
K, "op": …, "n": N}`` and hears ``{"re": K, …}``; N numbers an execution. Unasked, it hears ``{"event": "exit", "n":
N, "status": …, "survivors": […]}`` once for each leader and ``{"event": "gone", "n": N}`` when the last process of
that tree has been reaped. The first message is ``{"event": "hello", "protocol": 1, …}``: an upgraded daemon that
meets an older keeper can tell.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":  # started by path with -I -S: the folder that holds the package is not on sys.path yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from ccexecd.process import containment, limits, starting
from ccexecd.process.leaves import Leaves
from ccexecd.process.packets import Message, Packets
from ccexecd.process.tree import Pause, Tree

PROTOCOL = 1
"""Version of the messages; the hello carries it."""

_LONGEST_SLEEP = 3600.0  # seconds: the kernel counts milliseconds in 31 bits
_KILL_BURST = 0.05  # seconds that one pass may chase a tree which forks faster than it is killed

_MAX_LISTED = 1000  # pids in one message: the list of a fork bomb would not fit into a packet


class Keeper:
    """The loop: one socket to the daemon, one wake-up pipe for SIGCHLD."""

    def __init__(self, channel: Packets, groups: str) -> None:
        self._channel = channel
        self._epoch = containment.new_epoch()
        self._oom_score = limits.OomScore()
        self._trees: dict[int, Tree] = {}
        self._unsettled: set[Tree] = set()  # in which something is awaited: a stop, an end, the last survivor
        self._unlimited: set[Tree] = set()  # those whose limits are not yet in force
        self._leaving = False
        self._term_received = False
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._leaves = Leaves(groups, lambda: os.write(wake_write, b"\0"))
        self._forest = containment.Forest(self._epoch, self._leaves.number_of)
        # Python handlers, not SIG_IGN: an ignored signal would stay ignored in every leader.
        for signum in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)  # never ignored: a shutting-down machine would wait for us
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(channel, select.EPOLLIN)
        self._operations = {
            "spawn": self._spawn,
            "signal": self._signal,
            "pause": self._pause,
            "resume": self._resume,
            "kill": self._kill,
            "members": self._members,
            "environment": self._set_environment,
        }
        self._environment: dict[str, str] = {}

    def run(self) -> None:
        """Serve until the daemon is gone and every tree has ended."""
        self._channel.send({"event": "hello", "protocol": PROTOCOL, "pid": os.getpid(), "epoch": self._epoch})
        self._leaves.wait()  # so that the very first execution has a leaf
        while not (self._leaving and not self._trees):
            for fd, _ in self._epoll.poll(self._time_to_next_look()):
                if fd == self._wake:
                    self._drain_wake_pipe()
                else:
                    self._receive()
            if self._term_received:
                self._leave()
            self._look_after_leaves()
            self._reap()
            self._look_after_trees()
        for stray in self._forest.strays():
            containment.send(stray, signal.SIGKILL)
        self._leaves.dissolve()

    # What the daemon asks for

    def _spawn(self, message: Message, fds: list[int]) -> None:
        if self._leaving:  # it would have to wait for what it starts
            self._refuse(message, 0, "is ending; try again", "keeper")
            return
        number, wanted = message["n"], message["limits"]
        self._leaves.prepare(alone=bool(wanted))
        bearing = limits.on_processes(wanted, memory=not self._leaves.bear_memory) if wanted else None
        try:
            with containment.tagged(self._epoch, number), self._oom_score.raised():
                pid = starting.start(
                    message["argv"],
                    self._environment_of(message),
                    message["cwd"],
                    fds if message["stdin"] else [self._null, *fds],
                    terminal=message["pty"],
                    prepare=starting.as_user(message["user"], bearing),
                )
        except starting.StartRefusedError as refused:
            self._refuse(message, refused.errno, refused.strerror, refused.subject)
            return
        while fds:  # now: as long as we hold them, a pipe whose only user has gone seems to have another one
            os.close(fds.pop())
        leaf = self._leaves.born(number, pid)
        tree = self._trees[number] = Tree(number, pid, message["grace"], leaf, wanted)
        self._forest.leaders[pid] = number
        self._channel.send({"re": message["re"], "n": number, "pid": pid})
        if wanted:
            self._unlimited.add(tree)

    def _limit(self, tree: Tree) -> None:
        """Apply the limits of a tree, now that its control group contains nothing else."""
        self._unlimited.discard(tree)
        if tree.limit():
            self._unsettled.add(tree)

    def _refuse(self, message: Message, errno: int, strerror: str, subject: str) -> None:
        self._channel.send({"re": message["re"], "errno": errno, "strerror": strerror, "subject": subject})

    def _set_environment(self, message: Message, _: list[int]) -> None:
        """Set the environment that every leader inherits from now on, so that no request has to repeat it."""
        self._environment = message["env"]
        self._channel.send({"re": message["re"]})

    def _environment_of(self, message: Message) -> dict[str, str]:
        env = {**self._environment, **message["env"]}
        for name in message["unset"]:
            env.pop(name, None)
        return env

    def _signal(self, message: Message, _: list[int]) -> None:
        """Signal every process of a tree; `then` follows (CONT after TERM, so that a stopped one hears it)."""
        signals = (message["signal"], *message["then"])
        found = self._forest.members(message["n"])
        tree = self._trees.get(message["n"])
        if tree is not None and signal.SIGCONT in signals:
            self._end_pause(tree, found)  # else it would stop them again
        for signum in signals:
            for process in reversed(found) if signum == signal.SIGCONT else found:  # jobs before their shell
                containment.send(process, signum)
        self._channel.send({"re": message["re"], "signalled": len(found)})

    def _pause(self, message: Message, _: list[int]) -> None:
        tree = self._trees.get(message["n"])
        if tree is None:
            self._channel.send({"re": message["re"], "running": []})
            return
        tree.pause = tree.pause or Pause(tree.group)
        tree.pause.wait_for(message["re"])
        self._unsettled.add(tree)
        self._look_after_pause(tree)

    def _resume(self, message: Message, _: list[int]) -> None:
        self._signal({**message, "signal": signal.SIGCONT, "then": []}, [])

    def _kill(self, message: Message, _: list[int]) -> None:
        tree = self._trees.get(message["n"])
        if tree is not None:
            tree.kill_at = time.monotonic()
            self._unsettled.add(tree)
            self._chase(tree)
        self._channel.send({"re": message["re"]})

    def _members(self, message: Message, _: list[int]) -> None:
        self._channel.send({"re": message["re"], "pids": _pids(self._forest.members(message["n"]))})

    # What happens by itself

    def _look_after_leaves(self) -> None:
        self._leaves.arrive()
        for tree in list(self._unlimited):
            if tree.leaf is None or tree.leaf.is_vacated:
                self._limit(tree)
        move_at = self._leaves.move_at
        if move_at is not None and time.monotonic() >= move_at:
            self._leaves.move()

    def _reap(self) -> None:
        """Reap every dead child, then report the leaders among them, so that a reported leader is never a zombie."""
        exits = []
        while (dead := self._next_dead()) is not None:
            number = self._forest.leaders.get(dead)
            if number is None:
                self._reap_orphan(dead)
            else:
                exits.append(self._reap_leader(self._trees[number]))
        for message in exits:
            self._channel.send(message)

    def _reap_orphan(self, pid: int) -> None:
        number = self._forest.owner(pid) if any(tree.counts_reaped for tree in self._unsettled) else None
        _, _, used = os.wait4(pid, 0)
        self._forest.reaped(pid)
        if number is not None and number in self._trees:
            self._trees[number].count(used.ru_utime + used.ru_stime)

    @staticmethod
    def _next_dead() -> int | None:
        """The pid of a dead child, which stays a zombie and so keeps its number; None when there is none."""
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        return dead.si_pid if dead else None

    def _reap_leader(self, tree: Tree) -> Message:
        """Reap a leader and return the `exit` event. Its survivors are listed first, while its zombie pins its pid."""
        orphans = self._forest.orphans(tree.number)
        survivors = _pids(orphans)
        _, waited, used = os.wait4(tree.pid, 0)
        status = os.waitstatus_to_exitcode(waited)
        tree.count(used.ru_utime + used.ru_stime)
        limit = limits.told_by(status, tree.limits, tree.group) or tree.exceeded(orphans)
        del self._forest.leaders[tree.pid]
        tree.leader_reaped = True
        if survivors:
            self._unsettled.add(tree)
        else:
            self._forget(tree)
        return {
            "event": "exit",
            "n": tree.number,
            "status": status,
            "limit": limit,
            "user_s": round(used.ru_utime, 6),  # microseconds are what the kernel counts
            "system_s": round(used.ru_stime, 6),
            "max_rss_kib": used.ru_maxrss,
            "survivors": survivors,
        }

    def _look_after_trees(self) -> None:
        now = time.monotonic()
        for tree in list(self._unsettled):
            if tree.kill_at is not None and now >= tree.kill_at:
                self._chase(tree)
            if tree.pause is not None:
                self._look_after_pause(tree)
            if tree.is_to_be_watched:
                self._look_after_limits(tree)
            if tree not in self._unsettled:  # the chase has reaped the last of it, and has told so
                continue
            if tree.leader_reaped and not self._forest.members(tree.number):
                self._reap()  # what has died since the last time is a zombie, and gone means reaped
                self._forget(tree)
                self._channel.send({"event": "gone", "n": tree.number})

    def _look_after_pause(self, tree: Tree) -> None:
        """Stop the processes of a tree that still run; answer the request once none does, as none can fork then."""
        if tree.pause is None or tree.pause.is_freezing:
            return
        living = self._forest.members(tree.number)
        running = [process for process in living if process.state not in containment.STOPPED]
        out_of_patience = tree.pause.is_out_of_patience
        spared = set() if out_of_patience else tree.pause.spares(running)
        for process in running:
            if process.pid not in spared:
                containment.send(process, signal.SIGSTOP)
        tree.pause.thaw()
        if not running or out_of_patience:
            self._end_pause(tree, running)

    def _end_pause(self, tree: Tree, running: list[containment.Process]) -> None:
        """Answer the requests that wait for a stop with the processes that have not stopped."""
        pause, tree.pause = tree.pause, None
        if pause is not None:
            pause.thaw()
            for request in pause.requests:
                self._channel.send({"re": request, "running": _pids(running)})

    def _look_after_limits(self, tree: Tree) -> None:
        limit = tree.exceeded(self._forest.members(tree.number))
        if limit is not None:
            self._channel.send({"event": "limit", "n": tree.number, "limit": limit})

    def _chase(self, tree: Tree) -> None:
        """Kill everything in a tree, and what it forks meanwhile, until nothing new turns up.

        New processes are stopped first, until none is left that has not been: killing one makes room under a limit of
        processes for another fork, stopping it does not.
        """
        burst_ends = time.monotonic() + _KILL_BURST
        if tree.group is not None:
            tree.group.kill()
        while time.monotonic() < burst_ends:
            left = [process for process in self._forest.members(tree.number) if process.identity not in tree.killed]
            running = [process for process in left if process.identity not in tree.stopped]
            if not left:
                return
            if tree.killed and running:
                self._send_all(running, signal.SIGSTOP, tree.stopped)
            else:
                self._send_all(left, signal.SIGKILL, tree.killed)
                self._reap()

    @staticmethod
    def _send_all(processes: list[containment.Process], signum: int, told: set[tuple[int, int]]) -> None:
        for process in processes:
            containment.send(process, signum)
            told.add(process.identity)

    def _forget(self, tree: Tree) -> None:
        self._end_pause(tree, [])
        self._forest.forget(tree.number)
        self._leaves.forget(tree.leaf, tree.number)
        self._trees.pop(tree.number, None)
        self._unsettled.discard(tree)
        self._unlimited.discard(tree)

    def _leave(self) -> None:
        """The daemon is lost, or we are told to end: end every tree with its grace, then go."""
        if self._leaving:
            return
        self._leaving = True
        now = time.monotonic()
        for tree in self._trees.values():
            for process in self._forest.members(tree.number):
                containment.send(process, signal.SIGTERM)
                containment.send(process, signal.SIGCONT)
            if tree.kill_at is None:
                tree.kill_at = now + tree.grace
            self._unsettled.add(tree)

    # Plumbing

    def _on_term(self, *_: object) -> None:
        self._term_received = True

    def _time_to_next_look(self) -> float | None:
        """Return the seconds until a tree has to be looked at again; None if only an event can make that necessary."""
        looks = [look for tree in self._unsettled if (look := tree.next_look) is not None]
        if self._leaves.move_at is not None:
            looks.append(self._leaves.move_at)
        return min(max(min(looks) - time.monotonic(), 0.0), _LONGEST_SLEEP) if looks else None

    def _drain_wake_pipe(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 65536)  # all that a pipe holds

    def _receive(self) -> None:
        with self._channel.received() as (message, fds):
            if message is not None:
                self._operations[message["op"]](message, fds)
                return
        self._epoll.unregister(self._channel)
        self._channel.close()
        self._leave()


def _pids(processes: list[containment.Process]) -> list[int]:
    return [process.pid for process in processes[:_MAX_LISTED]]


def _reset_signals() -> None:
    """Undo what whoever started the daemon ignores or blocks (nohup, a shell's `&`): every leader would inherit it.

    Python itself ignores PIPE and XFSZ; `starting` sees to these two.
    """
    for signum in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    """Run as the keeper.

    Arguments: the descriptor of the socket; where the daemon has control groups, also its own, and the descriptor that
    locks it, which we hold as long as we live.
    """
    _reset_signals()
    channel, *lock = (int(fd) for fd in sys.argv[1:2] + sys.argv[3:])
    for fd in (channel, *lock):
        os.set_inheritable(fd, False)
    os.setsid()  # a signal to the daemon's group, as a terminal sends it, is not for us
    containment.become_subreaper()
    Keeper(Packets(socket.socket(fileno=channel)), "".join(sys.argv[2:3])).run()


if __name__ == "__main__":
    main()
