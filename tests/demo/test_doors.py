"""Who may come in to a running page: other sites, routes that it does not use, passwords, proxies."""

import http.client
import itertools
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from demo import security
from demo.models import Models
from tests.serving import served, toy_models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio's and uvicorn's own dependencies


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    models = toy_models()
    yield models
    models.close()


EVERYWHERE = [
    ("GET", "/"), ("GET", "/config"), ("GET", "/live/models"), ("GET", "/page/tabs.js"), ("POST", "/live/picture"),
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
    with served(toy_models(), host=host) as address, httpx.Client(base_url=address, timeout=60) as web:
        for (method, path), headers in itertools.product(EVERYWHERE, FOREIGN):
            answer = web.request(method, path, headers=headers)
            assert answer.status_code == 403, (method, path, headers)
            assert "access-control-allow-origin" not in answer.headers
        own = {"Origin": address, "Sec-Fetch-Site": "same-origin"}
        assert web.post("/live/picture", json={"checkpoint": "blocks"}, headers=own).status_code == 200
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert web.get("/", headers=link).status_code == 200  # somebody followed a link


def test_on_the_network_it_is_the_same():
    with served(toy_models(), host="0.0.0.0", password="known") as address:
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


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/queue%2Fjoin%00", "//gradio_api/queue/join", "/GRADIO_API/queue/join",
        "/gradio_api/queue/join/../x",
        "/gradio_api/upload/..%2fqueue/join", "/gradio_api/queue/join;x", "/gradio_api/queue/join%20", "/%2e%2e/config",
        "/live/picture/", "/live//picture", "/live/examples/patches/..%2f..%2fapp.py", "/page/%2e%2e%2fapp.py",
        "/page/..%5capp.py", "/static/%2e%2e/%2e%2e/routes.py", "/gradio_api/file=%2fetc%2fpasswd",
        "/gradio_api/file=/tmp/../etc/passwd", "/gradio_api/file=%00", "/gradio_api/call/film/../../info",
    ],
)  # fmt: skip
def test_a_path_written_in_another_way_opens_nothing(web, path):
    parts = urlsplit(str(web.base_url))
    for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "TRACE", "CONNECT"):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        connection.putrequest(method, path, skip_accept_encoding=True)  # as it is
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status in (400, 403, 404, 405, 422), (method, answer.status)
        assert b"root:" not in answer.read()
        connection.close()


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_is_checked_as_json_is_read_as_json_whatever_it_is_called(address, kind):
    """And never sent back: an answer to 1 MB of a wrong kind is short."""
    with httpx.Client(base_url=address, timeout=60) as web:
        good = json.dumps({"data": []}).encode()
        assert web.post("/gradio_api/call/models", content=good, headers={"Content-Type": kind}).status_code == 200
        for wrong in ({"data": "x" * 1_000_000}, {"data": [], "fn_index": "x" * 1_000_000, "session_hash": "a"}):
            for route in ("queue/join", "call/models"):
                content = json.dumps(wrong).encode()
                answer = web.post(f"/gradio_api/{route}", content=content, headers={"Content-Type": kind})
                assert len(answer.content) < 1000
    with httpx.Client(base_url=address, timeout=60) as web:
        answer = web.post("/live/photo", params={"model": "patches", "find": "x" * 3000}, content=b"")
        assert answer.status_code == 422 and len(answer.content) < 1000 and answer.json()["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Prefix": "/gradio_api"}, {"X-Forwarded-Prefix": "/page"}, {"X-Forwarded-Prefix": "/a/../.."},
        {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "javascript"}, {"X-Gradio-Server": "http://evil.example"},
        {"X-Original-URL": "/gradio_api/startup-events"}, {"X-Rewrite-URL": "/gradio_api/startup-events"},
        {"X-HTTP-Method-Override": "DELETE"}, {"X-Forwarded-For": "127.0.0.1"}, {"Range": "bytes=0-,0-,0-"},
    ],
)  # fmt: skip
def test_no_header_leads_around_the_guard(web, headers):
    for path in (
        "/gradio_api/startup-events",
        "/startup-events",
        "/gradio_api/gradio_api/startup-events",
        "/page/app.py",
    ):
        assert web.get(path, headers=headers).status_code in (403, 404), path
    told = web.get("/config", headers=headers)
    assert "javascript:" not in told.text and told.status_code in (200, 404)
    if "X-Gradio-Server" in headers:
        assert "evil" not in told.text


# Passwords


def test_who_guesses_a_password_waits():
    with (
        served(toy_models(), password="right") as address,
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
    with served(toy_models(), root_path=root_path) as address, httpx.Client(base_url=address, timeout=60) as web:
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
            made = json.loads(said.rpartition("data: ")[2])[0]
            assert made["url"] == f"{root}/gradio_api/file={made['path']}"
            cookie = httpx.get(f"{address}{prefix}/", headers=headers, timeout=60).headers["set-cookie"]
            assert f"Path={prefix}/;" in cookie and ("Secure" in cookie) == root.startswith("https")


@pytest.mark.parametrize("root_path", ["knobs", "/a b", "/a?b", "ftp://a/b"])
def test_what_is_no_root_path_is_said(models, root_path):
    with pytest.raises(ValueError, match="is no path"):
        security.root_of(root_path)
