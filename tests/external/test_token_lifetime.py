"""An answer to a caller that a token admitted ends with that token."""

import time

import trio
from trio.testing import MockClock

from ccexecd.core.principals import Principal, Scope, user
from ccexecd.external.token_lifetime import TokenLifetimes, time_left

CI = Principal("ci", {Scope.EXECUTE}, "token")


def expiring(seconds: float) -> Principal:
    return Principal("ci", {Scope.EXECUTE}, "token", expires_at=time.time() + seconds)


async def goes_on(lifetimes: TokenLifetimes, principal: Principal | None, name: str) -> bool:
    """Whether an answer to a principal goes on when a token of that name is withdrawn."""
    with lifetimes.limit(principal):
        lifetimes.withdraw(name)
        await trio.lowlevel.checkpoint()
        return True
    return False


async def test_a_withdrawn_token_ends_what_is_under_way():
    """Its answers end, others' go on; so do those of a user with the same name, and of public paths."""
    lifetimes = TokenLifetimes()
    assert not await goes_on(lifetimes, CI, "ci")
    assert await goes_on(lifetimes, CI, "other")
    assert await goes_on(lifetimes, user(0), "uid:0")
    assert await goes_on(lifetimes, None, "ci")


async def test_what_has_been_answered_is_forgotten():
    """A long life leaves nothing behind."""
    lifetimes = TokenLifetimes()
    for _ in range(3):
        await goes_on(lifetimes, CI, "ci")
    assert not lifetimes._scopes


def test_an_answer_ends_with_its_token():
    """A token that expires while a command runs ends the answer then, and no earlier."""

    async def wait() -> float:
        began = trio.current_time()
        with TokenLifetimes().limit(expiring(60)):
            await trio.sleep(3600)
        return trio.current_time() - began

    assert 59 < trio.run(wait, clock=MockClock(autojump_threshold=0)) <= 60


def test_the_time_that_is_left():
    """None for what has expired, and no end for what never does."""
    assert time_left(CI) == float("inf")
    assert time_left(expiring(-5)) == 0
    assert 59 < time_left(expiring(60)) <= 60
