"""Which addresses may be asked: those of the public internet, unless the user allows others."""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from curriculum.scraping.failure import Failure

UNICAST = IPv6Network("2000::/3")  # the only part of IPv6 that is given out
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address stands in the last 32 bits


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address, and the IPv4 address within it if there is one, is reached through the public internet."""
    if isinstance(address, IPv6Address):
        inner = _inner(address)
        return is_public(inner) if inner is not None else address.is_global and address in UNICAST
    return address.is_global and not address.is_multicast


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


async def resolve(host: str, port: int, allow_private: bool) -> list[str]:
    """The addresses of a host, to connect to as they are: looking them up once more might give others.

    Whatever form the host has (127.1, 0x7f000001, 2130706433), the system says which address it means. Raises Failure,
    also if only one of several addresses is not public.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        is_passing = getattr(error, "errno", None) == socket.EAI_AGAIN
        raise Failure("no such host", f"{host}: {error}", is_passing=is_passing) from None
    addresses = list(dict.fromkeys(str(where[0]) for *_, where in found))
    private = [address for address in addresses if not is_public(ip_address(address))]
    if private and not allow_private:
        raise Failure("address not public", f"{host} is {private[0]}")
    return addresses
