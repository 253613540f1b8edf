"""Which program a word stands for: found as it will be started, and what it is when links are resolved.

Owns the look at the file system before something runs; `starting` does the same once more when it runs. Must not
decide anything.
"""

import functools
import os

from ccexecd.process.starting import find


def found(program: str, path: str, cwd: str | None = None) -> str | None:
    """Where a program lies.

    Args:
        program: a name, or a path.
        path: PATH of its environment.
        cwd: its working directory, from which a relative path counts; None is the root.

    Returns:
        A path; None where there is none, or none that may be executed.
    """
    try:
        place = find(program, {"PATH": path})
    except (OSError, ValueError):
        return None
    return os.path.join("/", cwd or "", place)  # noqa: PTH118  # a hot path


def real(path: str | None) -> str | None:
    """The file that a path leads to; None where there is none that may be executed."""
    if path is None or not os.path.isfile(path) or not os.access(path, os.X_OK):  # noqa: PTH113
        return None
    return os.path.realpath(path)


def real_for_the_record(path: str) -> str:
    """The file that a path leads to, remembered as long as that is the same file: not to be decided by."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return path
    return _remembered(path, status.st_dev, status.st_ino, status.st_ctime_ns)


@functools.lru_cache(maxsize=256)
def _remembered(path: str, _device: int, _inode: int, _changed: int) -> str:
    return os.path.realpath(path)
