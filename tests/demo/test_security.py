"""Attacks on a running page by files and by routes; while each goes on, another visitor is answered."""

import asyncio
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio import processing_utils, utils
from gradio.context import LocalContext
from starlette.routing import Mount

from demo import events, films
from demo.app import serve
from demo.films import turntable
from demo.models import Models
from demo.recipes import PictureRecipe
from tests.attacks import MARK, SECRET, calls, visitor, watched
from tests.serving import toy_models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio's and uvicorn's own dependencies


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    models = toy_models()
    yield models
    models.close()


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


def test_no_event_takes_a_file_that_its_visitor_did_not_send(apart, foreign):
    """By both of Gradio's ways to call, in each of an event's inputs, for every event."""
    found = calls(apart[0])
    assert {"film", "grid", "follow", "render", "layers", "read_photo", "models"} <= found.keys()
    with visitor(apart[0]) as client, watched(apart):
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


AROUND = ['{"checkpoint": "blocks"}', "", "", "Once around", None]
ODD = [
    ("film", [*AROUND, None, 20, "64", "MP4"], "Frames is not a number"),
    ("film", [*AROUND, "many", 20, "64", "MP4"], "Frames is not a number"),
    ("film", [*AROUND, 10**400, 20, "64", "MP4"], "Frames is not a number"),
    ("film", [*AROUND, 4, None, "64", "MP4"], "Fps is not a number"),
    ("film", [*AROUND, 4, [20], "64", "MP4"], "Fps is not a number"),
    ("film", [*AROUND, 4, float("inf"), "64", "MP4"], "Fps is not a number"),
    ("film", [*AROUND, 4, 20, None, None], "Films cannot be written as ''"),
    ("film", [*AROUND[:3], None, None, 4, 20, None, "MP4"], "There is no film ''"),
    ("grid", ['{"checkpoint": "patches"}', "shape", "", None, "64"], "Photos is not a number"),
    ("follow", ['{"checkpoint": "patches"}', None, None, 20, "64", "MP4"], "Frames is not a number"),
    ("read_photo", ["patches", None, None], "The photo is not base64 text"),
    ("read_photo", ["patches", 5, None], "The photo is not base64 text"),
    ("read_photo", ["patches", "aGk=", 5], "The box is not four numbers"),
    ("read_photo", ["patches", "aGk=", "abcd"], "The box is not four numbers"),
    ("read_photo", ["patches", "aGk=", [0, 0, 1, 10**400]], "An edge of the box is not a number"),
    ("read_photo", [["patches"], "aGk=", None], "The checkpoint is not a text"),
    ("read_photo", [None, "aGk=", None], "The checkpoint is not a text"),
]


@pytest.mark.parametrize(("event", "sent", "said"), ODD)
def test_values_of_the_wrong_kind_get_one_sentence(apart, event, sent, said):
    """On a server without the types' checker, which would refuse them first."""
    with visitor(apart[0]) as client:
        started = client.post(f"/gradio_api/call/{event}", content=json.dumps({"data": sent})).json()
        answer = client.get(f"/gradio_api/call/{event}/{started['event_id']}").text
    assert f'"error": "{said}' in answer


def test_where_an_object_stands_beside_the_data_it_is_checked_too(web):
    for extra in ({"event_data": {"path": "/etc/passwd", "meta": MARK}}, {"trigger_id": [{"path": "/etc/passwd"}]}):
        body = {"data": [], "fn_index": 0, "session_hash": "mine", **extra}
        assert web.post("/gradio_api/queue/join", json=body).status_code == 403


def test_gradio_itself_refuses_files_from_elsewhere(models, address, foreign):
    """Were the guard passed by, Gradio's own check would hold."""

    async def layout() -> gr.Blocks:  # Gradio leaves event loops open when it lays out a page where none runs
        mounted: Any = next(route.app for route in serve(models).routes if isinstance(route, Mount))
        return mounted.get_blocks()

    with ThreadPoolExecutor(1) as pool:  # another test may have left a loop in this thread
        blocks = pool.submit(asyncio.run, layout()).result()
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


def test_the_event_itself_asks_whose_the_video_is(models):
    follow = events.Events(models).follow
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
def video(tmp_path_factory: pytest.TempPathFactory, models: Models) -> bytes:
    target = tmp_path_factory.mktemp("video") / "moving.mp4"
    frames = [frame() for frame in turntable(models["blocks"], PictureRecipe(checkpoint="blocks"), 6)]
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
        made = json.loads(said.rpartition("data: ")[2])[0]["path"]
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
