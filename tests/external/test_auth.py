"""Who may enter: hosts, web pages, tokens and the users of this machine."""

import base64
import os
import socket
import stat
from pathlib import Path
from typing import Self

import pytest

from ccexecd.external.auth import Policy, TokenError, authorize, load_or_create_token, screen
from ccexecd.external.request import Principal, Reject, Request

TOKEN = "correct-horse-battery-staple_0123456789"
ENCODED = base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")
POLICY = Policy(TOKEN, frozenset({"build.example"}))
NOBODY = 65534


def request(**headers: str | list[str]) -> Request:
    lists = {name.replace("_", "-"): [v] if isinstance(v, str) else v for name, v in headers.items()}
    return Request(method="GET", path="/", query="", headers={"host": ["localhost"]} | lists, peer="test")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8003",
        "LOCALHOST",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:8003",
        "127.1.2.3",
        "[::1]",
        "[::1]:8003",
        "[::ffff:127.0.0.1]:1",
        "build.example",
        "Build.Example:443",
    ],
)
def test_loopback_and_listed_names_are_our_host(host: str):
    """Names of this machine and those that the operator has listed are accepted, with and without a port."""
    assert screen(request(host=host), POLICY) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8003",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "xbuild.example",
        "sub.build.example",
        "10.0.0.1",
        "0.0.0.0",
        "[::]",
        "::1",
        "[localhost]",
        "localhost:8003:1",
        "localhost:x",
        "user@localhost",
        "localhost/",
        "local host",
        "localhost,evil.example",
        "localhost\x85",
        "xn--\xff",
        "\u0660" * 3,
        "a" * 5000,
    ],
)
def test_any_other_host_is_refused(host: str):
    """A name that was rebound to 127.0.0.1, or looks like ours without being it, gets 403 and a hint."""
    refusal = screen(request(host=host), POLICY)
    assert refusal is not None
    assert refusal.status == 403
    assert "allowed_hosts" in refusal.message
    assert len(refusal.message) < 600


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_exactly_one_host_is_needed(hosts: list[str]):
    """A request whose host is missing or said twice is refused, the same name said twice included."""
    refusal = screen(request(host=hosts), POLICY)
    assert refusal is not None
    assert refusal.status == 400


@pytest.mark.parametrize("origin", ["http://localhost", "https://evil.example", "null", "", "\xff"])
def test_every_origin_is_refused(origin: str):
    """No web page gets in, whatever it says about itself and whatever token it shows."""
    verdict = authorize(request(origin=origin, authorization=f"Bearer {TOKEN}"), None, POLICY)
    assert isinstance(verdict, Reject)
    assert verdict.status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer  {TOKEN}"},
        {"sec_websocket_protocol": f"ccexec.v1, bearer.{TOKEN}"},
        {"sec_websocket_protocol": f"bearer.{ENCODED}"},
        {"authorization": f"Bearer {TOKEN}", "sec_websocket_protocol": f"bearer.{TOKEN}"},
    ],
)
def test_the_token_admits_from_anywhere(headers: dict[str, str]):
    """Whoever shows the token is admitted, in either place, without a socket to look at."""
    assert authorize(request(**headers), None, POLICY) == Principal("token", None, "token")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer"},
        {"authorization": ""},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": "Bearer \xff\xfe"},
        {"sec_websocket_protocol": "bearer."},
        {"sec_websocket_protocol": "bearer.wrong"},
        {"sec_websocket_protocol": "bearer.\xff"},
        {"sec_websocket_protocol": f"bearer.{TOKEN}, bearer.wrong"},
        {"authorization": "Bearer wrong", "sec_websocket_protocol": f"bearer.{TOKEN}"},
    ],
)
def test_a_wrong_token_is_refused_even_from_our_own_user(headers: dict[str, str]):
    """A credential that is shown must be right, and the refusal quotes nothing of it."""
    with Loopback() as pair:
        verdict = authorize(request(**headers), pair.accepted, POLICY)
    assert isinstance(verdict, Reject)
    assert (verdict.status, verdict.headers) == (401, (("WWW-Authenticate", 'Bearer realm="ccexecd"'),))
    assert "wrong" not in verdict.message
    assert TOKEN not in verdict.message


def test_a_token_said_twice_is_refused():
    """Two Authorization headers are no credential."""
    verdict = authorize(request(authorization=[f"Bearer {TOKEN}"] * 2), None, POLICY)
    assert isinstance(verdict, Reject)
    assert verdict.status == 400


class Loopback:
    """A connection over loopback whose client belongs to some user."""

    def __init__(self, uid: int | None = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        own = os.geteuid()
        if uid is not None:
            os.seteuid(uid)
        try:
            self.client = socket.socket()
        finally:
            os.seteuid(own)
        self.client.connect(self.listener.getsockname())
        self.accepted, _ = self.listener.accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self.client, self.accepted, self.listener):
            each.close()


def test_our_own_user_enters_over_loopback():
    """A client of the daemon's own user needs no token."""
    with Loopback() as pair:
        uid = os.geteuid()
        assert authorize(request(), pair.accepted, POLICY) == Principal(f"uid {uid}", uid, "peer")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can open a socket for somebody else")
def test_another_user_needs_the_token():
    """Another user of this machine is refused by name, and admitted with the token."""
    with Loopback(uid=NOBODY) as pair:
        verdict = authorize(request(), pair.accepted, POLICY)
        assert isinstance(verdict, Reject)
        assert (verdict.status, "uid 65534" in verdict.message) == (401, True)
        assert isinstance(authorize(request(authorization=f"Bearer {TOKEN}"), pair.accepted, POLICY), Principal)


def test_a_client_that_has_gone_is_refused():
    """A request whose sender has closed already is nobody's."""
    with Loopback() as pair:
        pair.client.close()
        verdict = authorize(request(), pair.accepted, POLICY)
    assert isinstance(verdict, Reject)
    assert verdict.status == 401


def test_the_policy_hides_its_token():
    """A traceback with a policy in it holds no token."""
    assert TOKEN not in repr(POLICY)


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
