"""Hooks: which executions one is about, what it makes of a command, and how output is gathered for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccexecd.core.hooks import HELD_BATCHES, Batch, Change, Hook
from ccexecd.core.spec import Spec

SPEC = Spec(("/usr/bin/git", "push"), "git push", lane="slow", labels={"job": "nightly-7"})
ROOM = 1 << 20
SHELL = Spec(("bash", "-c", "claude -p x | tee log"), "claude -p x | tee log", shell=True)


@pytest.mark.parametrize(
    ("conditions", "spec", "is_wanted"),
    [
        ({}, SPEC, True),
        ({"events": ("on_error",)}, SPEC, False),
        ({"command": ("git *",)}, SPEC, True),
        ({"command": ("re:git (pull|fetch)", "ls")}, SPEC, False),
        ({"program": ("git",)}, SPEC, True),
        ({"program": ("hg",)}, SPEC, False),
        ({"program": ("claude",)}, SHELL, True),
        ({"program": ("bash",)}, SHELL, False),
        ({"lane": ("s*",)}, SPEC, True),
        ({"lane": ("s*",)}, SHELL, False),
        ({"labels": (("job", "nightly-*"),)}, SPEC, True),
        ({"labels": (("job", "nightly-*"), ("who", "*"))}, SPEC, False),
        ({"principal": ("uid:*",)}, SPEC, True),
        ({"principal": ("ci",), "program": ("git",)}, SPEC, False),
    ],
)
def test_a_hook_is_about_what_meets_all_of_its_conditions(conditions, spec, is_wanted):
    """Each condition is a list of patterns, of which one has to match; labels have to be there."""
    hook = Hook(**{"name": "x", "events": ("pre_execute",), "run": ("/x",), **conditions})
    assert hook.wants("pre_execute", spec, "uid:0") is is_wanted


def test_nobody_gets_past_a_hook_by_writing_more():
    """A command that is too long for a regular expression counts as matching."""
    hook = Hook("x", ("pre_execute",), ("/x",), command=("re:rm .*",))
    assert not hook.wants("pre_execute", Spec(("ls",), "ls"), "uid:0")
    assert hook.wants("pre_execute", Spec(("ls",), "ls " + "x" * 5000), "uid:0")


def test_a_change_is_the_last_word_on_the_environment():
    """What it sets is set though the client took it away, and the other way round."""
    spec = Spec(("x",), "x", env={"A": "1", "B": "2"}, unset=("C", "D"))
    changed = Change({"C": "3"}, ("A",)).of(spec)
    assert (dict(changed.env), changed.unset) == ({"B": "2", "C": "3"}, ("D", "A"))
    assert not Change()


def test_a_command_that_is_wrapped_is_shown_as_it_is_run():
    """Of a command string, that is its shell's words."""
    changed = Change(wrap=("nice", "-n", "5")).of(SHELL)
    assert changed.argv == ("nice", "-n", "5", *SHELL.argv)
    assert not changed.shell
    assert changed.display == "nice -n 5 bash -c 'claude -p x | tee log'"


def test_a_batch_holds_whole_lines():
    """What is unfinished waits, until nothing follows."""
    batch = Batch(1024)
    batch.add("stdout", b"one\ntwo\nthr", ROOM)
    batch.add("stderr", b"oops", ROOM)
    assert batch.take() == {"stdout": {"offset": 0, "data": "one\ntwo\n"}, "missed_bytes": 0}
    assert batch.take() is None
    batch.add("stdout", b"ee\n", ROOM)
    assert batch.take() == {"stdout": {"offset": 8, "data": "three\n"}, "missed_bytes": 0}
    assert batch.take(is_last=True) == {"stderr": {"offset": 0, "data": "oops"}, "missed_bytes": 0}


def test_a_line_that_is_too_long_is_cut_between_code_points():
    """No batch is larger than was asked for, and all of it is text."""
    batch = Batch(1024)
    batch.add("stdout", ("x" + "é€𝄞" * 200).encode(), ROOM)
    assert batch.is_full
    pieces = []
    while (told := batch.take(is_last=True)) is not None:
        pieces.append(told["stdout"]["data"])
    assert all(len(piece.encode()) <= 1024 for piece in pieces)
    assert "".join(pieces) == "x" + "é€𝄞" * 200


def test_where_there_is_no_room_it_is_counted():
    """However little of it this hook holds itself."""
    batch = Batch(1024)
    batch.add("stdout", b"one\ntwo\n", 4)
    batch.add("stdout", b"three\n", 100)
    assert batch.size == 4
    assert batch.take() == {"stdout": {"offset": 0, "data": "one\n"}, "missed_bytes": 10}
    batch.add("stdout", b"four\n", 100)
    assert batch.take() == {"stdout": {"offset": 14, "data": "four\n"}, "missed_bytes": 0}


@given(st.lists(st.tuples(st.sampled_from(["add", "take"]), st.integers(0, 9000), st.sampled_from([b"\n", b"y"]))))
def test_every_byte_is_told_or_counted(steps):
    """However slow a hook is: offsets and missing bytes add up to what was written."""
    batch, written, told, missed = Batch(256), 0, 0, 0
    limit = 256 * HELD_BATCHES

    def heed(taken):
        nonlocal told, missed
        for_stream = taken.get("stdout")
        if for_stream:
            assert for_stream["offset"] == told + missed
            told += len(for_stream["data"])
        missed += taken["missed_bytes"]

    for deed, count, end in steps:
        if deed == "add":
            batch.add("stdout", b"x" * count + end, ROOM)
            written += count + 1
        elif (taken := batch.take()) is not None:
            heed(taken)
        assert len(batch._held.get("stdout", b"")) <= limit
    while (taken := batch.take(is_last=True)) is not None:
        heed(taken)
    assert told + missed == written
    assert missed == batch.missed
