"""Bodies of requests: counted as they come, in time, and not too many bytes of all visitors at once."""

import asyncio
import time
from dataclasses import dataclass

from starlette.types import Message, Receive

from demo.files import Visitor

GRACE_SECONDS = 10.0
SLOWEST = 50_000
"""Bytes a second that a body must come at, once GRACE_SECONDS are over."""
SMALL = 300_000
"""Bytes of a body that is always taken: recipes are smaller."""
MOST_EACH = 48_000_000
"""Bytes of one visitor's bodies that are kept at once; of more, the oldest that still comes is cut off."""
MOST = 96_000_000
"""Bytes of all visitors' bodies."""


class RefusedError(Exception):
    """A request that is answered with a status and one sentence."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


@dataclass(eq=False, slots=True)
class Body:
    """A request's body, as much of it as has come."""

    visitor: Visitor
    size: int = 0
    whole: bool = False
    timeout: asyncio.Timeout | None = None
    data: bytes = b""


class Intake:
    """All bodies that are kept at once."""

    def __init__(self) -> None:
        self._bodies: list[Body] = []

    async def read(self, visitor: Visitor, receive: Receive, limit: int, declared: int | None) -> Body:
        """Return the whole body of a request; `leave` when it is answered.

        Raises: RefusedError if it is larger than `limit` bytes, comes too slowly, or its visitor has left.
        """
        if declared is not None and declared > limit:
            raise RefusedError(413, f"This is larger than {_megabytes(limit)}; please send less.")
        body = Body(visitor)
        self._bodies.append(body)
        try:
            await self._fill(body, receive, limit)
        except BaseException:
            self.leave(body)
            raise
        return body

    def leave(self, body: Body) -> None:
        """Forget a body."""
        if body in self._bodies:
            self._bodies.remove(body)

    async def _fill(self, body: Body, receive: Receive, limit: int) -> None:
        parts = []
        start = asyncio.get_running_loop().time()
        while not body.whole:
            try:
                async with asyncio.timeout_at(start + GRACE_SECONDS + body.size / SLOWEST) as body.timeout:
                    message: Message = await receive()
            except TimeoutError as error:
                raise RefusedError(408, "This came too slowly; please try again.") from error
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "The connection ended before the request.")
            parts.append(message.get("body", b""))
            body.size += len(parts[-1])
            body.whole = not message.get("more_body", False)
            if body.size > limit:
                raise RefusedError(413, f"This is larger than {_megabytes(limit)}; please send less.")
            self._make_room(body)
        body.timeout = None
        body.data = b"".join(parts)

    def _make_room(self, body: Body) -> None:
        """Cut off the oldest bodies that still come while too many bytes are kept; refuse `body` if that is not enough.

        A body that has not come whole after being cut off leaves by itself.
        """
        if body.size <= SMALL:
            return
        own = [other for other in self._bodies if other.visitor.id == body.visitor.id]
        for among, most in ((own, MOST_EACH), (self._bodies, MOST)):
            over = sum(other.size for other in among) - most
            for other in among:
                if over > 0 and other is not body and not other.whole and other.timeout is not None:
                    other.timeout.reschedule(time.monotonic())
                    over -= other.size
            if over > 0:
                raise RefusedError(503, "Many files are being sent just now; please try again.", {"Retry-After": "2"})


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB"
