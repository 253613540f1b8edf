"""A pidfile whose lock, not whose number, says that a daemon lives.

Owns taking, writing, reading and releasing it. Standard library only: ccexecctl imports this module.

The flock(2) lock belongs to the open file description: it is taken before the first fork, where an error still reaches
the terminal, is carried through every fork, and vanishes with the daemon however that ends. So no pidfile is ever
stale, and a number that meanwhile names another process deceives nobody. Forked children share the lock; they close
their copy of the descriptor and never unlock it, which would unlock it for the daemon as well.
"""

import errno
import fcntl
import os
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

PID_WAIT = 2.0
"""Seconds that `PidFile.acquire` waits for a holder that is just starting to write its pid."""

_RETRY_INTERVAL = 0.01

_PID_BYTES = 32
"""More than a pid and its line feed take: pids have at most 7 digits (PID_MAX_LIMIT is 2**22)."""


class AlreadyRunningError(Exception):
    """Another process holds the lock.

    Attributes:
        path: the pidfile.
        pid: the holder, or None while it is still starting.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(f"already running (pid {pid}), it holds {path}" if pid else f"is starting, it holds {path}")
        self.path = path
        self.pid = pid


class PidFile:
    """One daemon's claim to be the only one at its place.

    As a context manager, which is what python-daemon asks of a pidfile, entering writes the pid of the process that
    enters, and leaving releases the claim; `acquire` comes before.

    Args:
        path: of the pidfile; its directory exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._owner = 0

    def fileno(self) -> int:
        """Return the locked descriptor, -1 without one; whoever closes all descriptors has to preserve it."""
        return self._fd

    def acquire(self, pid_wait: float = PID_WAIT) -> Self:
        """Take the lock; the file is empty until `write`.

        Args:
            pid_wait: seconds to wait for the pid of a holder that has not written it yet.

        Raises:
            AlreadyRunningError: another process holds it.
            OSError: the file cannot be opened, or is no pidfile.
        """
        deadline = time.monotonic() + pid_wait
        while not self._try_acquire():
            pid = running_pid(self.path)  # also None when only a look at the lock, such as this one, was in the way
            if pid is not None or time.monotonic() >= deadline:
                raise AlreadyRunningError(self.path, pid)
            time.sleep(_RETRY_INTERVAL)
        return self

    def write(self) -> None:
        """Write this process's pid and become the one that releases the lock.

        Raises:
            OSError: it cannot be written: a full disk.
        """
        self._owner = os.getpid()
        try:
            os.pwrite(self._fd, b"%d\n" % self._owner, 0)  # one write: a reader never sees half a number
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def release(self) -> None:
        """Remove the file and give up the lock; does nothing in a process that did not write the pid or take the lock.

        The check matters: exit handlers that python-daemon registered also run in children that were forked later.
        """
        if self._fd < 0 or self._owner != os.getpid():
            return
        if _is_at(self.path, self._fd):  # somebody may have put another file in its place
            with suppress(FileNotFoundError):
                self.path.unlink()  # while it is locked: nobody can have taken it over
        self.close()

    def close(self) -> None:
        """Close this process's copy of the descriptor; other processes that share the lock keep it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        self.write()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _try_acquire(self) -> bool:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(self.path))
            if not _lock(fd, fcntl.LOCK_EX):
                return False
            if not _is_pidfile(fd):
                raise OSError(errno.EEXIST, "not a pidfile, so it stays; move it, or choose another", str(self.path))
            os.ftruncate(fd, 0)  # at once: the number of a daemon that was killed must not look like ours
            if not _is_at(self.path, fd):  # the previous holder removed it between our open and its release
                return False
            _make_readable(fd)
            self._fd, fd = fd, -1
            self._owner = os.getpid()
            return True
        finally:
            if fd >= 0:
                os.close(fd)


def is_locked(path: Path) -> bool:
    """Tell whether a daemon, starting or running, holds the pidfile.

    Raises:
        OSError: the file is there but cannot be opened.
    """
    return _look(path)[0]


def running_pid(path: Path) -> int | None:
    """Return the pid of the daemon that holds the pidfile; None when none does or it has not written its pid yet.

    Raises:
        OSError: the file is there but cannot be opened.
    """
    return _look(path)[1]


def signal_daemon(path: Path, number: int) -> bool:
    """Send a signal to the daemon that holds the pidfile, and to no other process.

    Returns:
        Whether it was sent; False when no daemon is running.

    Raises:
        PermissionError: the daemon belongs to another user.
    """
    pid = running_pid(path)
    if pid is None:
        return False
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The pidfd names one process for good. It is the daemon if that still holds the lock: had it ended and its
        # number been given away before pidfd_open, the lock would be free or show another number.
        if running_pid(path) != pid:
            return False
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    else:
        return True
    finally:
        os.close(process)


def _look(path: Path) -> tuple[bool, int | None]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return False, None
    try:
        if _lock(fd, fcntl.LOCK_SH):  # shared: two who look at the same time do not see each other
            return False, None
        number = os.pread(fd, _PID_BYTES, 0).strip()
        return True, int(number) if number.isdigit() else None
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_pidfile(fd: int) -> bool:
    """Whether nothing is lost when it is emptied: it is empty, or a number, or what a power cut made of one (NULs)."""
    text = os.pread(fd, _PID_BYTES + 1, 0)
    number = text.strip(b"\0").strip()
    return len(text) <= _PID_BYTES and (not number or number.isdigit())


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _make_readable(fd: int) -> None:
    """Give the file mode 0644 whatever the umask was: other users may ask whether a daemon runs."""
    with suppress(PermissionError):  # somebody else's file that we may write
        os.fchmod(fd, 0o644)
