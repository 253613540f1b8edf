"""Programs that use C's stdio, told to write line by line into a pipe too.

GNU `stdbuf` does it with a library that is loaded before the program starts. Owns the question where that library lies,
which only `stdbuf` knows; it is asked once, in a thread. Must not start anything else.
"""

import errno
import subprocess
from functools import partial
from pathlib import Path

import trio

from ccexecd.process.leader import SpawnError
from ccexecd.threads import NoThreadError, in_thread

_COMMAND = ("stdbuf", "-oL", "-eL", "env")

_PATIENCE = 10.0
"""Seconds that the question may take; it takes 0.003."""

PRELOAD = "LD_PRELOAD"
"""The name that the dynamic loader heeds (ld.so(8))."""


class LineBuffering:
    """The environment variables that make C's stdio write line by line.

    Args:
        path: the directories in which to look for `stdbuf`, in the form of PATH.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._names: dict[str, str] | None = None

    @property
    def is_known(self) -> bool:
        """Whether `find` has succeeded, so that `names` can be called."""
        return self._names is not None

    async def find(self) -> None:
        """Ask `stdbuf` for the library's place, unless it is known. Cannot be cancelled; takes `_PATIENCE` at most.

        Raises:
            SpawnError: no working `stdbuf` was found; the text says what to install. The next call looks again.
        """
        if self._names is None:
            with trio.CancelScope(shield=True):
                try:
                    self._names = await in_thread(partial(_ask, self._path))
                except NoThreadError as error:
                    raise SpawnError(errno.EAGAIN, f"{error.strerror}; try again", "stdbuf") from None

    def names(self, preloaded: str | None) -> dict[str, str]:
        """Return the environment variables to set, with their values; `find` has to have succeeded.

        Args:
            preloaded: the value that LD_PRELOAD would have otherwise, which is kept in front; None if not set.
        """
        names = dict(self._names or {})
        return {**names, PRELOAD: f"{preloaded}:{names[PRELOAD]}"} if preloaded else names


def _ask(path: str) -> dict[str, str]:
    try:
        said = subprocess.run(  # noqa: S603  # our own words; what it says is looked at
            _COMMAND,
            env={"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            timeout=_PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        raise _lacking("there is none on this machine") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise _lacking(str(error)) from None
    entries = (line.split("=", 1) for line in said.stdout.decode(errors="surrogateescape").splitlines() if "=" in line)
    names = {name: value for name, value in entries if name == PRELOAD or name.startswith("_STDBUF")}
    if not Path(names.get(PRELOAD, "")).is_file():
        raise _lacking("it names no library")
    return names


def _lacking(why: str) -> SpawnError:
    return SpawnError(errno.ENOENT, f"{why}; install stdbuf of GNU coreutils, or leave stdbuf out", "stdbuf")
