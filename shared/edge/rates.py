"""How often somebody may ask: token buckets for addresses, principals and tenants. Pure: time comes in, monotonic.

A bucket holds `burst` requests and gets `per_second` new ones. All that is kept of it is when it will be full again:
one that is full need not be kept at all. When there is no room for another key, whoever is new shares one bucket with
all others who are: a flood of made up keys takes no memory, and frees nobody who is held back already.
"""

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache

from msgspec import Struct

MAX_KEYS = 50_000  # 9 MB with addresses
ADDRESS_BITS = 64  # of IPv6, which one household or machine has all of
_NO_WAIT = 1e-6  # below that it is rounding


class Rate(Struct, frozen=True):
    """So many requests a second in the long run, and so many at once."""

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        if not (0 < self.per_second < math.inf and 1 <= self.burst < math.inf):
            raise ValueError("a rate is above 0 a second, and at least one request at once")


class Buckets:
    """A bucket for each key, of one rate. `shared` counts the requests that had to share one for want of room."""

    def __init__(self, rate: Rate, *, max_keys: int = MAX_KEYS) -> None:
        self.shared = 0
        self._rate = rate
        self._max_keys = max_keys
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()  # the one used longest ago first
        self._shared_full_at = -math.inf

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, key: Hashable, now: float, cost: float = 1.0) -> float:
        """Seconds until the key has `cost` requests, 0 for now. Takes nothing. Raise ValueError for a cost that no
        waiting would help.
        """
        if not 0 < cost <= self._rate.burst:
            raise ValueError(f"{cost:g} requests at once can never be made where {self._rate.burst:g} may")
        full_at = self._full_at.get(key, now if self._has_room(now) else self._shared_full_at)
        taken = (full_at - now) * self._rate.per_second  # below 0 when it was full before, which gives nothing more
        seconds = (taken + cost - self._rate.burst) / self._rate.per_second
        return 0.0 if seconds < _NO_WAIT else seconds

    def take(self, key: Hashable, now: float, cost: float = 1.0) -> None:
        """Take `cost` requests of the key's, whether it has them or not."""
        seconds = cost / self._rate.per_second
        self._forget_full(now)
        if key not in self._full_at and len(self._full_at) >= self._max_keys:
            self.shared += 1
            self._shared_full_at = max(self._shared_full_at, now) + seconds
            return
        self._full_at[key] = max(self._full_at.get(key, now), now) + seconds
        self._full_at.move_to_end(key)

    def _has_room(self, now: float) -> bool:
        return len(self._full_at) < self._max_keys or next(iter(self._full_at.values()), now) <= now

    def _forget_full(self, now: float) -> None:
        """Two at most, so that no request pays for all of them, and more go than come."""
        for _ in range(2):
            oldest = next(iter(self._full_at), None)
            if oldest is None or self._full_at[oldest] > now:
                return
            del self._full_at[oldest]


class RequestRates:
    """What a request must pass. None: no bound of that kind."""

    def __init__(
        self,
        *,
        address: Rate | None = None,
        principal: Rate | None = None,
        tenant: Rate | None = None,
        max_keys: int = MAX_KEYS,
    ) -> None:
        rates = {"address": address, "principal": principal, "tenant": tenant}
        self.buckets = {name: Buckets(rate, max_keys=max_keys) for name, rate in rates.items() if rate is not None}

    def ask(
        self,
        now: float,
        *,
        address: str | None = None,
        principal: tuple[str, str] | None = None,
        tenant: str | None = None,
        cost: float = 1.0,
    ) -> float:
        """Seconds to wait, 0 when the request may be made; it counts then, and otherwise not at all. `principal` is the
        tenant and the owner. What is None is not asked about: before a token is checked there is only an address.
        """
        keys: dict[str, Hashable] = {"address": address, "principal": principal, "tenant": tenant}
        asked = [(self.buckets[name], key) for name, key in keys.items() if key is not None and name in self.buckets]
        seconds = max((buckets.wait(key, now, cost) for buckets, key in asked), default=0.0)
        if not seconds:
            for buckets, key in asked:
                buckets.take(key, now, cost)
        return seconds


def retry_after(seconds: float) -> int:
    """The header `Retry-After`: whole seconds, and one at least."""
    return max(1, math.ceil(seconds))


@lru_cache(maxsize=4096)
def address_key(address: str) -> str:
    """What of a client's address is held back together: an IPv4 address, or the network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a unix socket's peer has none
        return "?"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, ADDRESS_BITS), strict=False))
    return str(parsed)
