"""How a TCP address is written, and which addresses never leave this machine.

Owns nothing but these rules; it opens no socket and resolves no name.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


def format_address(host: str, port: int) -> str:
    """Write an address as it appears in a URL, a log line or an error.

    Args:
        host: A name or an IP address, an IPv6 address without brackets.
        port: The TCP port.

    Returns:
        ``127.0.0.1:8003``, or ``[::1]:8003`` with the brackets that IPv6 needs before a port.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def network_of(peer: str) -> str:
    """What all connections of one peer have in common: its IPv4 address, or the /64 network of its IPv6 address.

    An IPv6 host can choose any address in its /64.

    Args:
        peer: an address as `format_address` writes it; any other text is returned as it is.
    """
    host = peer.rpartition(":")[0].strip("[]")
    address = parse_ip(host)
    if address is None:
        return peer
    return str(address) if address.version == 4 else str(ip_network((address.packed[:8] + bytes(8), 64)))


def parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """Read an IP address, without ever asking a resolver.

    Args:
        text: What may be an address.

    Returns:
        The address, or None when ``text`` is not one. An IPv4 address that came mapped into IPv6
        (``::ffff:127.0.0.1``, what a dual-stack listener sees) is returned as IPv4: it is the same peer.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(text: str) -> bool:
    """Tell whether ``text`` is the IP address of a loopback interface (127.0.0.0/8 or ``::1``)."""
    address = parse_ip(text)
    return address is not None and address.is_loopback
