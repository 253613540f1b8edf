"""Reads TOML files that an operator writes, and reports all of their faults at once.

Owns the reading and the form of a fault. Must not know what a file is about, and must not import Trio: a
configuration is checked before the daemon forks.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

T = TypeVar("T")

LARGEST = 1024 * 1024
"""Bytes of the largest file that is read: far more than anybody writes, and a bound if the path names a device."""


class Fault(NamedTuple):
    """One fault: its place (`rule[2].program[0]`, counted from 0; empty for the whole file), and what is wrong."""

    place: str
    message: str


class FaultyFileError(Exception):
    """A file cannot be used.

    Attributes:
        faults: everything that is wrong.
    """

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults

    @property
    def lines(self) -> list[str]:
        """Return a line for each fault, for people."""
        return [f"{place}: {message}" if place else message for place, message in self.faults]

    def __str__(self) -> str:
        """Return all faults in one line."""
        return "; ".join(self.lines)


def toml_in(stream: BinaryIO) -> dict[str, Any]:
    """Parse an open file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not TOML, or too large.
        RecursionError: it nests too deeply.
    """
    import tomllib  # noqa: PLC0415  # 1 MiB, of no use where there is no file

    text = stream.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    return tomllib.loads(text.decode())


def read(file: Path, danger_of: Callable[[os.stat_result], str]) -> dict[str, Any]:
    """Read a file.

    Args:
        file: where it is.
        danger_of: called with its status; returns who else could write it and what to do, or empty if nobody could.

    Raises:
        FaultyFileError: it cannot be read, is dangerous, or is not TOML.
    """
    try:
        with file.open("rb") as stream:
            danger = danger_of(os.fstat(stream.fileno()))
            if danger:
                raise FaultyFileError([Fault("", danger)])
            return toml_in(stream)
    except OSError as error:
        raise FaultyFileError([Fault("", str(error.strerror))]) from error
    except (ValueError, RecursionError) as error:
        raise FaultyFileError([Fault("", f"not valid TOML: {error}")]) from error


def structured(settings: dict[str, Any], shape: type[T]) -> T:
    """Structure the content of a file.

    Args:
        settings: the parsed TOML.
        shape: the attrs class to structure it into.

    Raises:
        FaultyFileError: the content does not have this shape.
    """
    from ccexecd.protocol.codec import StructureError, structure  # noqa: PLC0415  # as above

    try:
        return structure(settings, shape)
    except StructureError as error:
        faults = [Fault(each["path"].removeprefix("$").removeprefix("."), each["error"]) for each in error.problems]
        raise FaultyFileError(faults) from None
