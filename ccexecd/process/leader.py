"""The request for a leader (`Launch`) and its result: a `Leader`, or the `SpawnError` that says why there is none."""

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
        errno: error number of the kernel; 0 if it was not the kernel that refused.
        strerror: text of the error.
        subject: what failed: `program`, `cwd` or `user` of the request; `stdbuf`, if that is not installed; `pipe`,
            `terminal` or `keeper` of the daemon; `hook`, if an operator's hook refused.
    """

    def __init__(self, errno: int, strerror: str, subject: str, name: str = "") -> None:
        super().__init__(f"{_SUBJECTS[subject]}{f' {name!r}' if name else ''}: {strerror}")
        self.errno = errno
        self.strerror = strerror
        self.subject = subject


@attrs.frozen
class User:
    """The user that a program runs as (`run_as`).

    Attributes:
        name: user name.
        uid: user id.
        gid: id of the primary group.
        groups: ids of all groups.
        home: home directory.
        shell: login shell.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str

    def names(self) -> dict[str, str]:
        """The environment variables that name the user to a program, such as HOME and USER."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}


def user_of(name: str) -> User:
    """Look a user up in the system's user database.

    Raises:
        SpawnError: there is no user of that name.
    """
    try:
        known = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise SpawnError(errno.ENOENT, "there is no such user", "user", name) from None
    groups = tuple(os.getgrouplist(name, known.pw_gid))
    return User(name, known.pw_uid, known.pw_gid, groups, known.pw_dir, known.pw_shell or "/bin/sh")


@attrs.frozen
class Launch:
    """A request to start a leader.

    Attributes:
        argv: the words; the first is looked up in PATH of the resulting environment.
        cwd: working directory; None for the keeper's.
        env: variables added to the environment that all leaders inherit.
        grace: seconds from TERM to KILL if the daemon is lost.
        unset: names of variables that are removed from the environment.
        limits: limits by the names of `core.spec.Limits`; what is not named is unlimited.
        terminal: path of the terminal that becomes its standard input, output and error, and controls its session;
            None if it gets the descriptors that are passed along.
        user: the user that it runs as, which only root can change; None for the keeper's own.
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
        number: the number of its execution in the keeper's messages.
        pid: its pid, which is also the id of its process group and session.
        exit: how it ended; None until it has been reaped.
        exited: set when it has been reaped.
        gone: set when the last process of its tree has been reaped.
        limit: name of the limit that its tree has exceeded; None if none.
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
        """Register a callback for an exceeded limit.

        Args:
            heed: called with the limit's name, at once if it is exceeded already; not after the leader has exited.
        """
        self._heed_limit = None if self.exited.is_set() else heed
        if self.limit is not None:
            heed(self.limit)

    def is_beyond(self, limit: str) -> None:
        """Note that its tree has exceeded a limit, and call what `when_beyond` has registered."""
        self.limit = limit
        if self._heed_limit is not None:
            self._heed_limit(limit)

    def has_exited(self, how: Exit) -> None:
        """Note that it has been reaped, and how it ended."""
        self.exit = how
        self._has_ended()
        if not how.survivors:
            self.gone.set()

    def is_lost(self) -> None:
        """Note that the keeper is lost, so that nothing more will be heard of it."""
        self.exit = self.exit or Exit(None, supervision_lost=True)
        self._has_ended()
        self.gone.set()

    def _has_ended(self) -> None:
        self._heed_limit = None  # whoever heeds holds this leader: no cycle is to keep a finished execution
        self.exited.set()
