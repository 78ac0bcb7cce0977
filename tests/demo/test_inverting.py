"""A photo becomes knobs over the page's routes: lines as they come, its parts in recipes, what is refused."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
import torch

from demo import recipes
from demo.describe import describe
from demo.examples import examples_of, sets
from demo.inverting import MOST_EACH
from demo.models import Model, Models, bundled, load_model
from demo.parts import MOST, pack
from demo.recipes import PictureRecipe
from tests.serving import served
from tests.toy_photos import Mirrors
from tests.toys import Blocks
from training.codes_file import read_codes
from training.pictures import from_pil, to_pil

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio's and uvicorn's own dependencies
RED, BLUE = (200, 30, 30), (20, 40, 220)


@pytest.fixture(scope="module")
def mirrors() -> Mirrors:
    return Mirrors().eval()


@pytest.fixture(scope="module")
def address(mirrors: Mirrors) -> Iterator[str]:
    """Serve one model that inverts photos and one that does not."""
    card = {"config": {"data": {"object_margin": None}}}
    models = [
        Model(name="mirrors", generator=mirrors, sha256="d" * 64, card=card),
        Model(name="blocks", generator=Blocks().eval(), sha256="b" * 64),
    ]
    with served(Models(models)) as address:
        yield address


@pytest.fixture(autouse=True)
def quick(mirrors: Mirrors) -> Iterator[None]:
    yield
    mirrors.pause = 0.0


def photo(colour: tuple[int, int, int], size: tuple[int, int] = (80, 80)) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def inverted(web: httpx.Client, colour: tuple[int, int, int] = RED, **query: Any) -> list[dict[str, Any]]:
    """Return the lines that hold codes."""
    answer = web.post("/live/invert", params={"model": "mirrors", **query}, content=photo(colour))
    assert answer.status_code == 200, answer.text
    return [line for line in map(json.loads, answer.text.splitlines()) if "codes" in line]


def recipe_of(line: dict[str, Any], picture: str, *parts: str) -> dict[str, Any]:
    slots = {name: {"picture": picture, "codes": {name: line["codes"][name]}} for name in parts or line["codes"]}
    return {"checkpoint": "mirrors", "knobs": line["knobs"], "slots": slots}


def middle(web: httpx.Client, recipe: dict[str, Any]) -> np.ndarray:
    """Return the colour of the object in a recipe's picture, from 0 to 1, as bright as can be."""
    answer = web.post("/live/picture", json=recipe)
    assert answer.status_code == 200, answer.text
    strip = np.asarray(PIL.Image.open(io.BytesIO(answer.content)).convert("RGB")) / 255
    mask = strip[:, 3 * 64 : 4 * 64, 0] > 0.5
    return strip[:, 64 : 2 * 64][mask].max(0)


def test_the_pose_comes_at_once_and_the_picture_sharpens_in_steps(web):
    lines = inverted(web)
    assert [line["stage"] for line in lines] == ["pose", "look", "look", "done"]
    assert [line["done"] for line in lines] == [0.0, 0.15, 0.4, 1.0]
    first = lines[0]
    assert all(line["knobs"]["rotation"] == pytest.approx(180 * 200 / 255, abs=1) for line in lines)
    assert PIL.Image.open(io.BytesIO(base64.b64decode(first["picture"]))).size == (64, 64)
    assert first["box"] == first["square"] == [0.0, 0.0, 1.0, 1.0]
    off = [np.abs(middle(web, recipe_of(line, first["picture"])) - np.array(RED) / 255).max() for line in lines]
    assert off == sorted(off, reverse=True) and off[0] > 0.3 and off[-1] < 0.06


def test_an_unclear_front_offers_the_other_end(web):
    unclear, clear = inverted(web, RED)[0], inverted(web, BLUE)[0]
    assert (unclear["turns"], unclear["unsure"], clear["turns"], clear["unsure"]) == (True, True, True, False)
    turned = inverted(web, RED, turned=True)
    assert turned[-1]["knobs"]["rotation"] == pytest.approx(unclear["knobs"]["rotation"] + 180, abs=0.01)


def test_a_photo_gives_one_part_and_seeds_the_others(web):
    lines = inverted(web)
    seeds = {"checkpoint": "mirrors", "knobs": {"rotation": 20, "shape": 4, "look": 7}}
    painted = {**seeds, "slots": recipe_of(lines[-1], lines[0]["picture"], "look")["slots"]}
    assert np.abs(middle(web, painted) - np.array(RED) / 255).max() < 0.06
    masks = [web.post("/live/file/mask", json=recipe).content for recipe in (seeds, painted)]
    first, second = (np.asarray(PIL.Image.open(io.BytesIO(mask))) for mask in masks)
    np.testing.assert_array_equal(first, second)
    half = json.loads(json.dumps(painted))
    half["slots"]["look"]["strength"] = 0.5
    between = [middle(web, recipe) for recipe in (seeds, half, painted)]
    assert np.abs(between[1] - between[0]).max() > 0.05 < np.abs(between[1] - between[2]).max()


def test_the_place_without_the_object_and_all_files_come_from_an_inverted_photo(web):
    lines = inverted(web)
    recipe = recipe_of(lines[-1], lines[0]["picture"])
    assert "background" in next(m for m in web.get("/live/models").json() if m["name"] == "mirrors")["layers"]
    for what in ("background", "image", "foreground", "ora", "psd"):
        assert web.post(f"/live/file/{what}", json={**recipe, "size": 128}).status_code == 200
    saved = web.post("/live/file/image", json=recipe).content
    again = web.post("/live/recipe", content=saved)
    assert again.status_code == 200, again.text
    assert again.json()["recipe"]["slots"]["look"]["codes"] == recipe["slots"]["look"]["codes"]
    first, second = (web.post("/live/picture", json=each).content for each in (recipe, again.json()["recipe"]))
    assert first == second


def test_a_film_leads_from_a_seed_to_a_photo(web):
    lines = inverted(web)
    ends = {"checkpoint": "mirrors"}, recipe_of(lines[-1], lines[0]["picture"])
    for a, b in (ends, ends[::-1]):
        asked = {"what": "film", "recipe": a, "a": a, "b": b, "story": "From A to B", "frames": 4, "width": 0}
        told = [json.loads(line) for line in web.post("/live/film", json=asked).text.splitlines()]
        assert "file" in told[-1], told[-1]


def test_commands_read_the_recipe_of_the_page(web, tmp_path, mirrors):
    lines = inverted(web)
    recipe = recipe_of(lines[-1], lines[0]["picture"])
    for strength in (1.0, 0.25):
        recipe["slots"]["look"]["strength"] = strength
        saved = web.post("/live/recipe", json=recipe).json()["recipe"]
        path = tmp_path / "car.json"
        path.write_text(json.dumps(saved))
        codes = read_codes(path, mirrors)
        assert float(codes.rotation.rad2deg()) == pytest.approx(lines[-1]["knobs"]["rotation"], abs=1e-3)
        model = Model(name="mirrors", generator=mirrors)
        torch.testing.assert_close(codes, recipes.codes_of(model, recipes.parse(saved)))
        assert (pack(codes.styles) == lines[-1]["codes"]["look"]["styles"]) == (strength == 1)


def packed(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


GOOD = packed(*[0.1] * 8)
BAD_CODES = {
    "not a number": {"z_a_fg": packed(*[np.nan] * 8)},
    "infinite": {"z_a_fg": packed(*[np.inf] * 8)},
    "too large": {"z_a_fg": packed(*[2 * MOST] * 8)},
    "too few": {"z_a_fg": packed(1, 2)},
    "too many": {"z_a_fg": packed(*[0.0] * 100_000)},
    "none": {"z_a_fg": ""},
    "half a number": {"z_a_fg": base64.b64encode(b"abc").decode()},
    "no base64": {"z_a_fg": "?" * 40},
    "another field": {"z_a_fg": GOOD, "rotation": packed(1)},
    "an attribute": {"z_a_fg": GOOD, "__class__": packed(1)},
    "a long name": {"z_a_fg": GOOD, "x" * 100_000: packed(1)},
    "a missing field": {"styles": packed(1, 2, 3)},
    "no fields": {},
    "a list": [1, 2, 3],
    "a number": {"z_a_fg": 1.0},
    "nested": {"z_a_fg": {"z_a_fg": GOOD}},
}


@pytest.mark.parametrize("name", BAD_CODES)
def test_codes_that_are_none_get_one_sentence(web, name):
    slot = {"picture": "aGVsbG8=", "codes": {"look": BAD_CODES[name]}}
    answer = web.post("/live/picture", json={"checkpoint": "mirrors", "slots": {"look": slot}})
    message = answer.json()["message"]
    assert answer.status_code == 422 and message.endswith(".") and "\n" not in message and len(message) < 300
    assert "Traceback" not in message and "torch" not in message


@pytest.mark.parametrize(
    "slots",
    [
        {"look": {"picture": "aGVsbG8="}},
        {"look": {"picture": "aGVsbG8=", "codes": {"shape": {"z_s_fg": GOOD}}}},
        {"wheels": {"picture": "aGVsbG8=", "codes": {"wheels": {"z": GOOD}}}},
        {"rotation": {"picture": "aGVsbG8=", "codes": {"rotation": {"z": GOOD}}}},
        {"look": {"picture": "aGVsbG8=", "codes": {"look": {"z_a_fg": GOOD}}, "strength": 1e9}},
        {f"part {i}": {"seed": 1} for i in range(1000)},
    ],
    ids=["no codes", "codes of another part", "no part", "a number knob", "too strong", "many"],
)
def test_slots_that_are_no_parts_get_one_sentence(web, slots):
    answer = web.post("/live/picture", json={"checkpoint": "mirrors", "slots": slots})
    assert answer.status_code == 422 and len(answer.json()["message"]) < 300


def test_huge_and_broken_requests_are_refused(address):
    def ask(content: bytes, query: str = "model=mirrors", **headers: str) -> httpx.Response:
        return httpx.post(f"{address}/live/invert?{query}", content=content, headers=headers, timeout=60)

    huge = {"checkpoint": "mirrors", "slots": {"look": {"picture": "A" * 7_000_000}}}
    assert httpx.post(f"{address}/live/picture", json=huge).status_code == 413
    assert ask(b"0" * 32_000_000).status_code == 413
    assert ask(b"no picture").status_code == 422
    assert ask(b"").status_code == 422
    good = photo(RED)
    for query in ("model=mirrors&box=1,2", "model=mirrors&turned=perhaps", "model=nobody", "name=only"):
        refused = ask(good, query)
        assert refused.status_code == 422 and refused.json()["message"].endswith(".")
    assert ask(good, "model=blocks").json()["message"].startswith("Blocks finds no codes of photos")
    assert httpx.get(f"{address}/live/invert?model=mirrors").status_code == 404
    assert ask(good, Origin="http://elsewhere.example").status_code == 403
    assert ask(good, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_a_seed_in_place_of_a_photo_is_that_of_the_knob(web):
    by_slot = {"checkpoint": "mirrors", "slots": {"look": {"seed": 9}}}
    by_knob = {"checkpoint": "mirrors", "knobs": {"look": 9}}
    first, second = (web.post("/live/picture", json=each).content for each in (by_slot, by_knob))
    assert first == second


def test_who_leaves_ends_the_photo(web, mirrors):
    mirrors.pause = 0.1
    with web.stream("POST", "/live/invert", params={"model": "mirrors"}, content=photo(RED)) as answer:
        for line in answer.iter_lines():
            if json.loads(line).get("done", 0) > 0:
                break
        assert mirrors.running == 1
    until = time.monotonic() + 5
    while mirrors.running and time.monotonic() < until:
        time.sleep(0.02)
    assert mirrors.running == 0
    done = mirrors.done
    time.sleep(0.3)
    assert mirrors.done == done  # no step more


def test_one_photo_at_a_time_in_turns_and_few_of_one_visitor(address, mirrors):
    mirrors.pause = 0.5  # until all have asked, which takes a busy machine a while
    waited, most, busy = [], [0], []

    def drop(cookie: str) -> None:
        asked: dict[str, Any] = {"params": {"model": "mirrors"}, "content": photo(RED)}
        headers = {"Cookie": f"knobs_visitor={cookie}"}
        with (
            httpx.Client(base_url=address, timeout=60, headers=headers) as web,
            web.stream("POST", "/live/invert", **asked) as answer,
        ):
            if answer.status_code == 503:
                busy.append(cookie)
                return
            told: dict[str, Any] = {}
            for line in answer.iter_lines():
                most[0] = max(most[0], mirrors.running)
                told = json.loads(line)
                if told.get("waits"):
                    waited.append(cookie)
            assert told["stage"] == "done"

    who = ["a" * 32, "b" * 32] + ["c" * 32] * (MOST_EACH + 1)
    threads = []
    for cookie in who:
        threads.append(threading.Thread(target=drop, args=(cookie,)))
        threads[-1].start()
        time.sleep(0.15)
    until = time.monotonic() + 30
    while not busy and time.monotonic() < until:
        time.sleep(0.05)
    mirrors.pause = 0.01
    for thread in threads:
        thread.join()
    assert most[0] == 1 and len(set(waited)) >= 2
    assert busy == ["c" * 32]


def test_others_are_drawn_while_a_photo_is_inverted(web, address, mirrors):
    mirrors.pause = 0.1
    with web.stream("POST", "/live/invert", params={"model": "mirrors"}, content=photo(RED)) as answer:
        lines = answer.iter_lines()
        next(lines)
        with httpx.Client(base_url=address, timeout=60) as other:
            start = time.monotonic()
            assert other.post("/live/picture", json={"checkpoint": "blocks"}).status_code == 200
            assert time.monotonic() - start < 1.5 < mirrors.steps * mirrors.pause


def test_nothing_of_a_photo_stays_on_the_server(web, address):
    """Codes come back to who sent the photo alone: no route names them."""
    inverted(web)
    with httpx.Client(base_url=address, timeout=60) as other:
        told = other.get("/live/models").text
    assert "picture" not in json.loads(told)[0] and "slots" in json.loads(told)[0]
    assert json.loads(told)[0]["slots"] == []


def test_only_models_that_invert_offer_parts(mirrors):
    assert describe(Model(name="blocks", generator=Blocks().eval()))["parts"] == []
    assert describe(Model(name="mirrors", generator=mirrors))["parts"] == ["shape", "look", "background"]
    without = Mirrors().eval()
    without.can_invert = False
    assert describe(Model(name="without", generator=without))["parts"] == []


def test_a_photo_of_the_bundled_cars_turns_the_rotation_knob():
    """A picture of the generator's own at 100 degrees: the slider ends there, and the picture is the photo."""
    path = next(path for path in bundled() if path.stem == "giraffe-hd-cars-64")
    model = load_model(path, "cpu")
    own = {"checkpoint": model.name, "knobs": {"rotation": 100.0, "elevation": 25.0, "shape": 3, "look": 5}}
    with torch.inference_mode():
        picture = to_pil(recipes.layers_of(model, PictureRecipe(**own)).image)[0]
    asked: dict[str, Any] = {"params": {"model": model.name}, "content": recipes.png(picture)}
    lines: list[dict[str, Any]] = []
    with served(Models([model])) as address, httpx.Client(base_url=address, timeout=300) as web:
        with web.stream("POST", "/live/invert", **asked) as answer:
            for line in map(json.loads, answer.iter_lines()):
                lines += [line] if "codes" in line else []
                if line["done"] >= 0.4 and "codes" in line:  # the rest only sharpens
                    break
        first, last = lines[0]["knobs"], lines[-1]["knobs"]
        assert first["rotation"] == pytest.approx(100, abs=15) and not lines[0]["unsure"]
        assert (last["rotation"], last["elevation"]) == pytest.approx((100, 25), abs=4)
        found = {**recipe_of(lines[-1], lines[0]["picture"]), "checkpoint": model.name}
        drawn = web.post("/live/file/image", json=found)
        assert drawn.status_code == 200, drawn.text
    rebuilt = from_pil(PIL.Image.open(io.BytesIO(drawn.content)).convert("RGB"))
    assert float((rebuilt - from_pil(picture)).square().mean().sqrt()) < 0.12  # of a range of 2


@pytest.mark.usefixtures("bundled_finder")
def test_a_garment_on_the_cars_is_warned_of():
    """The finder tells that it is no car; the model's own example gets no warning."""
    path = next(path for path in bundled() if path.stem == "giraffe-hd-cars-64")
    model = load_model(path, "cpu")
    garment = next(each for name, each_set in sets().items() for each in each_set if "clothing" in name)
    car = examples_of(model)[0]
    with served(Models([model])) as address, httpx.Client(base_url=address, timeout=300) as web:
        for shown, warned in ((garment, True), (car, False)):
            told = []
            asked: dict[str, Any] = {"params": {"model": model.name}, "content": shown.path.read_bytes()}
            with web.stream("POST", "/live/invert", **asked) as answer:
                for line in map(json.loads, answer.iter_lines()):
                    told += [line["unlike"]] if "unlike" in line else []
                    if line["done"] > 0.2:
                        break
            assert bool(told) == warned, (shown.caption, told)
