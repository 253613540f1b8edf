"""How results look, and that no text of a stranger reaches the terminal as a command to it."""

import io
import sys
from pathlib import Path

import pytest

from ccexecctl import render


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("echo grüße 日本", "echo grüße 日本"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\udc80", "\\udc80"),
        ("\x9b1A", "\\x9b1A"),
    ],
)
def test_what_is_not_visible_is_escaped(text, shown):
    """Control characters, line feeds, bidirectional marks and lone surrogates are written as escapes."""
    assert render.printable(text) == shown


def test_tables_are_aligned_and_cut():
    """Columns line up, no line is longer than the terminal, and a cell cannot forge a row."""
    lines = render.table(("ID", "COMMAND"), [("1", "echo a\nb"), ("222", "x" * 50)], 20)
    assert lines == ["ID   COMMAND", "1    echo a\\nb", "222  " + "x" * 14 + "…"]


def test_a_tree_of_any_depth_is_drawn_and_cut():
    """A chain of thousands is no deeper than the line is wide."""
    use = {"name": "x", "state": "sleeping", "cpu_seconds": 0.0, "memory_bytes": 0}
    chain = [{"pid": number + 1, "ppid": number, **use} for number in range(5000)]
    lines = render.tree(chain, 40)
    assert len(lines) == 5000
    assert max(map(len, lines)) == 40
    assert lines[:2] == ["  └─ 1 x  (sleeping, 0.0s, 0 B)", "     └─ 2 x  (sleeping, 0.0s, 0 B)"]
    assert render.tree([]) == []


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.0, "0.0s"),
        (0.0042, "4ms"),
        (0.1, "0.1s"),
        (9.96, "10.0s"),
        (59.9, "59s"),
        (184, "3m04s"),
        (7500, "2h05m"),
        (356400, "4d03h"),
    ],
)
def test_durations_have_two_units(seconds, shown):
    """A span is readable at a glance."""
    assert render.duration(seconds) == shown


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 40, "1024.0 GiB")])
def test_sizes_have_binary_units(count, shown):
    """Bytes are readable at a glance."""
    assert render.size(count) == shown


def test_moments_are_local():
    """A time stamp is shown in local time; one that cannot be read is shown as it is."""
    assert render.moment("2020-01-02T12:00:00Z").startswith("2020-01-0")
    assert render.moment("soon") == "soon"
    assert render.moment(None) == "-"


def test_an_encoding_that_lacks_a_character_is_no_failure(monkeypatch):
    """On an ASCII terminal the rest is shown as escapes."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    render.prepare_streams()
    render.show(None, ["grüße"], as_json=False)
    terminal.flush()
    assert terminal.buffer.getvalue() == b"gr\\xfc\\xdfe\n"


def test_the_terminal_has_a_width_only_when_it_is_one(capfd):
    """Nothing is cut in a pipe."""
    assert render.terminal_width() is None


@pytest.mark.parametrize(
    "words",
    [
        ["ps"], ["status"], ["status", "--json"], ["health"], ["version"], ["config", "show"],
        ["run", "--", "x"], ["run", "--json", "--", "x"], ["logs", "e1"], ["logs", "-f", "e1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_output_that_cannot_be_written_is_a_failure(daemon, ctl_process, words):
    """A full disk: one line that says so, and exit 1; no traceback, and no success."""

    def execute(conversation, request):
        conversation.reply(request, {"execution_id": "e1", "status": "started"})
        conversation.output("hello\n")
        conversation.completed()

    chunk = {"type": "stdout", "seq": 1, "data": "hello\n"}
    read = {"chunks": [chunk], "next_seq": 2, "oldest_seq": 1, "state": "FINISHED"}
    status = daemon.answers["status"]
    daemon.answers |= {"list": {"executions": []}, "execute": execute, "read_output": read}
    daemon.answers["status"] = {**status, "next_seq": 2}
    with Path("/dev/full").open("wb") as full:
        process = ctl_process(*words, stdout=full)
        _, err = process.communicate(timeout=20)
    assert err == b"ccexecctl: cannot write the output: no space left on device\n"
    assert process.returncode == 1


def test_a_failure_that_nobody_can_be_told_is_one(ctl_process):
    """Without a place for the reason, the exit code still tells."""
    with Path("/dev/full").open("wb") as full:
        process = ctl_process("status", stderr=full)
        assert process.communicate(timeout=20)[0] == b""
    assert process.returncode == 3
