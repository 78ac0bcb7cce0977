"""Attacks on a running page by too much and too slow; while each goes on, another visitor is answered."""

import contextlib
import itertools
import json
import os
import queue
import socket
import threading
import time

import httpx
import pytest

from demo import audience, connections, filming, films, intake, security
from tests.attacks import calls, ends, raw, visitor, watched
from tests.serving import served, toy_models
from tests.toys import Blocks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio's and uvicorn's own dependencies


@pytest.mark.parametrize("route", ["gradio_api/queue/join", "gradio_api/call/film", "gradio_api/upload", "live/photo"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_end_is_cut_off(apart, route, chunked):
    with raw(apart[0]) as connection, watched(apart):
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 300000000"
        kind = b"Content-Type: application/json\r\nHost: 127.0.0.1"
        connection.sendall(b"POST /" + route.encode() + b" HTTP/1.1\r\n" + kind + b"\r\n" + length + b"\r\n\r\n")
        piece = b"[" * 1_000_000
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 300:
                connection.sendall(b"F4240\r\n" + piece + b"\r\n" if chunked else piece)
                sent += 1
        assert sent < 60
        with contextlib.suppress(ConnectionError):
            assert b" 413 " in connection.recv(200)


def test_a_json_of_nothing_but_brackets_costs_nothing(web):
    for body in (
        b"[" * 1_000_000,
        b'{"data":' + b"[[]," * 100_000 + b"[]" + b"]" * 100_000 + b"}",
        b"x",
        b"[]",
        b"\xff",
    ):
        assert web.post("/gradio_api/queue/join", content=body).status_code == 422


MANY = {"checkpoint": "blocks", "knobs": {f"{i:x}": "" for i in range(300_000)}}
UNKNOWN = {"what": "film", "recipe": {"checkpoint": "blocks"}} | {f"{i:x}": 0 for i in range(1_000_000)}


@pytest.mark.parametrize(("route", "sent"), [("picture", MANY), ("recipe", MANY), ("film", UNKNOWN)])
def test_a_million_mistakes_cost_nothing(apart, route, sent):
    body = json.dumps(sent, separators=(",", ":")).encode()
    with visitor(apart[0]) as one, watched(apart):
        for _ in range(3):
            answer = one.post(f"/live/{route}", content=body)
            assert answer.status_code == 422
            message = answer.json()["message"]
            assert "has more than 20,000 parts" in message and message.endswith(".") and len(message) < 200


def test_half_sent_requests_keep_nobody_out(apart):
    held = []
    try:
        with watched(apart):
            for _ in range(1200):
                connection = raw(apart[0])
                connection.sendall(b"POST /live/picture HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
                held.append(connection)
            time.sleep(0.3)
    finally:
        for connection in held:
            connection.close()


def test_half_sent_bodies_keep_nobody_out(apart):
    held = []
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000000\r\n\r\n"
    try:
        with watched(apart):
            for _ in range(300):
                connection = raw(apart[0])
                connection.sendall(head + b"x" * 1000)
                held.append(connection)
            time.sleep(0.3)
    finally:
        for connection in held:
            connection.close()


def test_slow_requests_end(address, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(intake, "GRACE_SECONDS", 0.5)
    starts = (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    body = b"POST /live/recipe HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 90\r\n\r\n{"
    for start in (*starts, body):
        with raw(address) as connection:
            connection.sendall(start)
            assert ends(connection, 5), start
    with raw(address) as connection:  # byte by byte does not help
        until = time.monotonic() + 5
        with contextlib.suppress(ConnectionError):
            for byte in itertools.cycle(b"X-A: b\r\n"):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
                assert time.monotonic() < until


def test_a_reader_who_does_not_read_is_cut_off(address, monkeypatch):
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.3)
    with raw(address) as connection:
        request = b"GET /assets/" + b"x" * 10 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        connection.sendall(request)
        connection.recv(100)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.settimeout(3)
            for _ in range(5000):
                connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert ends(connection, 5)


def test_streams_end_where_one_visitor_opens_many(address, monkeypatch):
    monkeypatch.setattr(audience, "MOST_EACH", 2)
    call = calls(address)["models"]["id"]
    with visitor(address) as one, contextlib.ExitStack() as opened:
        cookie = f"{security.COOKIE}={one.cookies[security.COOKIE]}".encode()
        held = []
        for session in ("s0", "s1", "s2", "s3"):
            body = {"data": [], "fn_index": call, "session_hash": session}
            one.post("/gradio_api/queue/join", json=body).raise_for_status()
            one.get(f"/gradio_api/queue/data?session_hash={session}")
            target = f"GET /gradio_api/queue/data?session_hash={session} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
            held.append(opened.enter_context(raw(address)))
            held[-1].sendall(target + b"Connection: close\r\nCookie: " + cookie + b"\r\n\r\n")
            time.sleep(0.1)
        assert ends(held[0], 5) and not ends(held[3], 0.3)


def test_a_visitor_has_few_events_under_way(apart):
    film = ['{"checkpoint": "blocks"}', "", "", "Once around", None, 120, 20, "512 pixels", "MP4"]
    with visitor(apart[0]) as one, watched(apart):
        codes = [one.post("/gradio_api/call/film", json={"data": film}).status_code for _ in range(20)]
        assert codes.count(200) <= security.MOST_EVENTS + 2 and 429 in codes


def test_a_film_that_nobody_fetches_is_not_drawn(monkeypatch):
    answers, comes = queue.Queue(), audience.Audience.comes

    def recorded(self: audience.Audience, key: str) -> bool:
        found = comes(self, key)
        answers.put(found)
        return found

    monkeypatch.setattr(audience, "PATIENCE", 0.3)
    monkeypatch.setattr(audience.Audience, "comes", recorded)
    drawn = []
    monkeypatch.setattr(films, "turntable", lambda *given: [lambda: drawn.append(1)] * 10)
    with served(toy_models()) as address:
        film = ['{"checkpoint": "blocks"}', "", "", "Once around", None, 10, 20, "As it is", "MP4"]
        started = httpx.post(f"{address}/gradio_api/call/film", json={"data": film}).json()
        assert answers.get(timeout=60) is False  # a busy computer begins with the event late
        said = httpx.get(f"{address}/gradio_api/call/film/{started['event_id']}").text
        assert not drawn and "event: error" in said and "nobody fetched" in said.lower()


def test_films_hold_no_thread_that_sending_a_file_takes(monkeypatch):
    go, draw = threading.Event(), Blocks.forward
    monkeypatch.setattr(Blocks, "forward", lambda self, codes: draw(self, codes) if go.wait(10) else None)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # then asyncio has five threads
    order = {"what": "film", "recipe": {"checkpoint": "blocks"}, "story": "Once around", "frames": 2, "file": "GIF"}
    codes = []
    with served(toy_models()) as address, contextlib.ExitStack() as opened:
        several = [opened.enter_context(visitor(address)) for _ in range(filming.MOST)]
        other = opened.enter_context(visitor(address))
        threads = [
            threading.Thread(target=lambda one=one: codes.append(one.post("/live/film", json=order).status_code))
            for one in several
        ]
        try:
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            start = time.monotonic()
            other.post("/cutouts/upload", params={"name": "a.png"}, content=b"x").raise_for_status()
            assert time.monotonic() - start < 2
        finally:
            go.set()
            for thread in threads:
                thread.join()
    assert codes == [200] * filming.MOST
