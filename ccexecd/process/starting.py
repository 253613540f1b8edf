"""Starting one program, inside the keeper: found by its own PATH, in its own directory, in a session of its own.

Owns the one call that makes a process. `posix_spawn` takes half the time of `subprocess.Popen`, never copies the
keeper's memory, and tells why the kernel refused. What it cannot set for the child (directory, resource limits) the
keeper, which has a single thread, sets for itself during the call. Standard library only.
"""

import errno
import os
import signal
from collections.abc import Mapping, Sequence


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
    argv: list[str], env: Mapping[str, str], cwd: str | None, stdio: Sequence[int], terminal: str | None = None
) -> int:
    """Start a program that gets nothing of ours but its first three descriptors.

    Args:
        argv: the words; the first is looked up in PATH of `env`.
        env: the whole environment.
        cwd: its working directory; None is ours, which is the root.
        stdio: the descriptors that it gets as 0, 1 and 2. None of them is among these numbers.
        terminal: the path of a terminal that it gets as all three instead, and that controls its session.

    Returns:
        Its pid, which is its process group and session, too.

    Raises:
        StartRefusedError: the directory or the program cannot be used.
    """
    subject = "cwd"
    try:
        if cwd is not None:
            os.chdir(cwd)
        subject = "program"
        return os.posix_spawn(
            _find(argv[0], env),
            argv,
            env,
            file_actions=_open(terminal) if terminal is not None else _take(stdio),
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores these two
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


def _find(program: str, env: Mapping[str, str]) -> str:
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
