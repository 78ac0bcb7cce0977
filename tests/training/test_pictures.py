"""Pictures in and out: what people upload, squares around objects, sheets and films."""

import io
import struct
import subprocess
import zlib
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.pictures import (
    PictureError,
    from_pil,
    is_film,
    open_picture,
    opened,
    square_crop,
    square_mask,
    square_region,
    tile,
    to_pil,
    to_uint8,
    whole_file,
    write_animation,
)


def encoded(picture: PIL.Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(13, head), (0, b"IDAT"), (0, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", n) + c + struct.pack(">I", zlib.crc32(c)) for n, c in chunks
    )


def test_to_uint8_rounds_and_clamps():
    image = torch.tensor([-1.0, 1.0, 0.0, -7.0, 7.0, 1 / 127.5 - 1]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_uint8(image)[0, 0, :, 0].tolist() == [0, 255, 128, 0, 255, 1]


def test_every_byte_survives_the_way_to_a_tensor_and_back():
    picture = PIL.Image.fromarray(np.arange(768, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8))
    assert np.array_equal(np.asarray(to_pil(from_pil(picture))[0]), np.asarray(picture))


def test_from_pil_keeps_proportions():
    picture = PIL.Image.new("RGB", (90, 30), "red")
    picture.paste("blue", (30, 0, 60, 30))
    image = from_pil(picture, 16)
    assert image.shape == (1, 3, 16, 16)
    assert to_uint8(image)[0, :, 1:-1].reshape(-1, 3).unique(dim=0).tolist() == [[0, 0, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_open_picture_reads_common_formats(kind):
    assert open_picture(encoded(PIL.Image.new("RGB", (5, 4), (200, 30, 40)), kind)).getpixel((2, 2)) == pytest.approx(
        (200, 30, 40), abs=6
    )


def test_open_picture_takes_paths_bytes_and_files(tmp_path):
    data = encoded(noise(7, 5), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    pictures = [open_picture(source) for source in (tmp_path / "a.png", data, io.BytesIO(data))]
    assert len({picture.tobytes() for picture in pictures}) == 1


def test_open_picture_turns_by_exif():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn a quarter clockwise
    picture = PIL.Image.new("RGB", (4, 2), "black")
    picture.paste("white", (0, 0, 1, 2))
    opened = open_picture(encoded(picture, "PNG", exif=exif))
    assert opened.size == (2, 4)
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((0, 3)) == (0, 0, 0)


def two_colours(mode: str) -> PIL.Image.Image:
    """Clear on the left, black on the right."""
    picture = PIL.Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 0, 255))
    return picture.convert(mode)


def palette_with_clear_colour() -> bytes:
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 0, 0, 0])
    picture.putpixel((1, 0), 1)
    return encoded(picture, "PNG", transparency=0)


@pytest.mark.parametrize(
    "data",
    [encoded(two_colours("RGBA"), "PNG"), encoded(two_colours("LA"), "PNG"), palette_with_clear_colour()],
    ids=["RGBA", "LA", "P"],
)
def test_open_picture_puts_transparency_over_white(data):
    picture = open_picture(data)
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]


def test_open_picture_reads_sixteen_bits():
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    picture = open_picture(encoded(PIL.Image.fromarray(values), "PNG"))
    assert [picture.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (100,) * 3, (255,) * 3]


def test_open_picture_reads_print_colours_and_one_bit():
    assert open_picture(encoded(PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).getpixel((4, 4)) == (
        pytest.approx((255, 0, 0), abs=4)
    )
    assert open_picture(encoded(PIL.Image.new("1", (2, 2), 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_open_picture_takes_the_first_frame():
    red, blue = (PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    assert open_picture(encoded(red, "GIF", save_all=True, append_images=[blue])).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a picture"),
        (b"hello", "not a picture"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
        (encoded(noise(64, 64), "JPEG")[:900], "damaged or cut short"),
        (encoded(noise(64, 64), "PNG")[:900], "damaged or cut short"),
        (png_header(13_000, 12_000), "13000 x 12000"),
        (png_header(60_000, 60_000), "too many pixels"),
    ],
    ids=["empty", "text", "svg", "eps", "cut jpeg", "cut png", "large", "bomb"],
)
def test_open_picture_refuses_in_one_sentence(tmp_path, data, said):
    (tmp_path / "photo.jpg").write_bytes(data)
    for source, name in ((tmp_path / "photo.jpg", "photo.jpg"), (data, "this picture")):
        with pytest.raises(PictureError) as caught:
            open_picture(source)
        message = str(caught.value)
        assert said in message
        assert message.startswith(name)
        assert message.endswith(".")
        assert str(tmp_path) not in message


def test_open_picture_says_that_a_file_is_missing(tmp_path):
    with pytest.raises(PictureError, match=r"^no\.png does not exist"):
        open_picture(tmp_path / "no.png")


def test_open_picture_limits_can_be_chosen():
    with pytest.raises(PictureError, match="the limit is 30 MB and 60 megapixels"):
        open_picture(bytes(30_000_001))
    data = encoded(noise(10, 9), "PNG")
    assert open_picture(data, max_pixels=90, max_bytes=len(data)).size == (10, 9)
    with pytest.raises(PictureError, match="10 x 9 pixels"):
        open_picture(data, max_pixels=89)
    with pytest.raises(PictureError, match=f"more than {len(data) - 1} bytes"):
        open_picture(data, max_bytes=len(data) - 1)


def test_square_crop_is_around_the_box():
    picture = PIL.Image.new("RGB", (100, 80), "black")
    picture.paste("white", (40, 30, 60, 40))  # 20 x 10, so the square has a side of 30
    square = np.asarray(square_crop(picture, (0.4, 0.375, 0.6, 0.5)).convert("L"))
    assert square.shape == (30, 30)
    assert (square[10:20, 5:25] == 255).all()
    assert square.sum() == 255 * 200


def test_square_crop_moves_inwards_before_it_mirrors():
    picture = noise(100, 80)
    assert square_region(100, 80, (0.0, 0.0, 0.2, 0.2)) == (0, 0, 30)
    corner = square_crop(picture, (0.0, 0.0, 0.2, 0.2))
    assert corner.tobytes() == picture.crop((0, 0, 30, 30)).tobytes()


def test_square_crop_mirrors_what_lies_outside():
    picture = noise(20, 100)
    square = np.asarray(square_crop(picture, (0.0, 0.0, 1.0, 0.8)))  # 80 high in a picture 20 wide
    assert square.shape == (84, 84, 3)
    left = (84 - 20) // 2
    assert np.array_equal(square[:, left - 1], square[:, left])
    assert np.array_equal(square[:, left : left + 20], np.asarray(picture)[:84])


def striped(width: int, height: int) -> tuple[PIL.Image.Image, np.ndarray]:
    """Return a red object that touches the left edge of a ground from blue to green, and its mask."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 1] = np.linspace(0, 250, height).astype(np.uint8)[:, None]
    pixels[..., 2] = 250 - pixels[..., 1]
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : 3 * height // 4, : width // 2] = True
    pixels[mask] = 255, 0, 0
    return PIL.Image.fromarray(pixels), mask


def test_what_is_mirrored_does_not_show_the_object_again():
    picture, mask = striped(40, 200)
    whole = (0.0, 0.0, 1.0, 1.0)
    left = -square_region(40, 200, whole)[0]
    plain, clean = (np.asarray(square_crop(picture, whole, mask=m)).astype(int) for m in (None, mask))
    inside = slice(left, left + 40)
    assert np.array_equal(plain[:, inside], clean[:, inside])  # the photo itself stays
    assert (plain[:, left - 10] == (255, 0, 0)).all(1).any()
    beyond = np.delete(clean, np.r_[inside], axis=1)
    assert beyond[..., 0].max() < 5
    rows = slice((len(clean) - 200) // 2, (len(clean) + 200) // 2)
    ramp = np.linspace(0, 250, 200)
    error = np.abs(clean[rows, left - 10, 1] - ramp)
    assert error.mean() < 25  # colours go on from above to below the object


def test_a_mask_is_cut_like_its_picture_and_ends_with_it():
    picture, mask = striped(40, 200)
    whole = (0.0, 0.0, 1.0, 1.0)
    square = np.asarray(square_mask(PIL.Image.fromarray(mask).convert("L"), whole)) > 127
    assert square.shape == np.asarray(square_crop(picture, whole)).shape[:2]
    assert square.sum() == mask.sum()
    strip = PIL.Image.new("L", (12_000, 40), 255)
    assert square_mask(strip, whole, margin=1.0).size == square_crop(strip, whole, margin=1.0).size


def test_a_picture_full_of_its_object_is_mirrored_as_it_is():
    picture = noise(20, 100)
    full = np.ones((100, 20), dtype=bool)
    whole = (0.0, 0.0, 1.0, 1.0)
    assert square_crop(picture, whole, mask=full).tobytes() == square_crop(picture, whole).tobytes()


def test_a_thin_strip_does_not_grow_into_a_huge_square():
    strip = PIL.Image.new("RGB", (12_000, 40), "red")
    strip.paste("blue", (6_000, 0, 12_000, 40))
    square = square_crop(strip, (0, 0, 1, 1), margin=1.0)
    assert square.width == square.height <= 2048
    middle = square.height // 2
    assert square.getpixel((10, middle)) == (255, 0, 0)
    assert square.getpixel((square.width - 10, middle)) == (0, 0, 255)


def test_square_crop_refuses_an_empty_box():
    with pytest.raises(ValueError, match="empty"):
        square_crop(noise(10, 10), (0.5, 0.2, 0.5, 0.9))


edges = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), edges, edges, edges, edges, st.floats(1, 3))
def test_square_crop_always_holds_the_box(width, height, x0, x1, y0, y1, margin):
    (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
    if (x1 - x0) * width < 1 or (y1 - y0) * height < 1:
        return
    left, top, side = square_region(width, height, (x0, y0, x1, y1), margin=margin)
    assert square_crop(PIL.Image.new("L", (width, height)), (x0, y0, x1, y1), margin=margin).size == (side, side)
    assert side <= margin * max((x1 - x0) * width, (y1 - y0) * height) + 1
    slack = 1.5  # the square lies on whole pixels
    assert left <= x0 * width + slack
    assert left + side >= x1 * width - slack
    assert top <= y0 * height + slack
    assert top + side >= y1 * height - slack


def test_tile_places_pictures_in_reading_order():
    image = torch.full((3, 3, 4, 6), -1.0)
    image[1], image[2] = 0.0, 1.0
    sheet = np.asarray(tile(image, 2, gap=1).convert("L"))
    assert sheet.shape == (9, 13)
    assert (sheet[0, 0], sheet[0, 7], sheet[5, 0], sheet[4, 0]) == (0, 128, 255, 255)
    assert tile(image, 8, gap=0).size == (18, 4)


@pytest.mark.parametrize("ending", [".mp4", ".webp", ".gif"])
def test_write_animation_plays_back(tmp_path, ending):
    frames = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 3, 33, 47)
    path = tmp_path / "deep" / f"film{ending}"
    write_animation(path, frames, fps=10)
    if ending == ".mp4":
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-i",
            path,
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ]
        raw = subprocess.run(command, check=True, capture_output=True).stdout
        played = np.frombuffer(raw, np.uint8).reshape(6, 34, 48, 3)  # sides made even
    else:
        with PIL.Image.open(path) as film:
            assert (film.n_frames, film.info["loop"]) == (6, 0)  # type: ignore[attr-defined]
            assert film.size == (47, 33)
            played = np.stack([np.asarray(film.convert("RGB")) for _ in map(film.seek, range(6))])
    brightness = played.astype(float).mean((1, 2, 3))
    assert brightness == pytest.approx([0, 51, 102, 153, 204, 255], abs=6)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("fps", [8, 24, 50, 60, 100, 200])
@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_pictures_of_films_are_shown_for_20_ms_at_least(tmp_path, ending, fps):
    """Players show shorter ones for 100 ms; frames are dropped and the film keeps its length."""
    write_animation(tmp_path / f"film{ending}", torch.rand(12, 3, 8, 8) * 2 - 1, fps=fps)
    with PIL.Image.open(tmp_path / f"film{ending}") as film:
        times = []
        for i in range(film.n_frames):  # type: ignore[attr-defined]
            film.seek(i)
            film.load()
            times.append(film.info["duration"])
    assert min(times) >= 20
    assert sum(times) == pytest.approx(max(20, 12_000 / fps), abs=19)


def test_write_animation_refuses_other_kinds_and_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"\.mp4, \.webp or \.gif"):
        write_animation(tmp_path / "film.avi", torch.zeros(2, 3, 8, 8), fps=5)
    with pytest.raises(ValueError, match="no frames"):
        write_animation(tmp_path / "film.gif", torch.zeros(0, 3, 8, 8), fps=5)
    with pytest.raises(ValueError, match="with 0 pictures a second"):
        write_animation(tmp_path / "film.gif", torch.zeros(2, 3, 8, 8), fps=0)
    assert list(tmp_path.iterdir()) == []


def test_a_pace_is_asked_of_films_only(tmp_path):
    assert is_film(tmp_path / "turn.MP4", fps=24)
    assert not is_film(tmp_path / "turn.webp", fps=0, still=True)
    assert not is_film(tmp_path / "turn.png", fps=0)
    with pytest.raises(ValueError, match=r"turn.webp with 0 pictures a second; expected above 0"):
        is_film(tmp_path / "turn.webp", fps=0)
    with pytest.raises(ValueError, match=r"turn.avi: expected a name that ends in .mp4, .webp, .gif, .png"):
        is_film(tmp_path / "turn.avi", fps=24)


def test_what_starts_another_program_is_no_picture_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript was called"))
    path = tmp_path / "harmless.gif"
    PIL.Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(PIL.UnidentifiedImageError):
        opened(path)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path: Path = tmp_path / "result.txt"
    path.write_text("before")

    def interrupted() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
