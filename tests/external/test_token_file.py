"""Files that hold secrets: who made them, who can read them, and what is in them."""

import base64
import os
import stat
from pathlib import Path

import pytest

from ccexecd.external.token_file import TokenError, load_or_create_token

TOKEN = "correct-horse-battery-staple_0123456789"
NOBODY = 65534


def test_a_token_is_made_once_and_kept(tmp_path: Path):
    """The first start makes 256 bits in a file that is private from birth; later ones read the same."""
    path = tmp_path / "token"
    token = load_or_create_token(path)
    assert len(base64.urlsafe_b64decode(token + "=")) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_token(path) == token
    assert [entry.name for entry in tmp_path.iterdir()] == ["token"]
    assert load_or_create_token(tmp_path / "another") != token


def test_a_token_of_the_operators_own_is_read(tmp_path: Path):
    """An operator may put a token there, with or without a newline."""
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(f"  {TOKEN}\n\n")
    assert load_or_create_token(path) == TOKEN


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_file_that_others_can_open_is_refused(tmp_path: Path, mode: int):
    """A token that may be known to others is not used, and the error says what to do about it."""
    path = tmp_path / "token"
    load_or_create_token(path)
    path.chmod(mode)
    with pytest.raises(TokenError, match=f"{path} is open to other users .mode {mode:04o}.*delete it.*chmod 600"):
        load_or_create_token(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path):
    """A token that another user has written is known to that user."""
    path = tmp_path / "token"
    load_or_create_token(path)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(TokenError, match="belongs to uid 65534"):
        load_or_create_token(path)


def test_a_link_is_not_followed(tmp_path: Path):
    """A link planted in a shared directory cannot make us read or write elsewhere."""
    target, path = tmp_path / "target", tmp_path / "token"
    load_or_create_token(target)
    path.symlink_to(target)
    with pytest.raises(TokenError, match="symbolic link"):
        load_or_create_token(path)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TokenError):
        load_or_create_token(dangling)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("make", [lambda p: p.mkdir(0o700), lambda p: os.mkfifo(p, 0o600)], ids=["directory", "fifo"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, make):
    """Neither a directory nor a FIFO in its place stops the start for longer than the message takes."""
    make(tmp_path / "token")
    with pytest.raises(TokenError, match="token is not a plain file"):
        load_or_create_token(tmp_path / "token")


@pytest.mark.parametrize("content", ["", "short", "two words " * 8, "\xe9" * 64, "x" * 31], ids=repr)
def test_what_is_no_token_is_refused(tmp_path: Path, content: str):
    """An empty or guessable token never opens the door."""
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(TokenError, match="at least 32 ASCII characters; delete it"):
        load_or_create_token(path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path):
    """A token that cannot be written says where and why."""
    path = tmp_path / "absent" / "token"
    with pytest.raises(TokenError, match=f"cannot write the token file {path}: No such file or directory"):
        load_or_create_token(path)


def test_a_faster_daemon_keeps_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two daemons that share a token file agree on one token, whoever is first."""
    path = tmp_path / "token"
    faster = load_or_create_token(tmp_path / "faster")

    def overtaken(source: Path, target: Path) -> None:
        (tmp_path / "faster").rename(target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", overtaken)
    assert load_or_create_token(path) == faster
    assert [entry.name for entry in tmp_path.iterdir()] == ["token"]
