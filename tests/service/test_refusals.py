"""Who was refused: counted each time, told once."""

import logging

import pytest

from ccexecd.service import refusals as module
from ccexecd.service.refusals import INTERVAL, Refusals


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture):
    """What the log has been told so far."""
    caplog.set_level(logging.DEBUG)
    return lambda: [record.getMessage() for record in caplog.records]


def test_of_one_reason_and_one_peer_the_first_is_told(told):
    """The rest is counted; another reason or another peer is told."""
    refusals = Refusals(lambda: 0.0)
    for _ in range(100):
        refusals.record("foreign_host", "10.0.0.1", "the host is not served here")
    refusals.record("wrong_token", "10.0.0.1", "the token is not ours")
    refusals.record("wrong_token", "10.0.0.2", "the token is not ours")
    assert refusals.counts == {"foreign_host": 100, "wrong_token": 2}
    assert told() == ["refused: the host is not served here", *["refused: the token is not ours"] * 2]


def test_facts_go_along(caplog):
    """The log says who and which reason."""
    caplog.set_level(logging.INFO)
    Refusals().record("scope", "10.0.0.1", "ci may not do this", peer="10.0.0.1:4711", status=403)
    (record,) = caplog.records
    assert (record.peer, record.status, record.reason) == ("10.0.0.1:4711", 403, "scope")


def test_it_is_told_again_much_later(told):
    """With how many there were meanwhile: whoever reads today's log learns that it goes on."""
    now = 0.0
    refusals = Refusals(lambda: now)
    for now in (0.0, 1.0, 2.0, INTERVAL - 1, INTERVAL, INTERVAL + 1):  # noqa: B007  # the clock reads it
        refusals.record("wrong_token", "10.0.0.1", "no")
    assert told() == ["refused: no", "refused: no (and 3 times more since this was told last)"]


def test_not_more_are_kept_than_there_is_room_for(monkeypatch, told):
    """A flood of addresses takes no memory; what is forgotten is told again."""
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    refusals = Refusals(lambda: 0.0)
    for whose in ("a", "b", "c", "b", "a"):
        refusals.record("wrong_token", whose, whose)
    assert told() == ["refused: a", "refused: b", "refused: c", "refused: a"]
    assert len(refusals._told) == 2
