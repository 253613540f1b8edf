"""Calling what blocks: what it gives and raises, and what is said if no thread is to be had."""

import errno
import threading

import pytest

from ccexecd.threads import NoThreadError, in_thread


async def test_it_is_called_beside_the_event_loop():
    """What it returns and what it raises arrive; a refusal of its own is not mistaken for one of the kernel's."""
    assert await in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ValueError, match="invalid literal"):
        await in_thread(lambda: int("x"))


@pytest.mark.usefixtures("no_thread")
async def test_without_a_thread_it_is_not_called():
    """An error of the system like any other, which says what has run out."""
    called: list[int] = []
    with pytest.raises(NoThreadError, match="no thread can be started") as refused:
        await in_thread(lambda: called.append(1))
    assert refused.value.errno == errno.EAGAIN
    assert not called
