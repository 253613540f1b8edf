"""Who may enter: hosts, web pages, tokens and the users of this machine."""

import base64
import os
import socket
from pathlib import Path
from typing import Self

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ccexecd.core.principals import Principal, Scope, user
from ccexecd.external.auth import Policy, authorize, screen
from ccexecd.external.request import Reason, Reject, Request
from ccexecd.external.tokens import Tokens

TOKEN = "correct-horse-battery-staple_0123456789"
ENCODED = base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")
POLICY = Policy(Tokens(TOKEN), frozenset({"build.example"}), frozenset({"https://ci.example"}))
DEFAULT = Principal("default", {Scope.ADMIN}, "token")
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
    assert (refusal.status, refusal.reason) == (400, Reason.TWO_HOSTS if hosts else Reason.NO_HOST)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://evil.example",
        "http://ci.example",
        "https://ci.example:444",
        "https://ci.example.evil.example",
        "https://xci.example",
        "https://ci.example/",
        "https://ci.example https://evil.example",
        "",
        "\xff",
    ],
)
def test_an_origin_that_is_not_listed_is_refused(origin: str):
    """No other web page gets in, whatever it says about itself and whatever token it shows."""
    verdict = authorize(request(origin=origin, authorization=f"Bearer {TOKEN}"), None, POLICY)
    assert isinstance(verdict, Reject)
    assert (verdict.status, verdict.reason) == (403, Reason.FOREIGN_ORIGIN)


@pytest.mark.parametrize("origin", ["https://ci.example", "HTTPS://CI.example"])
def test_a_listed_page_enters_by_its_token(origin: str):
    """Its browser can set no header, so the token comes as a subprotocol; a wrong one is no better for the page."""
    for shown, name in ((TOKEN, "default"), (ENCODED, "default"), ("wrong", None)):
        verdict = authorize(request(origin=origin, sec_websocket_protocol=f"bearer.{shown}"), None, POLICY)
        assert getattr(verdict, "name", None) == name


@pytest.mark.parametrize("origin", ["null", "NULL", "Null"])
def test_an_origin_of_nobody_is_refused_even_if_listed(origin: str):
    """Every sandboxed frame and every file says `null`: listing that would list them all."""
    policy = attrs.evolve(POLICY, allowed_origins=frozenset({"null"}))
    verdict = authorize(request(origin=origin, authorization=f"Bearer {TOKEN}"), None, policy)
    assert isinstance(verdict, Reject)
    assert (verdict.status, verdict.reason) == (403, Reason.NULL_ORIGIN)


def test_two_origins_are_refused():
    """Of two, one is a lie, even if both are listed."""
    verdict = screen(request(origin=["https://ci.example"] * 2), POLICY)
    assert verdict is not None
    assert verdict.status == 400


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
    assert authorize(request(**headers), None, POLICY) == DEFAULT


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


async def test_a_named_token_admits_to_its_scopes(tmp_path: Path):
    """Whoever shows it is its principal; a second token shown beside it makes both of them wrong."""
    tokens = Tokens.load(tmp_path / "token", tmp_path / "tokens.json")
    _, text = await tokens.add("ci", (Scope.EXECUTE,), None)
    policy = Policy(tokens)
    assert authorize(request(authorization=f"Bearer {text}"), None, policy) == Principal("ci", {Scope.EXECUTE}, "token")
    default = await tokens.show()
    both = authorize(request(authorization=f"Bearer {text}", sec_websocket_protocol=f"bearer.{default}"), None, policy)
    assert isinstance(both, Reject)
    assert both.reason is Reason.WRONG_TOKEN


async def test_an_expired_token_is_refused(tmp_path: Path):
    """From the moment of its expiry; that is told to nobody who has not the text."""
    tokens = Tokens.load(tmp_path / "token", tmp_path / "tokens.json")
    _, text = await tokens.add("ci", (Scope.EXECUTE,), 0.0)
    verdict = authorize(request(authorization=f"Bearer {text}"), None, Policy(tokens))
    assert isinstance(verdict, Reject)
    assert (verdict.status, verdict.reason, verdict.headers[0][0]) == (401, Reason.EXPIRED_TOKEN, "WWW-Authenticate")
    assert text not in verdict.message


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
        assert authorize(request(), pair.accepted, POLICY) == user(uid)


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


HEADER_TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=80)
CREDENTIALS = st.one_of(
    HEADER_TEXT,
    HEADER_TEXT.map(lambda text: f"Bearer {text}"),
    st.sampled_from([TOKEN, ENCODED]).map(lambda text: f"Bearer {text[:-1]}"),
    st.sampled_from([TOKEN, ENCODED]).map(lambda text: f"Bearer {text.swapcase()}"),
)


@given(
    st.dictionaries(
        st.sampled_from(["authorization", "sec_websocket_protocol", "origin", "host", "cookie", "x_forwarded_for"]),
        st.lists(CREDENTIALS, min_size=1, max_size=3),
    )
)
@example({"authorization": [f"Bearer {TOKEN}\xa0"]})
@example({"authorization": [f"Bearer {TOKEN} {TOKEN}"]})
@example({"sec_websocket_protocol": [f"bearer.{TOKEN}="]})
def test_nothing_but_a_token_admits_a_stranger(headers: dict[str, list[str]]):
    """Whatever a head says, in whatever bytes: it is refused with a status of ours, and nothing of it raises."""
    verdict = authorize(request(**headers), None, POLICY)
    if isinstance(verdict, Reject):
        assert verdict.status in {400, 401, 403}
    else:
        shown = [value for values in headers.values() for value in values]
        assert any(TOKEN in value or ENCODED in value for value in shown)
