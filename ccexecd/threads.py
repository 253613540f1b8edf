"""Calling functions that block, beside the event loop.

Owns the one way to do that, so that every caller learns in the same words that no thread is to be had: processes and
threads count alike (RLIMIT_NPROC, pids.max), so a command that forks without end takes the daemon's threads, too. Must
not know what is called.
"""

import errno
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


class NoThreadError(OSError):
    """No thread can be started."""


async def in_thread(
    call: Callable[[], T], limiter: trio.CapacityLimiter | None = None, *, abandon_on_cancel: bool = False
) -> T:
    """Call a function in a thread, and return its result.

    Args:
        call: the function; what it raises is raised here.
        limiter: how many calls may go on at a time; None for Trio's own, which all such calls share.
        abandon_on_cancel: whether a cancel leaves the thread behind; otherwise it waits for the function.

    Raises:
        NoThreadError: no thread can be started; the function was not called.
    """
    try:
        return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    except RuntimeError as error:  # of `threading`: the kernel's EAGAIN
        raise NoThreadError(errno.EAGAIN, f"no thread can be started ({error})") from error
