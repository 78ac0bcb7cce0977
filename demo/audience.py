"""Who listens to Gradio's streams of events: few at once a visitor, and nothing is drawn that nobody fetches."""

import asyncio
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from .files import Visitor

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
