"""Guessing a password is slow: ten wrong ones, then one every half minute."""

import time
from collections import OrderedDict
from collections.abc import Callable

TRIES = 10
SECONDS_A_TRY = 30.0
"""After that, an address has another try."""
MOST = 10_000
"""Addresses and visitors that are remembered."""


class Throttle:
    """Wrong passwords by address, and visitors whose password was right, who never wait for the mistakes of others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tries used, when
        self._known: OrderedDict[str, None] = OrderedDict()

    def wait(self, address: str, visitor: str) -> float:
        """Return how many seconds must pass before a password from this address is looked at."""
        if visitor in self._known:
            return 0.0
        return max(0.0, (self._used(address) - TRIES + 1) * SECONDS_A_TRY)

    def wrong(self, address: str) -> None:
        """Count a wrong password."""
        self._wrong[address] = (self._used(address) + 1, self._clock())
        self._wrong.move_to_end(address)
        while len(self._wrong) > MOST:
            self._wrong.popitem(last=False)

    def right(self, visitor: str) -> None:
        """Remember a visitor whose password was right."""
        self._known[visitor] = None
        self._known.move_to_end(visitor)
        while len(self._known) > MOST:
            self._known.popitem(last=False)

    def _used(self, address: str) -> float:
        """Return how many tries are used up."""
        used, when = self._wrong.get(address, (0.0, 0.0))
        return max(0.0, used - (self._clock() - when) / SECONDS_A_TRY)
