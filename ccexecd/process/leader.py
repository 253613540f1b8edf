"""What is asked of the keeper, and what comes of it: a launch, a leader, or the reason why there is none."""

import errno
import os
import pwd
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from ccexecd.core.execution import Exit

_SUBJECTS = {
    "program": "program",
    "cwd": "working directory",
    "pipe": "output pipe",
    "terminal": "terminal",
    "keeper": "keeper",
    "stdbuf": "stdbuf",
    "user": "user",
    "hook": "command not allowed",
}


class SpawnError(Exception):
    """A program could not be started; the text names what the kernel refused.

    Attributes:
        errno: the kernel's number, 0 when it was not the kernel that refused.
        strerror: its text.
        subject: `program`, `cwd` or `user`, whichever was refused; `stdbuf` when that was asked for and is not there;
            `pipe`, `terminal` or `keeper` when it was on our side; `hook` when one of the operator's refused.
    """

    def __init__(self, errno: int, strerror: str, subject: str, name: str = "") -> None:
        super().__init__(f"{_SUBJECTS[subject]}{f' {name!r}' if name else ''}: {strerror}")
        self.errno = errno
        self.strerror = strerror
        self.subject = subject


@attrs.frozen
class User:
    """Somebody whom a program runs as.

    Attributes:
        name: what the system calls them.
        uid: their number.
        gid: their own group.
        groups: all of their groups.
        home: their directory.
        shell: what they log in to.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    def names(self) -> dict[str, str]:
        """What a program of theirs finds in its environment."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}


def user_of(name: str) -> User:
    """Look somebody up in the system's database.

    Raises:
        SpawnError: there is nobody of that name.
    """
    try:
        known = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise SpawnError(errno.ENOENT, "there is no such user", "user", name) from None
    groups = tuple(os.getgrouplist(name, known.pw_gid))
    return User(name, known.pw_uid, known.pw_gid, groups, known.pw_dir, known.pw_shell or "/bin/sh")


@attrs.frozen
class Launch:
    """What to start.

    Attributes:
        argv: the words; the first is looked up in its PATH.
        cwd: working directory; None is the daemon's.
        env: what is added to the environment that all leaders inherit.
        terminal: path of the terminal that is its standard input, output and error, and controls its session; None has
            it take the descriptors that come along.
        grace: seconds from TERM to KILL, should the daemon be lost.
        unset: names that are then removed from it.
        user: who it runs as; None is the keeper's user, who has to be root for another one.
        limits: what it may use, by the names of `core.spec.Limits`; what is not named is without limit.
    """

    argv: Sequence[str]
    cwd: str | None
    env: Mapping[str, str] = attrs.field(repr=False)
    grace: float
    unset: Sequence[str] = ()
    limits: Mapping[str, float] = {}
    terminal: str | None = None
    user: "User | None" = None


class Leader:
    """A started process and the tree below it.

    Attributes:
        number: the execution's number at the keeper.
        pid: its pid, which is its process group and session too.
        exited: set when it has been reaped; `exit` is there then.
        gone: set when the last process of its tree has been reaped.
        limit: the limit that its tree has been found beyond.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.exit: Exit | None = None
        self.exited = trio.Event()
        self.gone = trio.Event()
        self.limit: str | None = None
        self._heed_limit: Callable[[str], None] | None = None

    def when_beyond(self, heed: Callable[[str], None]) -> None:
        """Have something done when its tree is beyond a limit, until it has exited: now, if it is already."""
        self._heed_limit = None if self.exited.is_set() else heed
        if self.limit is not None:
            heed(self.limit)

    def is_beyond(self, limit: str) -> None:
        """Its tree has been found beyond a limit."""
        self.limit = limit
        if self._heed_limit is not None:
            self._heed_limit(limit)

    def has_exited(self, how: Exit) -> None:
        """It has been reaped."""
        self.exit = how
        self._has_ended()
        if not how.survivors:
            self.gone.set()

    def is_lost(self) -> None:
        """Nothing more will be heard of it."""
        self.exit = self.exit or Exit(None, supervision_lost=True)
        self._has_ended()
        self.gone.set()

    def _has_ended(self) -> None:
        self._heed_limit = None  # whoever heeds holds this leader: no cycle is to keep a finished execution
        self.exited.set()
