"""Which program a word stands for: the same that would be started."""

import os
from pathlib import Path

from ccexecd.process import programs
from ccexecd.process.programs import for_the_record, found, real


def program(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_a_name_is_found_in_path_in_its_order(tmp_path):
    """What cannot be executed and what is a folder is passed over."""
    program(tmp_path / "a" / "x", 0o644)
    (tmp_path / "b" / "x").mkdir(parents=True)
    third, fourth = program(tmp_path / "c" / "x"), program(tmp_path / "d" / "x")
    path = os.pathsep.join(str(tmp_path / name) for name in "abcd")
    assert found("x", path) == third
    assert found("y", path) is None
    assert found(fourth, path) == fourth
    assert found("./x", path, "/srv") == "/srv/./x"
    assert found("x\0", path) is None


def test_links_are_resolved(tmp_path):
    """Of the program and of its folders; what is no program is none."""
    target = program(tmp_path / "a" / "x")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "folder").symlink_to(tmp_path / "a")
    assert real(str(tmp_path / "link")) == target
    assert real(str(tmp_path / "folder" / "x")) == target
    assert real(str(tmp_path / "none")) is None
    assert real(None) is None
    assert real(program(tmp_path / "a" / "z", 0o644)) is None


def test_for_the_record_a_second_is_near_enough(tmp_path, monkeypatch):
    """Looked for once in a second; from its own directory where it is a path."""
    now = 10.0
    monkeypatch.setattr(programs.time, "monotonic", lambda: now)
    first = program(tmp_path / "b" / "x")
    path = f"{tmp_path}/a:{tmp_path}/b"
    assert for_the_record("x", path, None) == first
    second = program(tmp_path / "a" / "x")
    assert for_the_record("x", path, "/") == first
    now = 11.0
    assert for_the_record("x", path, None) == second
    assert for_the_record("./x", path, str(tmp_path / "b")) == first
    assert for_the_record("nosuch", path, None) == ""
