"""history: the list, page by page, as a table, JSON and CSV."""

import csv
import io

KNOWN = {
    "number": 7,
    "execution_id": "1f0c9b2e-0000-4000-8000-000000000000",
    "session_id": "s",
    "principal": "uid:0",
    "command": "make test",
    "category": "test",
    "program": "make test",
    "form": "make test",
    "created_at": 1577934245.0,
    "finished_at": 1577934245.5,
    "duration": 12.34,
    "active_seconds": 12.3,
    "reason": "exited",
    "exit_code": 2,
    "load": 41.5,
    "timeout": None,
    "timeout_source": "none",
}


def page(*executions, before=None, truncated=False):
    return {"executions": list(executions), "before": before, "truncated": truncated}


def test_a_table(ctl, daemon):
    """A line for each, newest first, as the daemon gave them."""
    hung = {**KNOWN, "reason": "timeout", "exit_code": -15, "load": None, "category": None}
    daemon.answers["history"] = page(KNOWN, hung)
    header, first, second = ctl("history").out.splitlines()
    assert header.split() == ["ID", "FINISHED", "TOOK", "ENDED", "LOAD", "CATEGORY", "COMMAND"]
    assert first.split()[0] == "1f0c9b2e"
    assert first.endswith("12s   exit 2   42 %  test      make test")
    assert second.endswith("12s   timeout  -     -         make test")
    assert daemon.asked("history") == [{"limit": 100}]


def test_what_is_asked_for(ctl, daemon):
    """Every filter goes to the daemon."""
    daemon.answers["history"] = page()
    ctl("history", "-n", "5", "--category", "agent", "--program", "claude", "--reason", "timeout", "--since", "60")
    assert daemon.asked("history") == [
        {"category": "agent", "program": "claude", "reason": "timeout", "since": 60.0, "limit": 5}
    ]
    assert ctl("history", "-n", "0").code == 2
    assert ctl("history", "--category", "nonsense").code == 2


def test_many_come_in_several_replies(ctl, daemon):
    """As many as were asked for, or as there are; a reply that was cut goes on where it ended."""
    pages = [
        page(*[KNOWN] * 600, before=500, truncated=True),
        page(*[KNOWN] * 1000, before=100),
        page(KNOWN, before=99),
    ]

    def answer(conversation, request):
        conversation.reply(request, pages[len(daemon.asked("history")) - 1])

    daemon.answers["history"] = answer
    assert len(ctl("history", "-n", "5000", "--json").json) == 1601
    assert [(each.get("before"), each["limit"]) for each in daemon.asked("history")] == [
        (None, 1000),
        (500, 1000),
        (100, 1000),
    ]


def test_csv_can_be_read_by_a_spreadsheet(ctl, daemon):
    """All columns; a command is no formula there, and cannot take over a terminal here."""
    evil = {**KNOWN, "command": '=cmd|"/c calc"!A1', "form": "\x1b]0;title\x07"}
    daemon.answers["history"] = page(KNOWN, evil)
    out = ctl("history", "--csv").out
    assert "\x1b" not in out
    first, second = csv.DictReader(io.StringIO(out))
    assert list(first) == list(KNOWN)
    assert (first["duration"], first["command"], first["timeout"]) == ("12.34", "make test", "")
    assert second["command"] == '\'=cmd|"/c calc"!A1'


def test_an_empty_history(ctl, daemon):
    """A header, an empty list, a header."""
    daemon.answers["history"] = page()
    assert len(ctl("history").out.splitlines()) == 1
    assert ctl("history", "--json").json == []
    assert ctl("history", "--csv").out == "execution_id\n"
