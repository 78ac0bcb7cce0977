"""The routes of "Cut out objects": found, cut, painted; each visitor's own; bounded; others are answered meanwhile."""

import asyncio
import base64
import io
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest

from demo import cutouts
from demo.cutouts import Desk, _examples, _made, united
from demo.files import Files, Visitor
from tests.odd_files import BAD, GOOD
from tests.serving import result_of, served, toy_models
from training.segmentation.classical import ClassicalSegmenter
from training.segmentation.contract import Instance

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


class Discs:
    """Finds what is red and what is blue, slowly where it is told."""

    labels = ("red", "blue")
    seconds = 0.0

    def __call__(self, image: np.ndarray) -> list[Instance]:
        time.sleep(self.seconds)
        found, pixels = [], image.astype(int)
        for label, one, other in (("red", 0, 2), ("blue", 2, 0)):
            mask = pixels[..., one] - pixels[..., other] > 60
            if mask.sum() < 20:
                continue
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            found.append(Instance(mask.astype(np.float32), box, label, 0.9 if label == "red" else 0.8))
        return found


def picture(x: float = 60, size: tuple[int, int] = (200, 120)) -> PIL.Image.Image:
    """Return a red disc of radius 20 at (x, 60) and a blue one of radius 15 at (160, 40), on grey."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    pixels = np.full((size[1], size[0], 3), 140, np.uint8)
    pixels[np.hypot(columns - 160, rows - 40) < 15] = (30, 40, 210)
    pixels[np.hypot(columns - x, rows - 60) < 20] = (210, 40, 30)
    return PIL.Image.fromarray(pixels)


def as_png(shown: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    shown.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a film of 30 frames in which the red disc moves."""
    path = tmp_path_factory.mktemp("film") / "discs.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", "200x120", "-r", "15", "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p", str(path)]
    frames = b"".join(np.asarray(picture(30 + 2 * t)).tobytes() for t in range(30))
    subprocess.run(command, input=frames, check=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(toy_models(), finder=Discs) as address:
        yield address


@pytest.fixture
def visitor(address: str) -> Iterator[httpx.Client]:
    """Return a browser that has opened the page."""
    with httpx.Client(base_url=address, timeout=60) as client:
        client.get("/")
        yield client


def sent(visitor: httpx.Client, data: bytes, name: str = "photo.png") -> str:
    answer = visitor.post("/cutouts/upload", params={"name": name}, content=data)
    assert answer.status_code == 200, answer.text
    return answer.json()["file"]


def opened(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data))


def test_objects_are_found_with_outlines(visitor):
    found = visitor.post("/cutouts/find", json={"file": sent(visitor, as_png(picture()))}).json()
    assert (found["width"], found["height"]) == (200, 120)
    assert opened(base64.b64decode(found["view"])).size == (200, 120)
    assert [each["label"] for each in found["objects"]] == ["red", "blue"]
    red = found["objects"][0]
    assert red["box"] == pytest.approx([41 / 200, 41 / 120, 80 / 200, 80 / 120], abs=0.01)
    [outline] = red["outline"]
    assert min(outline[::2]) == pytest.approx(41, abs=1.5) and max(outline[1::2]) == pytest.approx(80, abs=1.5)


def test_the_chosen_objects_are_cut_out(visitor):
    file = sent(visitor, as_png(picture()))
    cutout = visitor.post("/cutouts/cut/cutout", json={"file": file, "objects": [0]})
    assert cutout.headers["content-disposition"] == "attachment; filename*=UTF-8''photo-cutout.png"
    shown = opened(cutout.content)
    assert shown.mode == "RGBA" and shown.width < 60
    middle = shown.getpixel((shown.width // 2, shown.height // 2))
    assert middle == (210, 40, 30, 255)
    mask = np.asarray(opened(visitor.post("/cutouts/cut/mask", json={"file": file, "objects": [0, 1]}).content))
    assert mask.shape == (120, 200) and mask[60, 60] == 255 and mask[40, 160] == 255 and mask[5, 5] == 0
    rest = np.asarray(opened(visitor.post("/cutouts/cut/rest", json={"file": file, "objects": [0]}).content))
    assert rest[60, 60, 3] == 0 and rest[40, 160, 3] == 255
    white = visitor.post("/cutouts/cut/white", json={"file": file, "objects": [0]})
    pixels = np.asarray(opened(white.content))
    assert pixels.shape == (120, 200, 3) and (pixels[40, 160] == 255).all() and pixels[60, 60, 0] == 210
    assert [float(edge) for edge in white.headers["x-box"].split(",")] == pytest.approx(
        [0.205, 0.34, 0.4, 0.67], abs=0.02
    )
    small = visitor.post("/cutouts/preview", json={"file": file, "objects": [1]}).json()
    assert opened(base64.b64decode(small["mask"])).size == (200, 120)


def test_large_photos_are_searched_small_and_cut_large():
    photo = picture().resize((2000, 1200))
    [red] = [each for each in Discs()(np.asarray(picture())) if each.label == "red"]
    whole = united([red], photo.size)
    assert whole.mask.shape == (1200, 2000) and whole.box[2] == pytest.approx(800, abs=5)
    assert _made(np.asarray(photo), whole, "rest").size == (2000, 1200)


def test_files_of_others_and_mistakes_get_one_sentence(visitor, address):
    file = sent(visitor, as_png(picture()))
    with httpx.Client(base_url=address, timeout=60) as other:
        other.get("/")
        answer = other.post("/cutouts/find", json={"file": file})
        assert answer.status_code == 422 and "was not sent by you" in answer.json()["message"]
    for route, body in {
        "find": {"file": "/etc/passwd"},
        "cut/mask": {"file": file, "objects": [7]},
        "cut/rest": {"file": file, "objects": []},
        "cut/nonsense": {"file": file, "objects": [0]},
        "preview": {"file": file, "objects": ["a"]},
        "film": {"file": file[:-4]},
    }.items():
        answer = visitor.post(f"/cutouts/{route}", json=body)
        assert answer.status_code == 422, route
    for route, size in (("find", 30_000), ("frame", 500_000)):  # the server hangs up on what is too large
        answer = visitor.post(f"/cutouts/{route}", content=b"x" * size, headers={"Connection": "close"})
        assert answer.status_code == 413
    assert visitor.post("/cutouts/upload", params={"name": "a.png"}).status_code == 422
    climbing = visitor.post("/cutouts/upload", params={"name": "../../x.png"}, content=b"x").json()["file"]
    assert Path(climbing).name == "x.png" and Path(climbing).parent.parent == Path(file).parent.parent
    assert visitor.get("/cutouts/find").status_code == 404
    assert visitor.get("/cutouts/examples/cars/..%2F..%2Fsecret").status_code in (404, 422)


@pytest.mark.parametrize("name", [name for name in BAD if name != "11 MB"])
def test_what_is_no_photo_is_said(name, visitor):
    for answer in (
        visitor.post("/cutouts/find", json={"file": sent(visitor, BAD[name])}) if BAD[name] else None,
        visitor.post("/cutouts/frame", content=BAD[name][:390_000]),
    ):
        assert answer is None or (answer.status_code in (413, 422) and answer.json()["message"].endswith("."))


@pytest.mark.parametrize("name", ["CMYK", "EXIF", "1 x 1", "transparent", "long and thin"])
def test_odd_photos_are_searched(name, visitor):
    found = visitor.post("/cutouts/find", json={"file": sent(visitor, GOOD[name])})
    assert found.status_code == 200, found.text


def test_camera_pictures_are_answered_at_once(visitor):
    shown = io.BytesIO()
    picture().save(shown, "JPEG", quality=90)
    answer = visitor.post("/cutouts/frame", content=shown.getvalue()).json()
    assert [each["label"] for each in answer["objects"]] == ["red", "blue"]
    large = visitor.post("/cutouts/frame", content=as_png(PIL.Image.new("RGB", (1500, 1000))))
    assert large.status_code == 422


def test_a_film_comes_back_painted(visitor, film):
    file = sent(visitor, film, "discs.mp4")
    with visitor.stream("POST", "/cutouts/film", json={"file": file}) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert lines[0]["frames"] == 0 and lines[-1]["frames"] == 30
    assert sorted(lines[-1]["identities"].values()) == ["blue", "red"]
    made = visitor.get(f"/gradio_api/file={lines[-1]['file']}")
    assert made.status_code == 200 and made.headers["content-type"] == "video/mp4"
    wrong = visitor.post("/cutouts/film", json={"file": sent(visitor, as_png(picture())[:50], "a.mp4")})
    assert wrong.status_code == 422


def test_others_are_answered_while_a_film_is_painted(visitor, film, address, monkeypatch):
    """The film's frames wait in the same line as everyone's pictures; when its visitor leaves, it ends."""
    monkeypatch.setattr(Discs, "seconds", 0.1)
    file, slowest = sent(visitor, film, "discs.mp4"), 0.0
    with (
        httpx.Client(base_url=address, timeout=60) as other,
        visitor.stream("POST", "/cutouts/film", json={"file": file}) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        assert visitor.post("/cutouts/film", json={"file": file}).status_code == 422  # one at a time
        other.get("/")
        photo = sent(other, as_png(picture()))
        for _ in range(4):
            began = time.perf_counter()
            assert other.post("/cutouts/find", json={"file": photo}).status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 1.0
    folder = Path(file).parent.parent
    monkeypatch.setattr(Discs, "seconds", 0.0)
    for _ in range(100):
        names = [name for _, _, within in os.walk(folder) for name in within]  # which minds no folder that goes
        if not any("discs-objects" in name for name in names):
            break
        time.sleep(0.05)
    again = visitor.post("/cutouts/film", json={"file": file})
    assert again.status_code == 200


def test_of_films_asked_for_at_once_one_is_painted(visitor, film, monkeypatch):
    monkeypatch.setattr(Discs, "seconds", 0.05)
    file, answers = sent(visitor, film, "discs.mp4"), []

    def ask() -> None:
        answer = visitor.post("/cutouts/film", json={"file": file})
        answers.append((answer.status_code, "" if answer.status_code == 200 else answer.json()["message"]))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = (422, "A film of yours is being made; wait until it is done, or stop it.")
    assert sorted(answers) == [(200, ""), *[refused] * 7]
    broken = sent(visitor, b"no film", "a.mp4")
    for _ in range(2):  # what cannot be read is no film under way
        assert "is no film" in visitor.post("/cutouts/film", json={"file": broken}).json()["message"]


def test_a_film_whose_visitor_leaves_at_the_end_is_removed(tmp_path, film, monkeypatch):
    finish, owner, files, models = threading.Event(), Visitor("v", "a"), Files(tmp_path), toy_models()

    def painted(_: object, source: Path, out: Path, *, keep: Callable[[list[Instance]], object], read: object) -> dict:
        keep([])
        finish.wait(10)
        out.write_bytes(source.read_bytes())
        out.with_suffix(".json").write_text("{}")
        return {"out": str(out), "frames": 1, "identities": {}}

    monkeypatch.setattr(cutouts, "track_film", painted)
    tab = cutouts.Cutouts(models, files, Discs)
    source = files.save(owner, "film.mp4", film)

    async def leave() -> None:
        steps = tab._painting(owner, source)
        async for step in steps:
            if step["frames"]:
                break
        await steps.aclose()
        finish.set()

    result_of(leave())
    tab._threads.shutdown()
    models.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [source]


def test_one_visitor_has_few_requests_under_way(visitor, monkeypatch):
    monkeypatch.setattr(Discs, "seconds", 0.3)
    file, answers = sent(visitor, as_png(picture())), []

    def ask() -> None:
        answers.append(visitor.post("/cutouts/find", json={"file": file}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(200) >= cutouts.EACH and answers.count(503) >= 1


def test_the_line_before_the_finder_is_bounded():
    async def many() -> int:
        desk = Desk(Discs)
        tasks = [asyncio.create_task(desk.find(np.asarray(picture()))) for _ in range(cutouts.MOST_WAITING + 5)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        desk.close()
        return sum(isinstance(result, cutouts.BusyError) for result in results)

    assert result_of(many()) == 5


def test_examples_and_labels_are_told(visitor):
    about = visitor.get("/cutouts/about").json()
    assert about["labels"] == ["red", "blue"] and len(about["examples"]) == len(_examples())
    name = about["examples"][0]["name"]
    assert opened(visitor.get(f"/cutouts/examples/{name}").content).width > 30


def test_the_classical_finder_serves_where_there_is_no_network():
    found = Desk(ClassicalSegmenter).find_now(np.asarray(picture()))
    assert [each.label for each in found] in ([], ["object"])
