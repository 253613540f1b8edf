"""How addresses are written, and which of them are this machine."""

import pytest

from ccexecd.external.address import format_address, is_loopback, network_of, parse_ip


def test_an_ipv6_address_gets_brackets_before_its_port():
    """An address in a log line or an error can be pasted into a URL."""
    assert format_address("127.0.0.1", 8003) == "127.0.0.1:8003"
    assert format_address("::1", 8003) == "[::1]:8003"
    assert format_address("localhost", 0) == "localhost:0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("127.0.0.1.evil.example", False),
        ("127.1", False),
        ("0177.0.0.1", False),
        ("2130706433", False),
        ("localhost", False),
        ("", False),
        ("١٢٧.0.0.1", False),
    ],
)
def test_only_a_literal_loopback_address_counts_as_one(text: str, expected: bool):
    """Neither a name nor an unusual spelling that a resolver would accept passes for loopback."""
    assert is_loopback(text) is expected


def test_a_mapped_address_is_the_ipv4_address_that_it_is():
    """A peer of a dual-stack listener is recognised as the IPv4 peer that it is."""
    assert parse_ip("::ffff:127.0.0.1") == parse_ip("127.0.0.1")


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("10.0.0.1:4711", "10.0.0.1"),
        ("[::ffff:10.0.0.1]:4711", "10.0.0.1"),
        ("[2001:db8:1:2:3:4:5:6]:4711", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::]:1", "2001:db8:1:2::/64"),
        ("[::1]:4711", "::/64"),
        ("unknown", "unknown"),
    ],
)
def test_what_a_peer_cannot_choose(peer: str, network: str):
    """Another port, or another address of its own network, does not make it somebody else."""
    assert network_of(peer) == network
