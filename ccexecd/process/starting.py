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
        errno: error number of the kernel.
        strerror: text of the error.
        subject: what was refused: `cwd` or `program`.
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
    """Start a program in a session of its own; of the keeper's descriptors, it inherits none but the given ones.

    Args:
        argv: the words; the first is looked up in PATH of `env`.
        env: the whole environment.
        cwd: its working directory; None for the keeper's, which is the root.
        stdio: the descriptors that become its 0, 1 and 2; each has to have a number above 2.
        terminal: path of a terminal that becomes all three instead, and controls its session; None for none.
        prepare: called in the new process before it executes the program; may raise OSError. None for nothing.

    Returns:
        Its pid, which is its process group and session, too.

    Raises:
        StartRefusedError: the directory or the program cannot be used, or `prepare` failed.
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
    """Return the file actions that open a terminal in the child, as its standard input, output and error.

    It is opened there, not inherited, because the first terminal that a session leader opens becomes the controlling
    terminal, with /dev/tty, job control and Ctrl-C. The session is made before the file actions are carried out.
    """
    return [
        (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]


def _fork(
    path: str, argv: list[str], env: Mapping[str, str], stdio: Sequence[int] | str, prepare: Callable[[], None]
) -> int:
    """Start a program by fork and exec, since `prepare` has to be called in its process."""
    heard, said = os.pipe2(os.O_CLOEXEC)  # closed by a successful exec; otherwise the child writes the error into it
    try:
        pid = os.fork()
    except OSError:  # as many processes as may be
        os.close(heard)
        os.close(said)
        raise
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
    """Extend a preparation so that the program runs as another user, permanently and with that user's groups only.

    Args:
        user: user id, id of the primary group, and ids of all groups; None for the keeper's own user.
        prepare: called before the change of user; None for nothing.

    Returns:
        The `prepare` argument for `start`; None if there is nothing to do. It raises OSError if the keeper is not root.
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
    """Find a program as execvp(3) does, and return its path.

    Args:
        program: a name or a path.
        env: the environment that contains PATH.

    Raises:
        OSError: it does not exist, or may not be executed.
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
