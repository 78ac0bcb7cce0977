"""The page's routes: pictures, files, photos, mistakes; who may come in, what leaves, what stays behind."""

import base64
import io
import json
import textwrap
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from demo import events, films
from demo.app import serve
from demo.describe import about, describe
from demo.examples import sets
from demo.models import Model, Models, bundled, load_model
from demo.recipes import PictureRecipe
from demo.thumbs import farthest
from demo.unlike import Known, kind_of, known_of, unlike_of
from demo.uploads import cut
from tests.odd_files import BAD, GOOD, as_file, check, gradient
from tests.serving import served, toy_models
from tests.toys import Blocks
from training.pictures import from_pil

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio's and uvicorn's own dependencies


def megabytes() -> float:
    """Return what this process has in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_used_gets_one_clear_sentence(web, name):
    before = megabytes()
    answer = web.post(
        "/live/photo", params={"model": "patches", "name": "../../odd <b>name</b>\n.png"}, content=BAD[name]
    )
    message = answer.json()["message"]
    assert answer.status_code == 422
    assert message.endswith(".") and "\n" not in message and len(message) < 300
    assert "Traceback" not in message and "/tmp" not in message and "0x" not in message
    assert megabytes() - before < 500


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_file_becomes_the_right_picture(web, name):
    answer = web.post("/live/photo", params={"model": "patches", "name": name}, content=GOOD[name])
    assert answer.status_code == 200, answer.text
    view = PIL.Image.open(io.BytesIO(base64.b64decode(answer.json()["view"])))
    check(name, view)


def test_a_picture_is_answered_with_its_layers_and_its_time(web):
    answer = web.post("/live/picture", json={"checkpoint": "blocks", "knobs": {"rotation": 90}})
    strip = PIL.Image.open(io.BytesIO(answer.content))
    layers = next(model for model in web.get("/live/models").json() if model["name"] == "blocks")["layers"]
    assert layers == ["image", "foreground", "background", "mask", "alpha", "depth"]
    assert strip.size == (64 * len(layers), 64)
    assert float(answer.headers["x-milliseconds"]) > 0
    assert answer.headers["cache-control"] == "no-store"


def test_a_saved_picture_goes_on_where_it_was(web):
    recipe = {"checkpoint": "blocks", "knobs": {"rotation": 12.5, "look": {"start": 1, "end": 2, "at": 0.25}}}
    saved = web.post("/live/file/image", json=recipe)
    assert "attachment" in saved.headers["content-disposition"]
    again = web.post("/live/recipe", params={"name": "car.png"}, content=saved.content).json()
    assert again["note"] == ""
    assert again["recipe"]["knobs"]["look"] == recipe["knobs"]["look"]
    assert web.post("/live/file/image", json=again["recipe"]).content == saved.content


def test_a_recipe_of_another_version_comes_with_a_note(web):
    recipe = {"checkpoint": "blocks", "sha256": "0" * 64}
    assert "another version" in web.post("/live/recipe", content=json.dumps(recipe)).json()["note"]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/live/picture", b"{", "not a recipe"),
        ("/live/picture", b'{"checkpoint": "x/../y"}', "no checkpoint 'x/../y' here; this page has blocks, patches"),
        ("/live/picture", b'{"checkpoint": "blocks", "knobs": {"nose": 1}}', "no knob 'nose'"),
        ("/live/picture", b" " * 5_000_000, "larger than 4 MB"),
        ("/live/file/roof", b'{"checkpoint": "blocks"}', "no layer 'roof'"),
        ("/live/recipe", as_file(gradient()), "holds no recipe"),
        ("/live/photo?model=patches&box=1,2,3", b"", "not four numbers"),
        ("/live/photo?model=patches&example=../../x", b"", "no example"),
    ],
)
def test_a_mistake_gets_one_sentence(web, path, body, says):
    answer = web.post(path, content=body)
    assert answer.status_code == 422
    assert says.lower() in answer.json()["message"].lower()


def test_an_unforeseen_fault_is_not_shown(monkeypatch, caplog):
    def broken(_: object) -> None:
        raise RuntimeError("secret of the server in /root")

    models = Models([Model(name="blocks", generator=Blocks().eval())])
    monkeypatch.setattr(Blocks, "forward", lambda self, codes: broken(codes))
    with served(models) as address:
        answer = httpx.post(f"{address}/live/picture", json={"checkpoint": "blocks"})
    assert answer.status_code == 500
    assert "secret" not in answer.text and "try again" in answer.json()["message"]
    assert any("/live/picture failed" in record.message for record in caplog.records)


def test_every_layer_and_the_stack_can_be_saved(web):
    for what in ("image", "foreground", "background", "mask", "alpha", "depth"):
        answer = web.post(f"/live/file/{what}", json={"checkpoint": "blocks"})
        assert PIL.Image.open(io.BytesIO(answer.content)).size == (64, 64)
    stack = web.post("/live/file/ora", json={"checkpoint": "blocks"})
    assert stack.headers["content-type"] == "image/openraster" and stack.content[:2] == b"PK"


def test_only_the_page_s_own_files_are_served(web):
    assert "javascript" in web.get("/page/tabs.js").headers["content-type"]
    for path in ("/page/..%2Fapp.py", "/page/app.py", "/page/%2e%2e/app.py", "/gradio_api/file=/etc/passwd"):
        assert web.get(path).status_code in (403, 404), path
    assert "root:" not in web.get("/gradio_api/file=/etc/passwd").text


def test_other_names_for_this_machine_are_refused(web):
    assert web.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_the_page_tells_browsers_to_keep_to_this_server(web):
    policy = web.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_beyond_localhost_a_password_is_needed():
    models = toy_models()
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 is open to other machines; give --password"):
        serve(models, host="0.0.0.0")
    models.close()


def test_without_the_password_nothing_is_shown():
    with served(toy_models(), password="läuft") as address:
        for path in ("/", "/live/models", "/page/tabs.js", "/config", "/gradio_api/info"):
            assert httpx.get(address + path).status_code == 401
            assert httpx.get(address + path, auth=("any", "wrong")).status_code == 401
        assert httpx.get(address, headers={"Authorization": "Basic %%%"}).status_code == 401
        known = "Basic " + base64.b64encode("any:läuft".encode()).decode()
        assert httpx.get(f"{address}/live/models", headers={"Authorization": known}).status_code == 200


def test_twenty_people_get_their_own_pictures(address):
    """Each asks for a rotation of their own, all at once; what comes back is what they would get alone."""
    wrong = []

    def person(number: int) -> None:
        with httpx.Client(base_url=address, timeout=30) as client:
            for turn in range(5):
                recipe = {"checkpoint": "blocks", "knobs": {"rotation": 7 * number + turn, "look": number}}
                start = time.perf_counter()
                got = client.post("/live/picture", json=recipe)
                if got.status_code != 200 or time.perf_counter() - start > 15:
                    wrong.append((number, turn, got.status_code))
                elif turn == 4:
                    last[number] = (recipe, got.content)

    last: dict[int, tuple[dict, bytes]] = {}
    people = [threading.Thread(target=person, args=(i,)) for i in range(20)]
    for each in people:
        each.start()
    for each in people:
        each.join()
    assert not wrong
    for recipe, content in last.values():
        assert httpx.post(f"{address}/live/picture", json=recipe).content == content


def test_a_film_is_drawn_line_by_line_and_one_at_a_time(web, monkeypatch):
    order = {"what": "film", "recipe": {"checkpoint": "blocks"}, "story": "Once around", "frames": 5, "file": "GIF"}
    lines = [json.loads(line) for line in web.post("/live/film", json=order).text.splitlines()]
    assert lines[-1]["name"] == "blocks-film.gif" and (lines[-1]["done"], lines[-1]["of"]) == (5, 5)
    with PIL.Image.open(io.BytesIO(web.get(f"/gradio_api/file={lines[-1]['file']}").content)) as film:
        assert getattr(film, "n_frames", 1) == 5
    for changed, said in (
        ({"frames": 1}, "1 frames cannot be made at once; choose 2 to 120"),
        ({"frames": 10**400}, "frames is too large"),
        ({"frames": "many"}, "frames is not a whole number"),
        ({"file": "AVI"}, "cannot be written as 'AVI'"),
        ({"story": "From A to B"}, "A is empty"),
        ({"story": "Nonsense"}, "no film 'Nonsense'"),
        ({"what": "rows"}, "tray is empty"),
        ({"what": "sheet", "recipe": {"checkpoint": "patches"}}, "o photo is chosen"),
        ({"what": "follow", "video": "/etc/passwd"}, "not sent by you"),
    ):
        answer = web.post("/live/film", json=order | changed)
        assert answer.status_code == 422 and said in answer.json()["message"], changed
    draw = Blocks.forward
    monkeypatch.setattr(Blocks, "forward", lambda self, codes: time.sleep(0.1) or draw(self, codes))
    with web.stream("POST", "/live/film", json=order | {"frames": 120}) as first:
        lines_of_first = first.iter_lines()  # which closes the answer when it is gone
        next(lines_of_first)
        assert "a film of yours is being made" in web.post("/live/film", json=order).json()["message"].lower()
    for _ in range(50):  # who leaves ends the film
        if web.post("/live/film", json=order).status_code == 200:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the film goes on though nobody listens")


def test_seeds_are_shown_by_those_that_differ_most(web):
    answer = web.get("/live/seeds/blocks/look")
    seeds = [int(seed) for seed in answer.headers["x-seeds"].split(",")]
    strip = PIL.Image.open(io.BytesIO(answer.content))
    assert seeds == sorted(set(seeds)) and len(seeds) == 8 and strip.size == (8 * 64, 64)
    assert "takes no seed" in web.get("/live/seeds/blocks/rotation").json()["message"]
    assert farthest(np.array([[0], [1], [90], [88], [40]], np.uint8), 3) == [0, 2, 4]


def test_a_photo_of_another_kind_gets_a_warning():
    path = next(path for path in bundled() if path.stem == "mixnmatch-cars-64")
    model = load_model(path, "cpu")
    cars, clothes = (sets()[name] for name in ("cars", "clothing"))
    with torch.inference_mode():
        known = known_of(model)
        assert known.kinds == frozenset()  # no network in these tests: what is lost in redrawing decides
        assert not any(unlike_of(model, photo, "", known) for photo in known.images)
        foreign = [from_pil(cut(model, each.path.read_bytes(), each.caption, each.box).crop) for each in clothes]
        warned = [unlike_of(model, photo, "", known) for photo in foreign]
    assert len(cars) > 3 and sum(map(bool, warned)) >= 0.9 * len(warned)


@pytest.mark.usefixtures("bundled_finder")
def test_the_bundled_finder_names_the_kinds_of_photos():
    model = load_model(next(path for path in bundled() if path.stem == "mixnmatch-clothing-64"), "cpu")
    kinds = {}
    for name in ("cars", "clothing"):
        opened = [cut(model, each.path.read_bytes(), each.caption, each.box).crop for each in sets()[name]]
        kinds[name] = [kind_of(each) for each in opened]
    assert set(kinds["cars"]) <= {"car", ""} and kinds["cars"].count("car") >= 0.8 * len(kinds["cars"])
    assert kinds["clothing"].count("garment") >= 0.9 * len(kinds["clothing"])
    known = Known(images=[], kinds=frozenset(["garment"]))
    assert unlike_of(model, torch.zeros(1, 3, 64, 64), "car", known)
    assert not unlike_of(model, torch.zeros(1, 3, 64, 64), "garment", known)


def test_the_http_interface_does_what_its_example_says(address):
    """Run the example in the docstring of `demo.events`, on this server and its models."""
    example = textwrap.dedent((events.__doc__ or "").split("runs:\n", 1)[1])
    example = example.replace("http://127.0.0.1:7860", address).replace("mixnmatch-cars-64", "patches")
    names: dict[str, Any] = {}
    exec(compile(example.replace("36, 20", "6, 20"), "example", "exec"), names)
    assert PIL.Image.open(io.BytesIO(names["picture"])).size == (64, 64)
    assert names["again"]["png"] == names["made"]["png"]
    assert names["layers"].keys() >= {"image", "foreground", "mask", "depth", "ora"}
    assert names["mix"]["recipe"]["slots"]["texture"]["strength"] == 0.5
    film = Path(names["film"])
    assert film.name == "blocks-film.mp4" and film.stat().st_size > 1000


def test_a_video_is_followed(address, tmp_path):
    """Through Gradio's own upload, as the page does it."""
    video = tmp_path / "moving.mp4"
    models = toy_models()
    films.write(
        video, torch.cat([f() for f in films.turntable(models["blocks"], PictureRecipe(checkpoint="blocks"), 6)]), "mp4"
    )
    models.close()
    client = Client(address, download_files=tmp_path, verbose=False)
    made = client.predict('{"checkpoint": "patches"}', handle_file(video), 4, 10, "As it is", "GIF", api_name="/follow")
    with PIL.Image.open(made) as film:
        assert getattr(film, "n_frames", 1) == 4


def test_mistakes_reach_clients_in_words(address):
    client = Client(address, verbose=False)
    with pytest.raises(AppError, match="A is empty; press 'Keep as A' first"):
        client.predict("", "", "", "From A to B", None, 6, 10, "As it is", "GIF", api_name="/film")
    with pytest.raises(AppError, match="no checkpoint 'x' here"):
        client.predict({"checkpoint": "x"}, api_name="/render")


@pytest.mark.parametrize("path", bundled(), ids=lambda path: path.stem)
def test_bundled_checkpoints_are_shown(path):
    model = load_model(path, "cpu")
    told = describe(model)
    assert told["layers"][0] == "image" and told["knobs"]
    assert model.reads_photos == bool(told["readsPhotos"])
    assert model.sha256 in about(model)


@pytest.fixture(scope="module")
def cars() -> Iterator[httpx.Client]:
    path = next(path for path in bundled() if path.stem == "giraffe-hd-cars-64")
    with served(Models([load_model(path, "cpu")])) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def opened(answer: httpx.Response) -> PIL.Image.Image:
    assert answer.status_code == 200, answer.text
    return PIL.Image.open(io.BytesIO(answer.content)).convert("RGB")


def test_pictures_at_rest_are_drawn_finer(cars):
    (told,) = cars.get("/live/models").json()
    assert told["sizes"] == [64, 128, 256, 512] and told["finest"] == 512
    recipe = {"checkpoint": "giraffe-hd-cars-64", "seed": 3, "size": 256}
    own = opened(cars.post("/live/picture", json=recipe))
    fine = opened(cars.post("/live/picture?size=128", json=recipe))
    assert own.height == 64 and fine.size == (2 * own.width, 128)
    less = fine.reduce(2)
    apart = np.abs(np.asarray(less, np.float32) - np.asarray(own, np.float32))[:, :64]
    assert apart.mean() < 4  # of 255: the same picture
    assert cars.post("/live/picture?size=5000", json=recipe).status_code == 422


@pytest.mark.parametrize("what", ["image", "foreground", "ora"])
def test_files_have_the_size_of_their_recipe(cars, what):
    recipe = {"checkpoint": "giraffe-hd-cars-64", "seed": 3, "size": 128}
    data = cars.post(f"/live/file/{what}", json=recipe).content
    if what == "ora":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read("mergedimage.png")
    picture = PIL.Image.open(io.BytesIO(data))
    assert picture.size == (128, 128)
    picture.load()
    again = cars.post("/live/recipe", content=data).json()["recipe"]
    assert again["size"] == 128


def test_models_without_rays_are_enlarged(web):
    told = next(each for each in web.get("/live/models").json() if each["name"] == "blocks")
    assert told["finest"] == told["resolution"] == 64
    recipe = {"checkpoint": "blocks", "size": 256}
    assert opened(web.post("/live/file/image", json=recipe)).size == (256, 256)
    assert opened(web.post("/live/file/image", json=recipe | {"size": None})).size == (64, 64)


def test_a_finer_picture_lets_others_through(cars):
    """While a picture of 512 pixels is drawn, small ones come as fast as ever."""
    large, small = ({"checkpoint": "giraffe-hd-cars-64", "seed": seed} for seed in (5, 6))
    done = []
    thread = threading.Thread(target=lambda: done.append(cars.post("/live/picture?size=512", json=large)))
    thread.start()
    time.sleep(0.05)
    opened(cars.post("/live/picture", json=small))
    assert not done
    thread.join()
    assert opened(done[0]).height == 512
