"""Which daemon is meant, and how its name is judged."""

import warnings

import pytest

from ccexecctl.api.endpoint import TOKEN_VARIABLE, endpoint_of
from ccexecctl.errors import UsageError


@pytest.mark.parametrize("url", ["http://127.0.0.1", "ws://", "127.0.0.1:8003", "ws://me:secret@127.0.0.1/ws/mcp"])
def test_what_is_no_address(url):
    """It is refused before anything is sent, without a secret in what is said."""
    with pytest.raises(UsageError) as refused:
        endpoint_of(url)
    assert "secret@" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "is_told"),
    [
        ("ws://192.0.2.1:8003/ws/mcp", True),
        ("ws://build.example/ws/mcp", True),
        ("wss://build.example/ws/mcp", False),
        ("ws://127.0.0.9:8003", False),
        ("ws://[::1]:8003", False),
        ("ws://localhost:8003", False),
    ],
)
def test_a_token_that_others_could_hear(monkeypatch, url, is_told):
    """Whoever gives one, or has one in the environment, is told when it would leave the machine unencrypted."""
    monkeypatch.setenv(TOKEN_VARIABLE, "from the environment")
    for token in (None, "given"):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            endpoint_of(url, token)
        assert [str(each.message).partition(" travels")[0] for each in told] == ["the token"] * is_told
    with warnings.catch_warnings(record=True) as told:
        endpoint_of(url, "")
    assert not told
