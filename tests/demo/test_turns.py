"""Visitors take turns: one's burst holds nobody else back."""

import threading
from concurrent.futures import Future

import pytest

from demo.files import Visitor
from demo.turns import Turns

ONE, TWO, NEIGHBOUR = Visitor("one", "a"), Visitor("two", "b"), Visitor("three", "a")


@pytest.fixture
def turns():
    turns = Turns("test")
    yield turns
    turns.close()


def held(turns: Turns, visitor: Visitor = ONE) -> threading.Event:
    """Keep a thread busy until the event is set."""
    go, begun = threading.Event(), threading.Event()
    turns.submit(visitor, lambda: (begun.set(), go.wait(10)))
    assert begun.wait(10)
    return go


def test_a_burst_waits_for_everybody_else(turns):
    done: list[str] = []
    go = held(turns)
    jobs = [turns.submit(ONE, done.append, f"one {i}") for i in range(5)]
    jobs += [turns.submit(TWO, done.append, f"two {i}") for i in range(2)]
    jobs += [turns.submit(NEIGHBOUR, done.append, "three")]
    go.set()
    for job in jobs:
        job.result(10)
    assert done == ["one 0", "two 0", "three", "two 1", "one 1", "one 2", "one 3", "one 4"]


def test_many_names_of_one_address_are_one_turn(turns):
    done: list[str] = []
    go = held(turns)
    jobs = [turns.submit(Visitor(f"cookie {i}", "a"), done.append, "crowd") for i in range(20)]
    jobs.append(turns.submit(TWO, done.append, "two"))
    go.set()
    for job in jobs:
        job.result(10)
    assert done.index("two") <= 1


def test_one_address_leaves_a_thread_to_others():
    turns = Turns("test", 2, each=1)
    go = held(turns)
    waiting = turns.submit(NEIGHBOUR, lambda: "done")
    assert turns.submit(TWO, lambda: "at once").result(10) == "at once"
    assert not waiting.done()
    go.set()
    assert waiting.result(10) == "done"
    turns.close()


def test_errors_are_their_own_jobs_and_closing_drops_what_waits(turns):
    with pytest.raises(ZeroDivisionError):
        turns.submit(ONE, lambda: 1 // 0).result(10)
    go = held(turns)
    waiting: Future[str] = turns.submit(ONE, lambda: "never")
    closing = threading.Thread(target=turns.close)
    closing.start()
    go.set()
    closing.join(10)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError):
        turns.submit(ONE, lambda: None)
