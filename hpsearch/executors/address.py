"""Addresses as people write them: HOST, HOST:PORT, [HOST]:PORT, and the host alone of IPv6."""

import ipaddress

MOST_PORT = 65535


def split_address(text: str) -> tuple[str, int | None]:
    """Returns the host, which may be "", and the port of an address; None where it names no port.

    >>> split_address("[::1]:9400"), split_address("::1"), split_address("node1")
    (('::1', 9400), ('::1', None), ('node1', None))

    Raises:
        ValueError: what should be a port is none.
    """
    host, colon, port = text.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not in_brackets):
        return text.strip("[]"), None
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= MOST_PORT):
        raise ValueError(f"no such port (the highest is {MOST_PORT})")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Says whether an IP address is one by which only this machine can be reached."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
