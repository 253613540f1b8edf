"""What a run comes to, where no agent is needed to show it: how its end is told, and what is missing of it."""

import pytest

from ccexecctl.api.outcome import Record, adapter_of, result_of
from ccexecd.agents.events import Event, Init, Result, Unread

GOOD = Result("success", is_error=False, text="Done.")


def outcome(*events: Event, exit_code: int | None, stderr: bytes = b""):
    """The result of a Claude Code that reported these events and ended so."""
    record = Record("Do it.", adapter_of("claude"), execution_uuid="e1")
    record.take(events)
    record.complain(stderr)
    record.end({"exit_code": exit_code, "reason": "exited"}, 1.0)
    return result_of(record)


@pytest.mark.parametrize(
    ("events", "exit_code", "stderr", "verdict", "error"),
    [
        ([Init()], -9, b"", "interrupted", "signal 9 ended it"),
        ([Init()], -11, b"", "crashed", "signal 11 ended it"),
        ([Init()], 3, b"", "failed", "it exited with code 3"),
        ([Init()], 0, b"", "truncated", "it ended without a result that could be read"),
        ([Init()], 3, b"no such model\n", "failed", "no such model"),
        ([Init(), GOOD], 3, b"", "failed", "it exited with code 3, though its result was good"),
        ([Init(), GOOD], -15, b"bye\n", "interrupted", "signal 15 ended it, though its result was good"),
    ],
)
def test_an_error_says_what_went_wrong(events, exit_code, stderr, verdict, error):
    """In the agent's own words where it had any, else by how its program ended; never by what went well."""
    result = outcome(*events, exit_code=exit_code, stderr=stderr)
    assert (result.verdict, result.error) == (verdict, error)


@pytest.mark.parametrize("ending", [[GOOD], []])
def test_what_was_not_read_is_told(ending):
    """A line that was too long is not in the result, be it the result itself or something before it."""
    result = outcome(Init(), Unread(1 << 25, is_too_long=True), *ending, exit_code=0)
    assert result.is_success == bool(ending)
    assert result.warnings == ("a line of more than 16 MiB was not read; all of it: ccexecctl logs e1",)
    assert outcome(Init(), GOOD, exit_code=0).warnings == ()
