"""Giving part of a file back to the file system. Everybody may import this; it imports nothing of ours."""

import ctypes
import os

_PUNCH_HOLE, _KEEP_SIZE = 0x2, 0x1  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, start: int, size: int) -> None:
    """Give back the blocks of a part of a file, which reads as zeros from then on; its size and its other bytes stay.

    Args:
        fd: the file, open for writing.
        start: where the part begins, in bytes.
        size: how long it is, in bytes. Only whole blocks of the file system are given back.

    Raises:
        OSError: EOPNOTSUPP where the file system cannot do it; see fallocate(2).
    """
    if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start, size) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
