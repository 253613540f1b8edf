"""Which file a program's name stands for: as the keeper will find it, and with symbolic links resolved.

Owns the search before something runs; `starting` searches once more when it runs. Must not decide anything.
"""

import functools
import os
import time

from ccexecd.process.starting import find


def found(program: str, path: str, cwd: str | None = None) -> str | None:
    """Find a program.

    Args:
        program: a name or a path.
        path: PATH of its environment.
        cwd: its working directory, which a relative path starts from; None for the root.

    Returns:
        Its absolute path; None if there is no such file, or none that may be executed.
    """
    try:
        place = find(program, {"PATH": path})
    except (OSError, ValueError):
        return None
    return os.path.join("/", cwd or "", place)  # noqa: PTH118  # a hot path


def real(path: str | None) -> str | None:
    """Resolve the symbolic links of a path; None if it does not lead to a file that may be executed."""
    if path is None or not os.path.isfile(path) or not os.access(path, os.X_OK):  # noqa: PTH113
        return None
    return os.path.realpath(path)


def for_the_record(program: str, path: str, cwd: str | None) -> str:
    """Return the file that a program's name stands for, or empty, from a cache that is at most a second old.

    Good for records, not for decisions. Without the cache, the search takes three times as long as writing the record.
    """
    return _remembered(program, path, cwd if "/" in program else None, int(time.monotonic()))


@functools.lru_cache(maxsize=64)
def _remembered(program: str, path: str, cwd: str | None, _second: int) -> str:
    place = found(program, path, cwd)
    return os.path.realpath(place) if place is not None else ""
