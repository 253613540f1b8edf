"""What wrong credentials cost whoever shows them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from ccexecd.external.throttle import FREE, PATIENCE, PER_SECOND, Throttle, too_often
from tests.e2e.client import PATIENCE as LONG
from tests.in_process import Running, running


def test_the_first_are_free():
    """Then each waits longer, up to the longest wait, and the next is turned away; another address is not concerned."""
    throttle = Throttle(lambda: 0.0, per_second=1.0, patience=5.0)
    waits = [throttle.failed("10.0.0.1") for _ in range(FREE + 7)]
    assert waits == [0.0] * FREE + [1.0, 2.0, 3.0, 4.0, 5.0, None, None]
    assert throttle.failed("10.0.0.1") is None
    assert throttle.failed("10.0.0.2") == 0.0


def test_it_is_forgiven():
    """So many a second; after a while it is as at first."""
    now = 0.0
    throttle = Throttle(lambda: now)
    for _ in range(50):
        throttle.failed("a")
    now = 1.0 / PER_SECOND
    assert throttle.failed("a") == pytest.approx(PATIENCE)
    assert throttle.failed("a") is None
    now = 3600.0
    assert throttle.failed("a") == 0.0


def test_retry_after_is_in_whole_seconds():
    """Never 0, which would invite the next try at once."""
    assert too_often("no", 0.001).headers == (("Retry-After", "1"),)
    assert too_often("no", 4.2).headers == (("Retry-After", "5"),)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """One that forgives nothing for free, and ten in a second."""
    async with running(tmp_path) as one:
        one.daemon._door._site.throttle = Throttle(free=1, per_second=10, patience=0.5)
        yield one


async def status_of(daemon: Running, token: str) -> bytes:
    async with await daemon.dial() as stream:
        request = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n" % token.encode()
        await stream.send_all(request)
        with trio.fail_after(LONG):
            return (await stream.receive_some(12))[9:]


async def test_wrong_credentials_are_slowed(daemon):
    """Each waits for its answer behind the ones before it."""
    began = trio.current_time()
    assert [await status_of(daemon, "wrong") for _ in range(4)] == [b"401"] * 4
    assert trio.current_time() - began >= 0.25  # three of them, a tenth of a second each


async def test_too_many_at_once_are_turned_away(daemon):
    """So that held back answers take neither all connections nor any memory."""
    seen: list[bytes] = []

    async def try_one() -> None:
        seen.append(await status_of(daemon, "wrong"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(try_one)
    assert set(seen) == {b"401", b"429"}
    assert daemon.daemon._refusals.counts.keys() == {"wrong_token", "rate"}


async def test_a_right_token_is_never_held_up(daemon):
    """Somebody else's guesses from the same address cost only those."""
    token = (await daemon.ask("token_show"))["token"]
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(status_of, daemon, "wrong")
        for _ in range(20):
            assert await status_of(daemon, token) == b"404"
