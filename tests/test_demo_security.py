"""Attacks on a running page: files, other sites, floods, passwords; while each goes on, another visitor is answered."""

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import httpx
import pytest
from gradio import processing_utils, utils
from gradio.context import LocalContext
from starlette.routing import Mount

from demo import audience, connections, events, films, intake, security
from demo.app import serve
from demo.films import turntable
from demo.recipes import Recipe
from demo.shelf import Shelf
from tests.serving import served, toy_shelf

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio's and uvicorn's own dependencies

SECRET = "a line that no visitor may read"
MARK = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(toy_shelf()) as address:
        yield address


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    shelf = toy_shelf()
    yield shelf
    shelf.close()


@pytest.fixture
def web(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


@contextlib.contextmanager
def visitor(address: str) -> Iterator[httpx.Client]:
    """Give a browser that has opened the page."""
    with httpx.Client(base_url=address, timeout=60) as client:
        client.get("/").raise_for_status()
        yield client


@contextlib.contextmanager
def watched(address: str, longest: float = 1.0) -> Iterator[None]:
    """While the block runs, another visitor asks for pictures; each must come within `longest` seconds.

    On a machine that others keep busy, as much longer as its cores are shared.
    """
    longest *= max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    over = threading.Event()
    waits: list[float] = []
    with httpx.Client(base_url=address, timeout=60) as client:

        def wait(number: int) -> float:
            start = time.monotonic()
            client.post(
                "/live/picture", json={"checkpoint": "blocks", "knobs": {"rotation": number}}
            ).raise_for_status()
            return time.monotonic() - start

        def look() -> None:
            while not over.is_set():
                waits.append(wait(len(waits)))
                over.wait(0.05)

        wait(0)  # the first of all takes longer
        looker = threading.Thread(target=look)
        looker.start()
        try:
            yield
        finally:
            over.set()
            looker.join()
    assert waits and max(waits) < longest


# Files


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Return paths that no visitor may name: of the system, here, in the temporary folder, beside uploads, links."""
    here = Path("left-here-by-a-test.txt").resolve()
    beside = Path(os.environ["GRADIO_TEMP_DIR"]) / "beside"
    aside = tmp_path_factory.mktemp("aside") / "secret.mp4"
    for path in (here, beside, aside):
        path.write_text(SECRET)
    link = aside.with_name("link.mp4")
    link.symlink_to("/etc/passwd")
    inner = beside.with_name("link.mp4")
    inner.symlink_to("/etc/passwd")
    climbing = f"{beside.parent}/x/../../../../../../etc/passwd"
    special = [
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/dev/stdin",
        climbing,
        here.name,
        "file:///etc/passwd",
    ]
    yield [*special, *map(str, (here, beside, aside, link, inner, beside.parent))]
    for path in (here, beside, aside, link, inner):
        path.unlink()


def named(path: str) -> Iterator[object]:
    """Yield values that name a file, plainly and hidden in others."""
    file = {"path": path, "meta": MARK}
    yield file
    yield {"path": path}
    yield {"path": path, "url": f"/gradio_api/file={path}", "orig_name": "film.mp4", "meta": MARK, "is_stream": True}
    yield [[{"value": file}]]
    yield {"value": {"nested": [file]}}


def calls(address: str) -> dict[str, dict]:
    """Return every event that the page's config has, by name or number."""
    config = httpx.get(f"{address}/config").json()
    return {str(each["api_name"] or each["id"]): each for each in config["dependencies"] if each["backend_fn"]}


def test_no_event_takes_a_file_that_its_visitor_did_not_send(address, foreign):
    """By both of Gradio's ways to call, in each of an event's inputs, for every event."""
    found = calls(address)
    assert {"film", "grid", "follow", "render", "layers", "read_photo", "models"} <= found.keys()
    with visitor(address) as client, watched(address):
        for name, call in found.items():
            data: list[Any] = []
            for place in range(max(1, len(call["inputs"]))):
                for number, path in enumerate(foreign):
                    data = [None] * len(call["inputs"])
                    data[place : place + 1] = [list(named(path))[(number + place) % 5]]
                    body = {"data": data, "fn_index": call["id"], "session_hash": "mine"}
                    route = "run/predict" if place % 2 else "queue/join"
                    assert client.post(f"/gradio_api/{route}", json=body).status_code == 403, (name, path)
                if call["api_name"]:
                    answer = client.post(f"/gradio_api/call/{name}", json={"data": data})
                    assert answer.status_code == 403
    assert not [file for file in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if file.name in ("passwd", "environ")]


def test_a_path_as_text_is_no_video_either(address, foreign):
    with visitor(address) as client:
        for path in ("/etc/passwd", "/dev/zero", foreign[-2]):
            inputs = ['{"checkpoint": "patches"}', path, 4, 10, "As it is", "GIF"]
            started = client.post("/gradio_api/call/follow", json={"data": inputs}).json()
            said = client.get(f"/gradio_api/call/follow/{started['event_id']}").text
            assert "event: error" in said and "root:" not in said


def test_where_an_object_stands_beside_the_data_it_is_checked_too(web):
    for extra in ({"event_data": {"path": "/etc/passwd", "meta": MARK}}, {"trigger_id": [{"path": "/etc/passwd"}]}):
        body = {"data": [], "fn_index": 0, "session_hash": "mine", **extra}
        assert web.post("/gradio_api/queue/join", json=body).status_code == 403


def test_gradio_itself_refuses_files_from_elsewhere(shelf, address, foreign):
    """Were the guard passed by, Gradio's own check would hold."""

    async def layout() -> gr.Blocks:  # Gradio leaves event loops open when it lays out a page where none runs
        mounted: Any = next(route.app for route in serve(shelf).routes if isinstance(route, Mount))
        return mounted.get_blocks()

    blocks = asyncio.run(layout())
    token = LocalContext.blocks.set(blocks)
    try:
        for path in foreign:
            if Path(path).is_dir() or utils.is_in_or_equal(path, os.environ["GRADIO_TEMP_DIR"]):
                continue  # which Gradio alone would let pass
            with pytest.raises(Exception, match=r"Cannot move|Invalid"):
                processing_utils.move_files_to_cache(
                    {"path": path, "meta": MARK}, next(iter(blocks.blocks.values())), check_in_upload_folder=True
                )
    finally:
        LocalContext.blocks.reset(token)


def test_the_event_itself_asks_whose_the_video_is(shelf):
    follow = events.Events(shelf).follow
    with pytest.raises(ValueError, match="not sent by you"):
        next(follow('{"checkpoint": "patches"}', "/etc/passwd", 4, 10, "As it is", "GIF", gr.Request()))


def test_no_address_leads_to_a_file_of_the_server(web, foreign):
    for path in foreign:
        for route in ("file=", "file/", "proxy=", "stream/", "upload_progress/", "custom_component/"):
            answer = web.get(f"/gradio_api/{route}{path}")
            assert answer.status_code in (403, 404) and "root:" not in answer.text, (route, path)
    for path in ("/static/..%2f..%2f..%2froutes.py", "/assets/%2e%2e/%2e%2e/routes.py", "/page/..%2fapp.py"):
        assert web.get(path).status_code in (403, 404)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> bytes:
    target = tmp_path_factory.mktemp("video") / "moving.mp4"
    frames = [frame() for frame in turntable(shelf["blocks"], Recipe(checkpoint="blocks"), 6)]
    films.write(target, films.torch.cat(frames), "mp4")
    return target.read_bytes()


def followed(client: httpx.Client, path: str) -> httpx.Response:
    """Ask for a film after a video at `path`."""
    inputs = ['{"checkpoint": "patches"}', {"path": path, "meta": MARK}, 4, 10, "As it is", "GIF"]
    started = client.post("/gradio_api/call/follow", json={"data": inputs})
    if started.status_code != 200:
        return started
    return client.get(f"/gradio_api/call/follow/{started.json()['event_id']}")


def test_a_visitor_s_files_are_his_alone(address, video):
    with visitor(address) as one, visitor(address) as other, httpx.Client(base_url=address, timeout=60) as nobody:
        (sent,) = one.post("/gradio_api/upload", files={"files": ("my film.mp4", video)}).json()
        assert one.get(f"/gradio_api/file={sent}").content == video
        for stranger in (other, nobody):
            assert stranger.get(f"/gradio_api/file={sent}").status_code == 403
            assert followed(stranger, sent).status_code == 403
        said = followed(one, sent).text
        assert "event: complete" in said
        made = json.loads(said.rpartition("data: ")[2])[1]["value"]["path"]
        assert one.get(f"/gradio_api/file={made}").headers["content-type"] == "image/gif"
        for stranger in (other, nobody):
            assert stranger.get(f"/gradio_api/file={made}").status_code == 403


def test_what_one_without_a_cookie_sent_is_that_session_s_own(address, video):
    """As Gradio's client does, which keeps no cookies."""
    with httpx.Client(base_url=address, timeout=60) as web:
        (sent,) = web.post("/gradio_api/upload", files={"files": ("film.mp4", video)}).json()
        file = {"path": sent, "meta": MARK}
        call = calls(address)["follow"]["id"]
        data = ['{"checkpoint": "patches"}', file, 4, 10, "As it is", "GIF"]
        body = {"data": data, "fn_index": call, "session_hash": "first"}
        assert web.post("/gradio_api/queue/join", json=body).status_code == 200
        assert web.post("/gradio_api/queue/join", json=body | {"session_hash": "second"}).status_code == 403
        web.get("/gradio_api/queue/data", params={"session_hash": "first"})


def test_a_session_s_name_does_not_open_it_to_others(address):
    call = calls(address)["models"]["id"]
    with visitor(address) as one, visitor(address) as other:
        body = {"data": [], "fn_index": call, "session_hash": "known"}
        one.post("/gradio_api/queue/join", json=body).raise_for_status()
        assert other.get("/gradio_api/queue/data?session_hash=known").status_code == 404
        assert "process_completed" in one.get("/gradio_api/queue/data?session_hash=known").text


def test_uploaded_pages_are_saved_and_never_shown(address):
    with visitor(address) as one:
        for name in ("page.html", "picture.svg"):
            (sent,) = one.post("/gradio_api/upload", files={"files": (name, b"<script>alert(1)</script>")}).json()
            answer = one.get(f"/gradio_api/file={sent}")
            assert answer.headers["content-disposition"].startswith("attachment")
            assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("name", ["../../../etc/cron.d/x", "..", "/etc/passwd", "a\0b.mp4", ".in-use", "x" * 400, ""])
def test_an_upload_s_name_leads_nowhere(address, name):
    with visitor(address) as one:
        answer = one.post("/gradio_api/upload", files={"files": (name or "f", b"text")})
        (sent,) = answer.json()
        assert Path(sent).parent.parent == Path(os.environ["GRADIO_TEMP_DIR"]) and Path(sent).read_bytes() == b"text"


# Other sites, other routes


EVERYWHERE = [
    ("GET", "/"), ("GET", "/config"), ("GET", "/live/models"), ("GET", "/page/main.js"), ("POST", "/live/picture"),
    ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/call/models"),
    ("GET", "/gradio_api/queue/data"), ("GET", "/gradio_api/info"), ("GET", "/theme.css"), ("GET", "/nowhere"),
    ("OPTIONS", "/gradio_api/queue/join"), ("OPTIONS", "/live/picture"),
]  # fmt: skip
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:1"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_another_site_s_requests_are_refused_everywhere(host):
    with served(toy_shelf(), host=host) as address, httpx.Client(base_url=address, timeout=60) as web:
        for (method, path), headers in itertools.product(EVERYWHERE, FOREIGN):
            answer = web.request(method, path, headers=headers)
            assert answer.status_code == 403, (method, path, headers)
            assert "access-control-allow-origin" not in answer.headers
        own = {"Origin": address, "Sec-Fetch-Site": "same-origin"}
        assert web.post("/live/picture", json={"checkpoint": "blocks"}, headers=own).status_code == 200
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert web.get("/", headers=link).status_code == 200  # somebody followed a link


def test_on_the_network_it_is_the_same():
    with served(toy_shelf(), host="0.0.0.0", password="known") as address:
        local = f"http://127.0.0.1:{urlsplit(address).port}"
        with httpx.Client(base_url=local, auth=("any", "known")) as web:
            for (method, path), headers in itertools.product(EVERYWHERE, FOREIGN):
                assert web.request(method, path, headers={"Host": "studio.lan:7860"} | headers).status_code == 403
            own = {"Host": "studio.lan:7860", "Origin": "http://studio.lan:7860"}
            assert web.get("/live/models", headers=own).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/process_recording"), ("GET", "/gradio_api/deep_link?session_hash=x"),
        ("POST", "/gradio_api/vibe-edit"), ("GET", "/gradio_api/vibe-code"), ("POST", "/gradio_api/stream/x"),
        ("POST", "/gradio_api/vibe-starter-queries"), ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/undo-vibe-edit"), ("GET", "/gradio_api/proxy=http://a"),
        ("GET", "/gradio_api/heartbeat/x"), ("GET", "/gradio_api/runs"), ("GET", "/monitoring"), ("POST", "/login"),
        ("GET", "/gradio_api/startup-events"), ("POST", "/gradio_api/run/film"), ("GET", "/gradio_api/dev/reload"),
        ("GET", "/svelte/svelte.js"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/gradio_api/openapi.json"),
    ],
)  # fmt: skip
def test_routes_that_the_page_does_not_use_are_not_there(web, method, path):
    assert web.request(method, path).status_code == 404


def test_a_websocket_is_refused(address):
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    connection.request("GET", "/gradio_api/queue/join", headers=upgrade)
    assert connection.getresponse().status in (403, 404)
    connection.close()


# Too much, too slow


def raw(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)


@pytest.mark.parametrize("route", ["gradio_api/queue/join", "gradio_api/call/film", "gradio_api/upload", "live/photo"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_end_is_cut_off(address, route, chunked):
    with raw(address) as connection, watched(address):
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 300000000"
        kind = b"Content-Type: application/json\r\nHost: 127.0.0.1"
        connection.sendall(b"POST /" + route.encode() + b" HTTP/1.1\r\n" + kind + b"\r\n" + length + b"\r\n\r\n")
        piece = b"[" * 1_000_000
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 300:
                connection.sendall(b"F4240\r\n" + piece + b"\r\n" if chunked else piece)
                sent += 1
        assert sent < 40
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


def test_half_sent_requests_keep_nobody_out(address):
    held = []
    try:
        with watched(address):
            for _ in range(1200):
                connection = raw(address)
                connection.sendall(b"POST /live/picture HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
                held.append(connection)
            time.sleep(0.3)
    finally:
        for connection in held:
            connection.close()


def test_half_sent_bodies_keep_nobody_out(address):
    held = []
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000000\r\n\r\n"
    try:
        with watched(address):
            for _ in range(300):
                connection = raw(address)
                connection.sendall(head + b"x" * 1000)
                held.append(connection)
            time.sleep(0.3)
    finally:
        for connection in held:
            connection.close()


def ends(connection: socket.socket, seconds: float) -> bool:
    """Return whether the server ends a connection in time."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


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


def test_a_visitor_has_few_events_under_way(address, monkeypatch):
    monkeypatch.setattr(audience, "PATIENCE", 0.5)
    film = ['{"checkpoint": "blocks"}', "", "", "Once around", None, 120, 20, "512 pixels", "MP4"]
    with visitor(address) as one, watched(address):
        codes = [one.post("/gradio_api/call/film", json={"data": film}).status_code for _ in range(20)]
        assert codes.count(200) <= security.MOST_EVENTS + 2 and 429 in codes
    time.sleep(3)  # until they are given up


def test_a_film_that_nobody_fetches_is_not_drawn(monkeypatch):
    monkeypatch.setattr(audience, "PATIENCE", 0.3)
    drawn = []
    monkeypatch.setattr(films, "turntable", lambda *given: [lambda: drawn.append(1)] * 10)
    with served(toy_shelf()) as address:
        film = ['{"checkpoint": "blocks"}', "", "", "Once around", None, 10, 20, "As it is", "MP4"]
        started = httpx.post(f"{address}/gradio_api/call/film", json={"data": film}).json()
        time.sleep(1.5)
        assert not drawn
        said = httpx.get(f"{address}/gradio_api/call/film/{started['event_id']}").text
        assert "event: error" in said and "nobody fetched" in said.lower()


# Passwords


def test_who_guesses_a_password_waits():
    with (
        served(toy_shelf(), password="right") as address,
        httpx.Client(base_url=address, auth=("any", "right"), timeout=60) as knows,
    ):
        assert knows.get("/").status_code == 200
        for _ in range(10):
            assert httpx.get(address, auth=("any", "wrong")).status_code == 401
        answer = httpx.get(address, auth=("any", "right"))
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 5
        assert knows.get("/live/models").status_code == 200  # who was in before does not wait


# Below a path


SEEN_AT = {
    "": [
        ({}, "http://127.0.0.1:{port}"),
        ({"X-Forwarded-Prefix": "/knobs", "X-Forwarded-Host": "a.example"}, "http://a.example/knobs"),
        ({"X-Forwarded-Prefix": "//evil.example/x"}, "http://127.0.0.1:{port}"),
    ],
    "/knobs/": [
        ({}, "http://127.0.0.1:{port}/knobs"),
        ({"X-Forwarded-Host": "a.example", "X-Forwarded-Proto": "https"}, "https://a.example/knobs"),
    ],
    "https://a.example/knobs": [({}, "https://a.example/knobs")],
}


@pytest.mark.parametrize("root_path", SEEN_AT)
def test_gradio_is_told_where_the_page_is_seen(root_path):
    with served(toy_shelf(), root_path=root_path) as address, httpx.Client(base_url=address, timeout=60) as web:
        for headers, root in SEEN_AT[root_path]:
            root = root.format(port=urlsplit(address).port)
            prefix = urlsplit(root).path
            for path in ("/config", f"{prefix}/config"):  # whether or not the proxy takes the prefix off
                assert web.get(path, headers=headers).json()["root"] == root
            own = {"Origin": root.removesuffix(prefix), **headers}
            assert web.post("/live/picture", json={"checkpoint": "blocks"}, headers=own).status_code == 200
            call = f"{prefix}/gradio_api/call/grid"
            data = ['{"checkpoint": "patches"}', "texture", "Nothing", 2, "As it is"]
            started = web.post(call, json={"data": data}, headers=headers).json()
            said = web.get(f"{call}/{started['event_id']}", headers=headers).text
            made = json.loads(said.rpartition("data: ")[2])[1]["value"]
            assert made["url"] == f"{root}/gradio_api/file={made['path']}"
            cookie = httpx.get(f"{address}{prefix}/", headers=headers, timeout=60).headers["set-cookie"]
            assert f"Path={prefix}/;" in cookie and ("Secure" in cookie) == root.startswith("https")


@pytest.mark.parametrize("root_path", ["knobs", "/a b", "/a?b", "ftp://a/b"])
def test_what_is_no_root_path_is_said(shelf, root_path):
    with pytest.raises(ValueError, match="is no path"):
        security.root_of(root_path)
