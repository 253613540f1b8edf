"""Which program a word stands for: the same that would be started."""

import os
from pathlib import Path

from ccexecd.process.programs import found, real, real_for_the_record


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


def test_for_the_record_a_link_that_leads_elsewhere_is_noticed(tmp_path):
    """What is remembered is remembered of the same file only."""
    first, second = program(tmp_path / "a" / "x"), program(tmp_path / "a" / "y")
    link = tmp_path / "link"
    link.symlink_to(first)
    assert real_for_the_record(str(link)) == first
    link.unlink()
    link.symlink_to(second)
    assert real_for_the_record(str(link)) == second
    link.unlink()
    assert real_for_the_record(str(link)) == str(link)
