"""What tests of methods share: a daemon in this process, and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.in_process import Running, running


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one


@pytest.fixture
async def client(daemon: Running) -> AsyncIterator[Client]:
    """A client in the manner of `ccexec.v1`."""
    async with daemon.client() as one:
        yield one
