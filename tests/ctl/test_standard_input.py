"""What we read and pass on: in order, one request at a time, no more than is taken."""

import base64
import os

import pytest

from ccexecctl import terminal
from ccexecctl.errors import RefusedError
from ccexecctl.standard_input import LIMIT, StandardInput
from ccexecctl.terminal import SignalledError


class Asked:
    """A client that only remembers what it is asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []

    def send(self, method, params):
        assert params.pop("execution_id") == "e1"
        self.requests.append((method, base64.b64decode(params.get("data_base64", ""))))
        return len(self.requests)

    @property
    def answer(self):
        """The answer to the last one."""
        return {"id": len(self.requests), "result": {}}


@pytest.fixture
def feed(monkeypatch):
    """What we read comes from here."""
    ours, feed = os.pipe()
    monkeypatch.setattr(terminal, "KEYBOARD", ours)
    with os.fdopen(feed, "wb", buffering=0) as writer:
        yield writer
    os.close(ours)


def begun(asked, **more) -> StandardInput:
    source = StandardInput(asked, **more)
    source.begin("e1")
    return source


def test_one_request_is_under_way_at_a_time(feed):
    """What comes meanwhile goes in one piece when it is answered; another's answer is none."""
    asked = Asked()
    source = begun(asked)
    for text in (b"a", b"b", b"c"):
        feed.write(text)
        source.read()
    assert asked.requests == [("write_stdin", b"a")]
    source.heard({"id": 99, "result": {}})
    assert len(asked.requests) == 1
    source.heard(asked.answer)
    assert asked.requests[1:] == [("write_stdin", b"bc")]
    source.heard(asked.answer)
    assert len(asked.requests) == 2


def test_its_end_comes_behind_all_that_was_read(feed):
    """Once, and nothing is read any more."""
    asked = Asked()
    source = begun(asked)
    feed.write(b"a")
    source.read()
    feed.close()
    source.read()
    assert not source.wants
    assert len(asked.requests) == 1
    source.heard(asked.answer)
    assert asked.requests[1:] == [("close_stdin", b"")]
    source.heard(asked.answer)
    assert len(asked.requests) == 2


def test_no_more_is_read_than_can_wait(feed):
    """One request under way and as much behind it; then whoever writes to us waits."""
    asked = Asked()
    source = begun(asked)
    sent = 0
    while source.wants:
        sent += feed.write(b"x" * 20_000)
        source.read()
    assert len(asked.requests[0][1]) <= LIMIT
    assert LIMIT <= sent <= 3 * LIMIT
    source.heard(asked.answer)
    assert source.wants
    assert len(asked.requests[1][1]) == LIMIT


@pytest.mark.parametrize("code", [-32012, -32005, -32003])
def test_a_program_that_takes_no_more_ends_it(feed, code):
    """No error: how the program ends is what counts."""
    asked = Asked()
    source = begun(asked)
    feed.write(b"ab")
    source.read()
    source.heard({"id": 1, "error": {"code": code, "message": "closed"}})
    assert not source.wants
    assert len(asked.requests) == 1


def test_the_key_that_leaves_is_heeded_where_nobody_takes_the_others(feed):
    """Else there would be no way out."""
    asked = Asked()
    source = begun(asked, may_detach=True)
    feed.write(b"a")
    source.read()
    feed.write(b"b" * LIMIT)
    source.read()
    source.heard({"id": 1, "error": {"code": -32012, "message": "closed"}})
    feed.write(b"c\x1d")
    assert source.wants
    source.read()
    assert source.is_left
    assert len(asked.requests) == 1


def test_any_other_refusal_is_told(feed):
    """What was typed has not arrived."""
    source = begun(Asked())
    feed.write(b"ab")
    source.read()
    with pytest.raises(RefusedError, match="no room"):
        source.heard({"id": 1, "error": {"code": -32603, "message": "no room"}})


def test_the_end_of_a_terminal_is_not_the_end_of_a_program(feed):
    """In raw mode no key ends the input: that it ends means that nobody sits there any more."""
    source = begun(Asked(), ends=False)
    feed.close()
    with pytest.raises(SignalledError) as gone:
        source.read()
    assert gone.value.exit_code == 129


def test_what_was_typed_before_the_key_that_leaves_is_passed_on(feed):
    """At once, for we do not wait any more; what was typed behind it is nobody's."""
    asked = Asked()
    source = begun(asked, may_detach=True)
    feed.write(b"a")
    source.read()
    feed.write(b"b\x1dc")
    source.read()
    assert source.is_left
    assert asked.requests == [("write_stdin", b"a"), ("write_stdin", b"b")]


def test_without_leave_to_leave_the_key_is_a_key(feed):
    """`run` ends with its command: there is nowhere to go."""
    asked = Asked()
    source = begun(asked)
    feed.write(b"\x1d")
    source.read()
    assert not source.is_left
    assert asked.requests == [("write_stdin", b"\x1d")]
