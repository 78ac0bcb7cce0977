"""Connections under limits: half-sent requests end, and where there are too many the idlest give way.

uvicorn alone waits for ever for the rest of a request's head and for a reader that does not read, and takes as many
connections as there are descriptors.
"""

import asyncio
import ipaddress
import resource
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""From a connection, or from the first byte of its next request, until the request's head is whole."""
WRITE_SECONDS = 30.0
"""Without reading, a visitor is cut off."""
LINGER_SECONDS, LINGER_BYTES = 2.0, 8_000_000
"""How long and how far the rest of a refused body is read, so that the refusal arrives."""
KEEP_ALIVE_SECONDS = 30
MOST = 512
"""Connections at once, of all; fewer where the system allows fewer descriptors."""
MOST_EACH = 256
"""Connections of one address."""
STOP_SECONDS = 1
"""A server that is told to stop waits so many seconds for requests."""
HEAD, IDLE, BODY, BUSY = "head", "idle", "body", "busy"
ORDER = {HEAD: 0, BODY: 1, IDLE: 2}
"""What gives way first, the oldest of each: visitors send in no time what attackers hold back. Requests that are being
answered do so last."""


def network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the 64 bits of an IPv6 network that one person has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 6 and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    if found.version == 6 and not found.is_loopback:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def most_connections() -> int:
    """Return how many connections the process can hold and still open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(16, min(MOST, soft // 2))


class Connection(H11Protocol):
    """uvicorn's connection, with deadlines."""

    address = ""
    since = 0.0
    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None
    _lingers = False
    _unread = 0

    @property
    def state(self) -> str:
        """Return what the connection waits for."""
        if self.conn.their_state is h11.IDLE:
            return HEAD if self._head is not None else IDLE
        if self.conn.their_state is h11.SEND_BODY:
            return BODY
        return IDLE if self._lingers else BUSY

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; where there are too many, the idlest of the address with most of them is cut off."""
        super().connection_made(transport)
        self.address = network(self.client[0]) if self.client else ""
        self.since = time.monotonic()
        self._wait_for_head()
        most = most_connections()
        if len(self.connections) <= min(most, MOST_EACH):
            return
        here = [each for each in self.connections if isinstance(each, Connection) and not each.transport.is_closing()]
        if victim := spare(here, most, MOST_EACH):
            victim.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._head, self._write = _cancelled(self._head), _cancelled(self._write)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless what comes belongs to a request that was refused."""
        if self._lingers or self.transport.is_closing():
            self._unread += len(data)
            if self._unread > LINGER_BYTES:
                self.transport.abort()
            return
        super().data_received(data)

    def handle_events(self) -> None:
        """Keep the deadline for a head while none is whole."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._head = _cancelled(self._head)
            self.since = time.monotonic()
        elif self._head is None and self.conn.trailing_data[0]:
            self._wait_for_head()

    def on_response_complete(self) -> None:
        """Wait for the next request; where this one was refused before its end, only until the answer has arrived."""
        unread = self.conn.their_state is h11.SEND_BODY
        self.since = time.monotonic()
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._lingers = True
            self._unset_keepalive_if_required()
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """Give a slow reader a while."""
        super().pause_writing()
        self._write = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        self._write = _cancelled(self._write)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, whether or not its last answer is read."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)


def spare(connections: Iterable[Connection], most: int, most_each: int) -> Connection | None:
    """Return the connection that gives way, None while there are few enough.

    It is one of the address with most connections (or with too many): half-sent heads go first, then half-sent bodies,
    then idle ones, of each the oldest; where all are being answered, the newest.
    """
    alike = list(connections)
    (address, count), *_ = Counter(other.address for other in alike).most_common(1) or [("", 0)]
    if len(alike) <= most and count <= most_each:
        return None
    crowd = [other for other in alike if other.address == address]
    waiting = [other for other in crowd if other.state != BUSY]
    if not waiting:
        return max(crowd, key=lambda other: other.since)
    return min(waiting, key=lambda other: (ORDER[other.state], other.since))


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def configure(**settings: Any) -> dict[str, Any]:
    """Return settings for uvicorn: quiet, and strangers' slow connections closed."""
    return {
        "log_level": "error",  # strangers' broken requests fill no log
        "http": Connection,
        "ws": "none",
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": STOP_SECONDS,
        **settings,
    }
