"""Where a request comes from: its address and the networks around it, as whoever is given one of them is given all of its parts.

Addresses are those of the transport's peer; forwarding headers are never believed (a stranger writes them as it likes), so a
proxy in front must pass connections through (layer 4, source address kept), or all its clients share one address's limits.

IPv6 is handed out as /64 (a network), /56 and /48 (a customer), /40 (a part of a provider), /32 and /29 (a provider); IPv4 as single
addresses, /24 and /16.  A /48 alone holds 65,536 networks, so a limit by /64 only is none: limits hold for each of these widths.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

Origin = tuple[str, ...]
"""The address as it is limited, then each wider network, up to the widest; never empty."""

IPV6_PREFIXES = (64, 56, 48, 40, 32, 24)
IPV4_PREFIXES = (32, 24, 16)
WIDTHS = max(len(IPV6_PREFIXES), len(IPV4_PREFIXES))
UNKNOWN: Origin = ("unknown",)


@lru_cache(maxsize=4096)
def origin_of(host: str | None) -> Origin:
    """The origin of a peer's address: itself for IPv4 (mapped into IPv6 or not), its /64 for IPv6, and the networks around it."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return UNKNOWN
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv4Address):
        wider = IPV4_PREFIXES[1:]
        return (str(address), *(str(ipaddress.IPv4Network((int(address), prefix), strict=False)) for prefix in wider))
    return tuple(str(ipaddress.IPv6Network((int(address), prefix), strict=False)) for prefix in IPV6_PREFIXES)
