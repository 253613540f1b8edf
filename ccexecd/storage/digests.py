"""Digests of the files of an execution's log, block by block, and the comparison of files with them.

A file is digested in blocks, so that a comparison can say where it was changed, and so that the work can be done in
steps. A block that lies in a hole when it is digested has no digest: the oldest output of an execution is given up by
punching holes (`stored_log`), and what is not there cannot be vouched for.

Owns the form of these digests. Standard library only: ccexecctl compares copies of outputs with them.
"""

import errno
import hashlib
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from ccexecd.core.evidence import Finding, Verdict
from ccexecd.storage.plain_file import open_plain

FILES = ("stdout", "stderr", "journal")
"""Names of the files of a log."""

LEAST_BLOCK = 1024 * 1024
"""Bytes of a block, unless the file would then have more than `MOST_BLOCKS`."""

MOST_BLOCKS = 256
"""Blocks of a file: their digests take 16 KiB in hexadecimal, so that those of all three files fit into one record."""

_READ = 1024 * 1024
_TOLD = 3
"""Changed blocks of a file that a finding names; of the others it tells the number."""


def block_of(size: int) -> int:
    """Bytes of each block of a file.

    Args:
        size: bytes of the file.

    Returns:
        `LEAST_BLOCK`, doubled until the file has no more than `MOST_BLOCKS` blocks.
    """
    block = LEAST_BLOCK
    while block * MOST_BLOCKS < size:
        block *= 2
    return block


def digested(directory: Path) -> Generator[int, None, dict[str, Any]]:
    """Digest the files of a log, in steps.

    Args:
        directory: the log's directory.

    Yields:
        Bytes that the last step has read: a mebibyte at most.

    Returns:
        For each file that is there `{bytes, block, sha256}`: its size, that of its blocks, and of each block the
        hexadecimal digest, or None where it was a hole.

    Raises:
        OSError: a file cannot be read.
    """
    found: dict[str, Any] = {}
    for name in FILES:
        try:
            fd = open_plain(directory / name)
        except FileNotFoundError:
            continue
        try:
            size = os.fstat(fd).st_size
            block = block_of(size)
            digests: list[str | None] = []
            for start in range(0, size, block):
                end = min(start + block, size)
                digests.append((yield from _digest(fd, start, end)) if _is_there(fd, start, end) else None)
            found[name] = {"bytes": size, "block": block, "sha256": digests}
        finally:
            os.close(fd)
    return found


def compared(directory: Path, files: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare the files of a log with their digests.

    Args:
        directory: the log's directory now.
        files: what `digested` returned for it.

    Yields:
        A finding for each difference; nothing if all is as it was.

    Raises:
        OSError: a file cannot be read.
        KeyError, TypeError, ValueError: `files` does not have the form that `digested` returns.
    """
    if files and not directory.is_dir():
        yield Finding(
            Verdict.MISSING, f"its output is not there, though nothing has removed it by its age: {directory}"
        )
        return
    for name in FILES:
        path = directory / name
        if name not in files:
            if path.exists():
                yield Finding(Verdict.EDITED, f"{name} is there, which was not when the receipt was written")
            continue
        try:
            fd = open_plain(path)
        except FileNotFoundError:
            yield Finding(Verdict.MISSING, f"{name} is not there any more")
            continue
        try:
            yield from _differences(fd, name, files[name])
        finally:
            os.close(fd)


def uncovered(files: Mapping[str, Any]) -> dict[str, int]:
    """Bytes that have no digest, by file: they were given up before they could be digested. Empty if there are none."""
    gone = {}
    for name, told in files.items():
        size, block = int(told["bytes"]), int(told["block"])
        holes = [at * block for at, digest in enumerate(told["sha256"]) if digest is None]
        if holes:
            gone[name] = sum(min(block, size - start) for start in holes)
    return gone


def _differences(fd: int, name: str, told: Mapping[str, Any]) -> Iterator[Finding]:
    size, block, digests = int(told["bytes"]), int(told["block"]), list(told["sha256"])
    if block < LEAST_BLOCK or len(digests) != -(-size // block):
        raise ValueError(name)
    now = os.fstat(fd).st_size
    if now < size:
        yield Finding(Verdict.TRUNCATED, f"{name} has {now} bytes, and had {size}: it has been truncated")
    elif now > size:
        yield Finding(Verdict.EDITED, f"{name} has {now} bytes, and had {size}: something has been added")
    changed = []
    for at, digest in enumerate(digests):
        end = min((at + 1) * block, size)
        if digest is not None and end <= now and _whole(_digest(fd, at * block, end)) != digest:
            changed.append(f"{at * block} to {end}")
    if changed:
        more = f" and {len(changed) - _TOLD} more parts" if len(changed) > _TOLD else ""
        where = ", ".join(changed[:_TOLD])
        yield Finding(Verdict.EDITED, f"{name} is not what was written: bytes {where}{more} have been edited")


def _digest(fd: int, start: int, end: int) -> Generator[int, None, str]:
    digest = hashlib.sha256()
    while start < end:
        part = os.pread(fd, min(_READ, end - start), start)
        if not part:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        digest.update(part)
        start += len(part)
        yield len(part)
    return digest.hexdigest()


def _whole(steps: Generator[int, None, str]) -> str:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return str(done.value)


def _is_there(fd: int, start: int, end: int) -> bool:
    """Whether a part of a file is more than a hole, as far as the file system can tell."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA) < end
    except OSError as error:
        return error.errno != errno.ENXIO
