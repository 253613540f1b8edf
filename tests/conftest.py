"""What every test shares: Trio is the only event loop; what the machine has run out of."""

import ctypes
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest
import trio

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on Trio, as the daemon does."""
    return "trio"


@pytest.fixture(autouse=True)
def _no_subreaper_afterwards() -> Iterator[None]:
    """A test that makes this process a subreaper, as the daemon is one, does not leave it so to the next test."""
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def no_more_descriptors() -> Callable[[], AbstractContextManager[None]]:
    """In this context, the process may open nothing more; what is open stays so."""

    @contextmanager
    def limited() -> Iterator[None]:
        usual = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)

    return limited


@pytest.fixture
def no_thread() -> Iterator[None]:
    """No thread can be started: the kernel has no room for its stack, which is as large as all addresses."""
    over = threading.Event()
    usual = threading.stack_size(1 << 46)
    with suppress(RuntimeError):
        while True:  # until those are taken that Trio has kept
            trio.lowlevel.start_thread_soon(over.wait, lambda _: None)
    yield
    over.set()
    threading.stack_size(usual)
