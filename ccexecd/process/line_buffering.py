"""Programs that use C's stdio, told to write line by line into a pipe too.

GNU `stdbuf` does it with a library that is loaded before the program starts. Owns the question where that library lies,
which only `stdbuf` knows; it is asked once, in a thread. Must not start anything else.
"""

import errno
import subprocess
from pathlib import Path

import trio

from ccexecd.process.leader import SpawnError

_COMMAND = ("stdbuf", "-oL", "-eL", "env")

_PATIENCE = 10.0
"""Seconds that the question may take; it takes 0.003."""

PRELOAD = "LD_PRELOAD"
"""The name that the dynamic loader heeds (ld.so(8))."""


class LineBuffering:
    """What the environment of such a program needs.

    Args:
        path: where to look for `stdbuf`, as PATH.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._names: dict[str, str] | None = None

    @property
    def is_known(self) -> bool:
        """Whether `names` can be asked for."""
        return self._names is not None

    async def find(self) -> None:
        """Ask `stdbuf`, unless that was done. It cannot be interrupted, and is bounded.

        Raises:
            SpawnError: there is none that works here; the text says what to install. It is looked for again next time.
        """
        if self._names is None:
            with trio.CancelScope(shield=True):
                self._names = await trio.to_thread.run_sync(_ask, self._path)

    def names(self, preloaded: str | None) -> dict[str, str]:
        """The names to set, once it is known.

        Args:
            preloaded: what the program would preload without it; that comes first.
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
