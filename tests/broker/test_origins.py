"""Origins: an address and the networks around it."""

from __future__ import annotations

import pytest

from chrysalis.broker.origins import origin_of


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", ("192.0.2.7", "192.0.2.0/24", "192.0.0.0/16")),
        ("::ffff:192.0.2.7", ("192.0.2.7", "192.0.2.0/24", "192.0.0.0/16")),
        ("::ffff:c000:207", ("192.0.2.7", "192.0.2.0/24", "192.0.0.0/16")),
        (
            "2001:db8:1234:5678:9::",
            ("2001:db8:1234:5678::/64", "2001:db8:1234:5600::/56", "2001:db8:1234::/48",
             "2001:db8:1200::/40", "2001:db8::/32", "2001:d00::/24"),
        ),
        ("fe80::1%eth0", ("fe80::/64", "fe80::/56", "fe80::/48", "fe80::/40", "fe80::/32", "fe80::/24")),
        ("", ("unknown",)),
        (None, ("unknown",)),
        ("testclient", ("unknown",)),
    ],
)  # fmt: skip
def test_origins(host: str | None, expected: tuple[str, ...]) -> None:
    assert origin_of(host) == expected


def test_one_network_has_one_name() -> None:
    assert origin_of("2001:db8:1:2:3:4:5:6") == origin_of("2001:db8:1:2::9")
    assert origin_of("2001:db8:1:2::9")[0] != origin_of("2001:db8:1:3::9")[0]
    assert origin_of("2001:db8:1:2::9")[1:] == origin_of("2001:db8:1:3::9")[1:]
