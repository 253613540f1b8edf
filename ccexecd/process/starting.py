"""Starting one program, inside the keeper: found by its own PATH, in its own directory, in a session of its own.

Owns the calls that make a process. `posix_spawn` takes half the time of `subprocess.Popen`, never copies the keeper's
memory, and tells why the kernel refused. What it cannot set for the child (its directory) the keeper, none of whose
other threads would notice, sets for itself during the call. Only what has to do something in the child before it
becomes the program is forked, which takes two milliseconds more. Standard library only.
"""

import errno
import os
import signal
import stat
from collections.abc import Callable, Mapping, Sequence

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class StartRefusedError(Exception):
    """A program was not started.

    Attributes:
        errno: the kernel's number for it.
        strerror: its text.
        subject: what was refused, `cwd` or `program`.
    """

    def __init__(self, errno: int, strerror: str, subject: str) -> None:
        super().__init__(f"{subject}: {strerror}")
        self.errno = errno
        self.strerror = strerror
        self.subject = subject


def start(
    argv: list[str],
    env: Mapping[str, str],
    cwd: str | None,
    stdio: Sequence[int],
    terminal: str | None = None,
    prepare: Callable[[], None] | None = None,
) -> int:
    """Start a program that gets nothing of ours but its first three descriptors.

    Args:
        argv: the words; the first is looked up in PATH of `env`.
        env: the whole environment.
        cwd: its working directory; None is ours, which is the root.
        stdio: the descriptors that it gets as 0, 1 and 2. None of them is among these numbers.
        terminal: the path of a terminal that it gets as all three instead, and that controls its session.
        prepare: called in its process before it becomes the program; may raise OSError.

    Returns:
        Its pid, which is its process group and session, too.

    Raises:
        StartRefusedError: the directory or the program cannot be used, or it could not be prepared.
    """
    subject = "cwd"
    try:
        if cwd is not None:
            os.chdir(cwd)
        subject = "program"
        path = find(argv[0], env)
        if prepare is not None:
            return _fork(path, argv, env, terminal if terminal is not None else stdio, prepare)
        return os.posix_spawn(
            path,
            argv,
            env,
            file_actions=_open(terminal) if terminal is not None else _take(stdio),
            setsid=True,
            setsigmask=(),
            setsigdef=_IGNORED_BY_PYTHON,
        )
    except OSError as error:
        raise StartRefusedError(error.errno or errno.EINVAL, error.strerror or str(error), subject) from None
    except (ValueError, IndexError) as error:  # a NUL, a lone surrogate, no word at all: the protocol refuses them
        raise StartRefusedError(errno.EINVAL, str(error), subject) from None
    finally:
        if cwd is not None:
            os.chdir("/")


_FileActions = list[tuple[int, int, int] | tuple[int, int, str, int, int]]


def _take(stdio: Sequence[int]) -> _FileActions:
    return [(os.POSIX_SPAWN_DUP2, stdio[number], number) for number in range(3)]


def _open(terminal: str) -> _FileActions:
    """Opened, not handed over: the first terminal that a session's leader opens controls the session.

    The session is made before these are done. With it come /dev/tty, job control, and Ctrl-C as a signal.
    """
    return [
        (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]


def _fork(
    path: str, argv: list[str], env: Mapping[str, str], stdio: Sequence[int] | str, prepare: Callable[[], None]
) -> int:
    """Start a program that is prepared in its own process: the long way round."""
    heard, said = os.pipe2(os.O_CLOEXEC)  # closed by exec; else it says why there was none
    pid = os.fork()
    if not pid:
        try:
            os.close(heard)
            os.setsid()
            fds = [os.open(stdio, os.O_RDWR)] * 3 if isinstance(stdio, str) else stdio
            for number in range(3):
                os.dup2(fds[number], number)
            for signum in _IGNORED_BY_PYTHON:
                signal.signal(signum, signal.SIG_DFL)
            prepare()
            os.execve(path, argv, env)  # noqa: S606  # a leader is what it is asked for
        except (OSError, ValueError) as error:
            os.write(said, str(getattr(error, "errno", errno.EINVAL)).encode())
        finally:
            os._exit(127)
    os.close(said)
    with open(heard, "rb") as file:
        refusal = file.read()
    if refusal:
        os.waitpid(pid, 0)
        raise OSError(int(refusal), os.strerror(int(refusal)))
    return pid


def as_user(user: tuple[int, int, list[int]] | None, prepare: Callable[[], None] | None) -> Callable[[], None] | None:
    """Have a program prepared, and then become another user: for good, and with no group that is not theirs.

    Args:
        user: the numbers of the user, of their own group and of all their groups; None are ours.
        prepare: what else is to be done before; None is nothing.

    Returns:
        To be called in the program's process. Raises OSError: only root may become another user.
    """
    if user is None:
        return prepare
    uid, gid, groups = user

    def become() -> None:
        if prepare is not None:
            prepare()
        for number in range(3):  # else it could not open /dev/stdout, or its own terminal, once more
            if stat.S_ISFIFO(os.fstat(number).st_mode) or os.isatty(number) or number:
                os.fchown(number, uid, -1)
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)

    return become


def find(program: str, env: Mapping[str, str]) -> str:
    """Where a program lies, as execvp(3) looks for it.

    Raises:
        OSError: nowhere, or only where it may not be executed.
    """
    if "/" in program:
        return program
    refusal = errno.ENOENT
    for folder in env.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.join(folder, program)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            refusal = errno.EACCES
    raise OSError(refusal, os.strerror(refusal))
