"""The WebSocket handshake: what is accepted, what is selected, what trio-websocket gets to see."""

import pytest
import wsproto
from wsproto.events import AcceptConnection
from wsproto.events import Request as HandshakeEvent

from ccexecd.external.request import Reject, Request
from ccexecd.external.upgrade import check_handshake, select_subprotocol, synthesise_head

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3, with its answer below
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def handshake(method: str = "GET", version: str = "1.1", **changes: str | list[str] | None) -> Request:
    """Return a sound handshake with some headers replaced (underscores for hyphens) or left out (None)."""
    headers: dict[str, list[str]] = {
        "host": ["localhost"],
        "upgrade": ["websocket"],
        "connection": ["Upgrade"],
        "sec-websocket-version": ["13"],
        "sec-websocket-key": [KEY],
    }
    for name, value in changes.items():
        headers[name.replace("_", "-")] = value if isinstance(value, list) else [value or ""]
        if value is None:
            del headers[name.replace("_", "-")]
    return Request(method=method, path="/ws/mcp", query="", headers=headers, peer="", http_version=version)


@pytest.mark.parametrize(
    "request_",
    [
        handshake(),
        handshake(connection="keep-alive, upgrade"),
        handshake(connection=["keep-alive", "UPGRADE"]),
        handshake(connection="Upgrade, \xff"),
        handshake(upgrade="h2c, WebSocket"),
        handshake(content_length="0"),
        handshake(sec_websocket_extensions="\xff"),
    ],
)
def test_a_handshake_passes_however_it_is_spelled(request_: Request):
    """Tokens are compared without case, in lists and over several lines, next to anything else."""
    assert check_handshake(request_) == KEY


@pytest.mark.parametrize(
    ("request_", "status", "header"),
    [
        (handshake(method="POST"), 405, ("Allow", "GET")),
        (handshake(method="HEAD"), 405, ("Allow", "GET")),
        (handshake(version="1.0"), 426, ("Upgrade", "websocket")),
        (handshake(upgrade=None), 426, ("Connection", "Upgrade")),
        (handshake(upgrade="h2c"), 426, ("Upgrade", "websocket")),
        (handshake(connection=None), 426, ("Upgrade", "websocket")),
        (handshake(connection="keep-alive"), 426, ("Upgrade", "websocket")),
        (handshake(connection="Upgrade\xff"), 426, ("Upgrade", "websocket")),
        (handshake(sec_websocket_version=None), 426, ("Sec-WebSocket-Version", "13")),
        (handshake(sec_websocket_version="8"), 426, ("Sec-WebSocket-Version", "13")),
        (handshake(sec_websocket_version="\xb9\xb3"), 426, ("Sec-WebSocket-Version", "13")),
        (handshake(sec_websocket_version=["13", "13"]), 400, None),
        (handshake(sec_websocket_key=None), 400, None),
        (handshake(sec_websocket_key="AA=="), 400, None),
        (handshake(sec_websocket_key="A" * 24), 400, None),
        (handshake(sec_websocket_key="A" * 22 + "==\n"), 400, None),
        (handshake(sec_websocket_key="\xe9" * 22 + "=="), 400, None),
        (handshake(sec_websocket_key=[KEY, KEY]), 400, None),
        (handshake(content_length="5"), 400, None),
        (handshake(transfer_encoding="chunked"), 400, None),
    ],
)
def test_anything_else_is_told_what_it_lacks(request_: Request, status: int, header: tuple[str, str] | None):
    """Each missing part has its own status, with the header that this status calls for."""
    with pytest.raises(Reject) as refusal:
        check_handshake(request_)
    assert refusal.value.status == status
    assert header is None or header in refusal.value.headers


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        ([], None),
        (["soap"], None),
        (["mcp"], "mcp"),
        (["mcp", "ccexec.v1"], "ccexec.v1"),
        (["bearer.secret", "mcp"], "mcp"),
        (["bearer.secret"], None),
        (["CCEXEC.V1"], None),
    ],
)
def test_our_preference_decides_among_the_offered_subprotocols(offered: list[str], selected: str | None):
    """The first that we know is selected, and a token among them never is."""
    assert select_subprotocol(offered, ("ccexec.v1", "mcp")) == selected


@pytest.mark.parametrize("subprotocol", [None, "ccexec.v1"])
def test_the_synthesised_head_is_a_handshake_for_wsproto(subprotocol: str | None):
    """What trio-websocket reads leads to the answer that the client's own key demands."""
    connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    connection.receive_data(synthesise_head("/ws/mcp", KEY, subprotocol))
    (event,) = connection.events()
    assert isinstance(event, HandshakeEvent)
    assert (event.target, event.subprotocols) == ("/ws/mcp", [subprotocol] if subprotocol else [])
    answer = connection.send(AcceptConnection(subprotocol=subprotocol))
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert ACCEPT in answer
    assert (b"Sec-WebSocket-Protocol: ccexec.v1" in answer) is (subprotocol is not None)
