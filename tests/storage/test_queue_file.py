"""What waits for its turn, on disk: whole or not at all, for nobody else to read, and gone when it is taken."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccexecd.storage import queue_file
from ccexecd.storage.queue_file import QueueFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where one lies."""
    return tmp_path / "waiting"


def test_what_was_put_there_is_left_there(path):
    """By name, the last text of each; what was taken can be read no more, and nobody but its owner reads anything."""
    waiting, previous = QueueFile(path), os.umask(0)
    try:
        for name, text in (("a", b"early"), ("b", b'{"x": "y z"}'), ("a", b"3" * 100_000), ("c", b"hush")):
            waiting.put(name, text)
    finally:
        os.umask(previous)
    for name in ("c", "c", "never"):
        waiting.remove(name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"hush" not in path.read_bytes()
    assert b"early" not in path.read_bytes()
    assert QueueFile(path).load() == {"a": b"3" * 100_000, "b": b'{"x": "y z"}'}


def test_nothing_is_made_before_something_waits(path):
    """A daemon in which nothing ever waits has no such file, and one in which nothing waits any more an empty one."""
    waiting = QueueFile(path)
    waiting.remove("a")
    assert waiting.load() == {}
    assert not path.exists()
    waiting.put("a", b"1")
    waiting.remove("a")
    assert path.read_bytes() == b""


def test_half_a_line_is_nobody_s(path):
    """What a crash has left at the end is passed over, and what comes goes on behind it."""
    path.write_bytes(b"a 1\n   \nb \xff{\nc hal")
    path.with_name(".waiting.new").write_bytes(b"a 1\n")
    waiting = QueueFile(path)
    assert waiting.load() == {"a": b"1", "b": b"\xff{"}
    assert [each.name for each in path.parent.iterdir()] == ["waiting"]
    waiting.remove("a")
    waiting.put("d", b"4")
    assert QueueFile(path).load()["b"] == b"\xff{"
    assert QueueFile(path).load()["d"] == b"4"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_what_cannot_be_kept_is_told_of(path, make):
    """Nothing in its place hangs anybody or is written to; it works again when that has gone."""
    make(path)
    waiting = QueueFile(path)
    assert waiting.load() == {}
    waiting.put("a", b"1")
    assert "cannot keep what waits" in waiting.problem
    path.rmdir() if path.is_dir() else path.unlink()
    waiting.put("a", b"1")
    assert (waiting.problem, QueueFile(path).load()) == ("", {"a": b"1"})


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.none() | st.binary(max_size=60)), max_size=60))
def test_whatever_comes_and_goes(tmp_path_factory, steps):
    """The file tells what waits, however much has been taken, and never grows far beyond that."""
    path = tmp_path_factory.getbasetemp() / "waiting"
    path.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_file, "MOST_BLANK", 64)
        waiting, known = QueueFile(path), dict[str, bytes]()
        for name, text in steps:
            if text is None:
                waiting.remove(name)
                known.pop(name, None)
            else:
                known[name] = text.replace(b"\n", b"").replace(b"\r", b"")
                waiting.put(name, known[name])
            assert QueueFile(path).load() == known
        if path.exists():
            assert path.stat().st_size <= 2 * sum(len(text) + 3 for text in known.values()) + 64 + 128
