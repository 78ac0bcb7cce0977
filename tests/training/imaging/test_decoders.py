"""Pictures of strangers, decoded by a process that limits of time and memory can end."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

import training.imaging.decoders as decoders_module
from tests.odd_files import BAD, GOOD, as_file, check, gradient, many_scans, with_profile
from training.imaging.decoders import DECODERS, Decoders
from training.imaging.read import Limits, PictureError, decode
from training.pictures import open_picture


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_in_a_sentence(name):
    with pytest.raises(PictureError) as caught:
        open_picture(BAD[name], name="photo.jpg")
    assert str(caught.value).startswith("photo.jpg ")
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize("name", GOOD)
def test_what_is_odd_becomes_a_picture(name):
    picture = open_picture(GOOD[name], name=name)
    assert picture.mode == "RGB"
    assert picture.width * picture.height <= 16_000_000
    check(name, picture)


def test_a_picture_shrunk_is_the_picture_resized():
    """By draft decoding of JPEG, and by strips of other kinds: within a level of one resize of the whole."""
    picture = gradient(1200, 800)
    for kind, most in (("JPEG", 3), ("PNG", 1)):
        done = decode(as_file(picture, kind, quality=95), "a", Limits(keep_short=200))
        assert done.size == (1200, 800)
        assert done.picture.size == (300, 200)
        wanted = np.asarray(picture.reduce(4)).astype(int)
        assert np.abs(np.asarray(done.picture).astype(int) - wanted).max() <= most + 1


def test_a_decoder_that_hangs_is_ended_and_the_next_picture_is_read():
    decoders = Decoders(1)
    try:
        decoders.photo(GOOD["1 x 1"], "first", Limits())
        (child,) = decoders._all
        os.kill(child.process.pid, signal.SIGSTOP)  # as one that decodes for minutes
        began = time.monotonic()
        with pytest.raises(PictureError, match=r"slow takes more than 0\.3 s to decode"):
            decoders.photo(GOOD["1 x 1"], "slow", Limits(seconds=0.3))
        assert time.monotonic() - began < 10
        assert child.process.poll() is not None
        assert decoders.photo(GOOD["1 x 1"], "next", Limits()).size == (1, 1)
    finally:
        decoders.close()


def test_a_decoder_that_dies_is_replaced():
    decoders = Decoders(1)
    try:
        decoders.photo(GOOD["1 x 1"], "first", Limits())
        (child,) = decoders._all
        child.process.kill()
        child.process.wait()
        assert decoders.photo(GOOD["1 x 1"], "next", Limits()).size == (1, 1)
    finally:
        decoders.close()


def test_closing_ends_what_is_decoded_at_once():
    decoders = Decoders(1)
    decoders.photo(GOOD["1 x 1"], "first", Limits())
    (child,) = decoders._all
    os.kill(child.process.pid, signal.SIGSTOP)
    said: list[str] = []

    def wait() -> None:
        try:
            decoders.photo(GOOD["1 x 1"], "waiting", Limits(seconds=60))
        except PictureError as error:
            said.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    decoders.close()
    thread.join(10)
    assert not thread.is_alive()
    assert said and said[0].startswith("waiting cannot be decoded")


def test_memory_is_bounded_by_the_limits_and_by_the_system():
    large = as_file(gradient(3000, 2000))
    with pytest.raises(PictureError, match="takes too much memory"):
        DECODERS.photo(large, "large", Limits(memory=10_000_000))
    code = "import training.imaging.child as c; base = c._address_space(); c._limit_memory(base + 50_000_000)\n"
    code += "try:\n    bytes(200_000_000)\nexcept MemoryError:\n    print('bounded')"
    if Path("/proc/self/statm").exists():
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert said == "bounded\n"


def test_scans_are_counted():
    assert open_picture(many_scans(20)).size == (96, 64)  # some programs write a few more than cameras
    with pytest.raises(PictureError, match="more than 100 scans"):
        open_picture(many_scans(200))


def test_pipes_and_devices_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero"), tmp_path):
        with pytest.raises(PictureError, match=r"is no file|cannot be read"):
            open_picture(path)


def heic(picture: PIL.Image.Image) -> bytes:
    """Return a HEIC file; skip the test where nothing can write one."""
    why = "pillow-heif is not installed (pip install '.[heic]'), without which HEIC photos are refused by name"
    pillow_heif = pytest.importorskip("pillow_heif", reason=why)
    file = io.BytesIO()
    pillow_heif.from_pillow(picture).save(file, quality=80)
    return file.getvalue()


def test_heic_photos_are_read():
    got = open_picture(heic(gradient()), name="IMG_0001.HEIC")
    assert got.size == (96, 64)
    red, blue = np.asarray(got)[..., 0].astype(int), np.asarray(got)[..., 2].astype(int)
    assert red[0, 0] > 200 > 60 > blue[0, 0] and blue[-1, -1] > 200


def test_damaged_heic_gets_one_sentence():
    whole = heic(gradient())
    for data in (whole[: len(whole) // 2], b"\0\0\0\x18ftypheic" + bytes(100)):
        with pytest.raises(PictureError, match=r"IMG_0001\.HEIC (is damaged|is not a picture)"):
            open_picture(data, name="IMG_0001.HEIC")


def test_heic_without_its_reader_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(PIL.Image, "OPEN", {k: v for k, v in PIL.Image.OPEN.items() if k != "HEIF"})
    with pytest.raises(PictureError, match=r"IMG_0001\.HEIC is a HEIC photo, which needs the package pillow-heif"):
        decode(b"\0\0\0\x18ftypheic" + bytes(100), "IMG_0001.HEIC", Limits())


def test_idle_processes_are_ended(monkeypatch):
    monkeypatch.setattr(decoders_module, "IDLE_SECONDS", 0.2)
    decoders = Decoders(1)
    decoders.photo(GOOD["1 x 1"], "first", Limits())
    (child,) = decoders._all
    assert child.process.wait(10) is not None
    assert decoders.photo(GOOD["1 x 1"], "next", Limits()).size == (1, 1)
    decoders.close()
    with pytest.raises(PictureError, match="is about to end"):
        decoders.photo(GOOD["1 x 1"], "late", Limits())


def test_colours_become_srgb():
    srgb, own = PIL.ImageCms.createProfile("sRGB"), PIL.ImageCms.createProfile("LAB")
    picture = PIL.Image.new("RGB", (16, 16), (200, 60, 40))
    as_lab = PIL.ImageCms.profileToProfile(
        picture, srgb, own, renderingIntent=PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="LAB"
    )
    file = io.BytesIO()
    assert as_lab is not None
    as_lab.save(file, "TIFF")
    got = open_picture(file.getvalue()).getpixel((3, 3))
    assert got == pytest.approx((200, 60, 40), abs=4)
    plain = PIL.ImageCms.ImageCmsProfile(srgb).tobytes()
    grey = PIL.Image.new("L", (16, 16), 77)
    assert open_picture(with_profile(grey, plain)).getpixel((1, 1)) == (77, 77, 77)  # a profile of colours on grey
    clear = PIL.Image.new("RGBA", (16, 16), (200, 60, 40, 0))
    assert open_picture(with_profile(clear, plain)).getpixel((1, 1)) == (255, 255, 255)
