"""Fair turns: jobs of many visitors run address by address, of one address visitor by visitor, of one in order.

One visitor's burst, or many cookies of one address, hold nobody else back for longer than the job that runs.
"""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from demo.files import Visitor

T = TypeVar("T")
NOBODY = Visitor("", "")
"""Whoever runs a job of the server's own."""


class Turns:
    """Threads that run jobs in turns."""

    def __init__(
        self, name: str, workers: int = 1, *, each: int | None = None, begin: Callable[[], object] | None = None
    ) -> None:
        """Take how many jobs run at a time, how many of them may be of one address (None: all), and what a thread does
        first.
        """
        self._each = workers if each is None else each
        self._waiting: OrderedDict[str, OrderedDict[str, deque[tuple[Future[Any], Callable[[], Any]]]]] = OrderedDict()
        self._running: Counter[str] = Counter()
        self._begin = begin
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"{name}-{i}") for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, visitor: Visitor, job: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Have a job run in its visitor's turn. Raises: RuntimeError once closed."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new jobs: the server is about to end")
            of_address = self._waiting.setdefault(visitor.address, OrderedDict())
            of_address.setdefault(visitor.id, deque()).append((future, lambda: job(*arguments)))
            self._changed.notify()
        return future

    def close(self, patience: float | None = None) -> None:
        """Drop the jobs that have not begun, and wait for the others, at most `patience` seconds."""
        with self._changed:
            self._closed = True
            dropped = [future for own in self._waiting.values() for jobs in own.values() for future, _ in jobs]
            self._waiting.clear()
            self._changed.notify_all()
        for future in dropped:
            future.cancel()
        for thread in self._threads:
            thread.join(patience)

    def _work(self) -> None:
        if self._begin is not None:
            self._begin()
        while (found := self._next()) is not None:
            address, future, job = found
            try:
                if future.set_running_or_notify_cancel():
                    try:
                        result = job()
                    except BaseException as error:
                        future.set_exception(error)
                    else:
                        future.set_result(result)
                        del result
            finally:
                with self._changed:
                    self._running[address] -= 1
                    if not self._running[address]:
                        del self._running[address]
                    self._changed.notify_all()
                del found, future, job  # what a job holds is not kept until the next one comes

    def _next(self) -> tuple[str, "Future[Any]", Callable[[], Any]] | None:
        """Wait for the job whose turn it is and take it; None once closed."""
        with self._changed:
            while not self._closed:
                for address, visitors in self._waiting.items():
                    if self._running[address] < self._each:
                        return address, *self._taken(address, visitors)
                self._changed.wait()
        return None

    def _taken(self, address: str, visitors: "OrderedDict[str, deque[Any]]") -> tuple["Future[Any]", Callable[[], Any]]:
        """Take the next job of an address, which goes to the end of the line; so does its visitor. With the lock."""
        who, jobs = next(iter(visitors.items()))
        future, job = jobs.popleft()
        visitors.move_to_end(who)
        if not jobs:
            del visitors[who]
        self._waiting.move_to_end(address)
        if not visitors:
            del self._waiting[address]
        self._running[address] += 1
        return future, job
