"""Addresses as people write them."""

import pytest

from hpsearch.executors.address import is_loopback, split_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node1", ("node1", None)),
        ("node1:80", ("node1", 80)),
        (":80", ("", 80)),
        ("", ("", None)),
        ("::1", ("::1", None)),
        ("[::1]", ("::1", None)),
        ("[::1]:80", ("::1", 80)),
        ("fe80::1%eth0", ("fe80::1%eth0", None)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
    ],
)
def test_an_address_is_split(text: str, expected: tuple[str, int | None]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize("port", ["", "x", "65536", "9" * 5000, "-1", "\u0661"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(ValueError, match="no such port"):
        split_address(f"host:{port}")


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.1.1", True), ("::1", True), ("10.0.0.1", False), ("fe80::1%eth0", False)]
)
def test_a_loopback_address_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
