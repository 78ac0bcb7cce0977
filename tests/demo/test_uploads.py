"""Photos in: the object is found before a quiet background, boxes are checked, odd files get the right picture."""

import base64
import io
import re
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from demo import uploads
from demo.events import Events
from demo.models import Model, Models
from demo.uploads import checked, cut, propose_box
from tests.toys import Patches

CLOSE = Model(name="close", generator=Patches().eval(), card={"config": {"data": {"object_margin": 1.5}}})
WHOLE = Model(name="whole", generator=Patches().eval(), card={"config": {"data": {"object_margin": None}}})


def photo(width: int = 200, height: int = 150, box=(60, 40, 140, 110), noise: int = 6) -> PIL.Image.Image:
    """Return a red thing on a noisy grey floor."""
    rng = np.random.default_rng(0)
    pixels = np.full((height, width, 3), (150, 152, 148)) + rng.integers(-noise, noise + 1, (height, width, 3))
    pixels[box[1] : box[3], box[0] : box[2]] = (200, 40, 30)
    return PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def as_file(picture: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_the_object_is_found():
    assert propose_box(photo()) == pytest.approx((0.3, 40 / 150, 0.7, 110 / 150), abs=0.03)


def test_nothing_that_stands_out_gives_a_wide_box():
    x0, y0, x1, y1 = propose_box(photo(box=(0, 0, 0, 0)))
    assert x1 - x0 > 0.5 and y1 - y0 > 0.5


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (15, 15), (17, 16)])
def test_tiny_and_thin_photos_have_a_box(size):
    x0, y0, x1, y1 = checked(propose_box(PIL.Image.new("RGB", size, "red")))
    assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def test_the_crop_is_as_wide_as_the_generator_learned():
    _, box, _, crop = cut(CLOSE, as_file(photo()), "p", None)
    assert crop.size == (64, 64)
    red = np.asarray(crop)[..., 0].astype(int) - np.asarray(crop)[..., 1]
    share = (red > 80).any(0).mean()
    assert share == pytest.approx(1 / 1.5, abs=0.05)
    assert box == pytest.approx((0.3, 40 / 150, 0.7, 110 / 150), abs=0.03)


def test_a_generator_of_whole_pictures_gets_the_centre_square():
    _, box, _, crop = cut(WHOLE, as_file(photo()), "p", None)
    assert box == pytest.approx((0.125, 0, 0.875, 1))
    assert np.abs(np.asarray(crop)[0, 0].astype(int) - 150).max() < 12


@pytest.mark.parametrize("model", [CLOSE, WHOLE], ids=["close", "whole"])
def test_of_a_whole_photo_nothing_is_added_around(model):
    square = photo().crop((0, 0, 150, 150))
    _, box, _, crop = cut(model, as_file(square), "p", (0, 0, 1, 1))
    assert box == (0, 0, 1, 1)
    assert np.array_equal(np.asarray(crop), np.asarray(square.resize((64, 64), PIL.Image.Resampling.BICUBIC)))


def test_the_object_is_found_where_one_asks_for_it():
    assert cut(WHOLE, as_file(photo()), "p", None, find=True)[1] == pytest.approx(
        (0.3, 40 / 150, 0.7, 110 / 150), abs=0.03
    )


def test_a_box_that_a_person_drew_is_kept():
    assert cut(CLOSE, as_file(photo()), "p", (0.1, 0.1, 0.5, 0.6))[1] == (0.1, 0.1, 0.5, 0.6)


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.5, 0.9), (0.6, 0, 0.2, 1), (2, 2, 3, 3), (np.nan, 0, 1, 1)])
def test_an_empty_box_gets_one_sentence(box):
    with pytest.raises(ValueError, match="this box"):
        checked(box)


def test_a_photo_comes_back_as_the_page_takes_it_opened_beside_the_generators_thread(monkeypatch):
    threads = []
    monkeypatch.setattr(uploads, "cut", lambda *given: threads.append(threading.current_thread()) or cut(*given))
    models = Models([CLOSE])
    sent = base64.b64encode(as_file(photo(1000, 750, (300, 200, 700, 550)))).decode()
    values = Events(models).read_photo("close", sent)
    models.close()
    assert values["codes"].keys() == {"background", "pose", "shape", "texture"}
    with PIL.Image.open(io.BytesIO(base64.b64decode(values["view"]))) as view:
        assert max(view.size) == uploads.VIEW
    assert {thread.name[:-2] for thread in threads} == {"photos"}


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "F"])
def test_every_mode_of_picture_is_taken(mode):
    picture = photo()
    if mode == "I;16":
        picture = PIL.Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    data = as_file(picture, {"CMYK": "JPEG", "F": "TIFF"}.get(mode, "PNG"))
    view, *_ = cut(CLOSE, data, "p", None)
    middle, corner = np.asarray(view)[75, 100].astype(int), np.asarray(view)[5, 5].astype(int)
    assert view.mode == "RGB"
    assert middle.mean() < corner.mean()  # the thing is darker than the floor, whatever the mode


def test_the_page_and_its_script_have_one_limit():
    script = (Path(uploads.__file__).parent / "page" / "dom.js").read_text()
    told = re.search(r"const LARGEST = ([\d_]+);", script)
    assert told is not None and int(told[1]) == uploads.MAX_BYTES
