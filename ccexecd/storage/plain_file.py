"""Opening what must be a plain file, without blocking: a FIFO, a link or a device in its place is refused.

Standard library only: ccexecctl reads copies with it.
"""

import errno
import os
import stat
from pathlib import Path

_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_plain(path: Path) -> int:
    """Open a plain file for reading. Returns its descriptor.

    Raises:
        OSError: it cannot be opened, or it is no plain file.
    """
    fd = os.open(path, _TO_READ)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no plain file", str(path))
    return fd
