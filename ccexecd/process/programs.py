"""Which program a word stands for: found as it will be started, and what it is when links are resolved.

Owns the look at the file system before something runs; `starting` does the same once more when it runs. Must not
decide anything.
"""

import functools
import os
import time

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


def for_the_record(program: str, path: str, cwd: str | None) -> str:
    """The file that a word leads to, as it was at some time in this second: not to be decided by.

    Looking for it takes three times as long as writing the record that it is for.
    """
    return _remembered(program, path, cwd if "/" in program else None, int(time.monotonic()))


@functools.lru_cache(maxsize=64)
def _remembered(program: str, path: str, cwd: str | None, _second: int) -> str:
    place = found(program, path, cwd)
    return os.path.realpath(place) if place is not None else ""
