"""Who listens to Gradio's streams of events: few at once a visitor, and nothing is drawn that nobody fetches."""

import asyncio
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.types import Message, Receive, Send

from demo.files import Visitor

MOST_EACH = 8
"""Streams at once of one visitor; of more, the oldest ends."""
MOST = 200
"""Of all."""
PATIENCE = 5.0
"""Seconds that a film waits for somebody to listen before it is given up."""
LONGEST = 3600.0
"""Seconds until a stream ends in any case."""


@dataclass(eq=False, slots=True)
class Stream:
    """An open stream."""

    key: str
    visitor: Visitor
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None


class Audience:
    """The open streams; `heard` may be asked from any thread."""

    def __init__(self) -> None:
        self._streams: OrderedDict[int, Stream] = OrderedDict()
        self._lock = threading.Lock()

    def join(self, key: str, visitor: Visitor) -> Stream:
        """Open a stream of the session or event `key`; where there are too many, the visitor's oldest ends."""
        stream = Stream(key, visitor)
        stream.timer = asyncio.get_running_loop().call_later(LONGEST, stream.ended.set)
        with self._lock:
            own = [other for other in self._streams.values() if other.visitor.id == visitor.id]
            if len(own) >= MOST_EACH:
                self._end(own[0])
            elif len(self._streams) >= MOST:
                self._end(next(iter(self._streams.values())))
            self._streams[id(stream)] = stream
        return stream

    def leave(self, stream: Stream) -> None:
        """Close a stream."""
        if stream.timer is not None:
            stream.timer.cancel()
        with self._lock:
            self._streams.pop(id(stream), None)

    def listens(self, key: str) -> bool:
        """Return whether somebody listens to a session or event."""
        with self._lock:
            return any(stream.key == key for stream in self._streams.values())

    def comes(self, key: str) -> bool:
        """Wait until somebody listens; return whether somebody does within PATIENCE. Not for the event loop."""
        until = time.monotonic() + PATIENCE
        while not self.listens(key):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def _end(self, stream: Stream) -> None:
        self._streams.pop(id(stream), None)
        stream.ended.set()


def until_ended(stream: Stream, receive: Receive) -> Receive:
    """Return a `receive` that also says that the visitor left once the stream is ended."""

    async def until() -> Message:
        waits = [asyncio.ensure_future(receive()), asyncio.ensure_future(stream.ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[0].result() if waits[0].done() else {"type": "http.disconnect"}
        finally:
            for wait in waits:
                wait.cancel()

    return until


class Ending:
    """A `send` that can end a response whose application has been stopped."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._open = False

    async def __call__(self, message: Message) -> None:
        """Send on, and remember whether the response is open."""
        self._open = message["type"] == "http.response.start" or message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """End the response if it has begun and not ended."""
        if self._open:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
