"""Films of anybody: read at a steady pace within limits of bytes, sides, frames and time; play lists open nothing."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.odd_files import as_file, png_of_zeros
from training.imaging import video
from training.imaging.video import OF_FILES, FilmError, FilmWriter, probe, read_film, write_film


def animation(path: Path, durations: list[int], side: int = 16) -> Path:
    """Write frames of rising grey, shown for so many milliseconds each."""
    frames = [PIL.Image.new("L", (side, side), 20 * i + 20) for i in range(len(durations))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return path


def levels(path: Path, **options) -> list[int]:
    return [round(int(frame[0, 0, 0]) / 20) for frame in read_film(path, **options)]


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_an_animation_keeps_its_time(tmp_path, ending):
    path = animation(tmp_path / f"film{ending}", [100, 100, 300, 100])
    film = probe(path)
    assert (film.width, film.height, film.fps) == (16, 16, pytest.approx(10))
    assert levels(path) == [1, 2, 3, 3, 3, 4]


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_bytes": 100}, "is larger than"),
        ({"max_side": 15}, "expected sides of at most 15 pixels"),
        ({"max_pixels": 100}, "pixels"),
        ({"seconds": 0.0}, "takes too long"),
    ],
)
@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_an_animation_beyond_a_limit_is_refused(tmp_path, ending, limits, says):
    path = animation(tmp_path / f"film{ending}", [100] * 4)
    with pytest.raises(FilmError, match=says) as caught:
        list(read_film(path, replace(OF_FILES, **limits)))
    assert str(caught.value).count("\n") == 0


def test_an_animation_ends_where_it_has_too_many_frames(tmp_path):
    path = animation(tmp_path / "film.gif", [100] * 5)
    assert levels(path, limits=replace(OF_FILES, max_frames=3)) == [1, 2, 3]
    still = animation(tmp_path / "still.gif", [100, 60_000])
    assert len(levels(still, limits=replace(OF_FILES, max_frames=50))) == 50  # one frame shown for a minute


def test_what_is_damaged_or_huge_gets_one_sentence(tmp_path):
    whole = animation(tmp_path / "film.webp", [100] * 3).read_bytes()
    files = {"cut.webp": whole[:40], "bomb.png": png_of_zeros(12_200, 12_200), "text.gif": b"GIF89a hello"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FilmError, match=name) as caught:
            list(read_film(tmp_path / name))
        assert str(caught.value).count("\n") == 0


def test_play_lists_open_nothing(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(as_file(PIL.Image.new("RGB", (16, 16), "red")))
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n",
        "list.mp4": f"ffconcat version 1.0\nfile {secret}\n",
        "list.avi": f"#EXTM3U\n#EXTINF:1,\n{secret}\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(FilmError, match="is no film that can be read"):
            list(read_film(tmp_path / name))


def test_a_reader_that_gives_nothing_is_given_up():
    with (
        pytest.raises(FilmError, match=r"film\.mp4 gives no frame within 0\.2 seconds"),
        video._ffmpeg(["sleep", "60"], OF_FILES) as process,
    ):
        video._read(process, 10, replace(OF_FILES, patience=0.2), "film.mp4")
    assert process.wait(5) != 0


def test_films_are_written_as_they_come_and_read_again(tmp_path):
    frames = [np.full((17, 33, 3), 40 * i + 20, np.uint8) for i in range(4)]
    for ending in (".mp4", ".gif", ".webp"):
        path = tmp_path / f"film{ending}"
        write_film(path, iter(frames), 4, fps=10)
        read = list(read_film(path))
        assert [round((int(frame[8, 16, 0]) - 20) / 40) for frame in read] == [0, 1, 2, 3]
        assert probe(path).fps == pytest.approx(10)
    with (
        pytest.raises(FilmError, match="could not be written"),
        FilmWriter(tmp_path / "no" / "x.mp4", (16, 16), 5) as f,
    ):
        f.write(np.zeros((16, 16, 3), np.uint8))


def test_a_film_that_is_cut_short_is_read_and_said_so(tmp_path, caplog):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(40)]
    path = tmp_path / "film.mp4"
    write_film(path, iter(frames), 40, fps=10)
    with caplog.at_level(logging.WARNING):
        assert len(list(read_film(path))) == 40
        assert caplog.messages == []
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 5 < len(list(read_film(path))) < 40
    assert "film.mp4 may be damaged or cut short" in caplog.text
