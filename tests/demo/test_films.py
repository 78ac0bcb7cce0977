"""Films and sheets: what moves, what stays, how they close; files that open; videos to follow."""

import json
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest
import torch

from demo import films, orders
from demo.models import Model, Models
from demo.recipes import PictureRecipe, layers_of
from demo.turns import NOBODY
from tests.demo.test_recipes import mixed, slot
from tests.toys import Blocks, Patches
from training.knob_values import MAX_SEED
from training.pictures import to_pil

BLOCKS = Model(name="blocks", generator=Blocks().eval())
PATCHES = Model(name="patches", generator=Patches().eval())
STILL = PictureRecipe(checkpoint="blocks", knobs={"rotation": 40, "shape": 11})


def drawn(plan) -> torch.Tensor:
    return torch.cat([frame() for frame in plan])


def test_a_turntable_begins_with_the_picture_and_closes():
    film = drawn(films.turntable(BLOCKS, STILL, 8))
    assert torch.equal(film[:1], layers_of(BLOCKS, STILL).image)
    assert len(film) == 8
    steps = (film - film.roll(1, 0)).abs().mean((1, 2, 3))
    assert steps[0] < 2 * steps[1:].max()  # from the last picture to the first is a step as any other


def test_a_varied_knob_goes_through_the_trained_range():
    film = drawn(films.vary(BLOCKS, STILL, "scale", 5))
    ends = [
        layers_of(BLOCKS, STILL.model_copy(update={"knobs": {**STILL.knobs, "scale": s}})).image for s in (0.2, 0.3)
    ]
    assert torch.equal(film[:1], ends[0]) and torch.equal(film[-1:], ends[1])


def test_a_varied_seed_leaves_the_mask_of_a_look_alone():
    film = drawn(films.vary(BLOCKS, STILL, "look", 4))
    assert (film[0] - film[2]).abs().max() > 0.05
    background = layers_of(BLOCKS, STILL).mask[0] == 0
    assert torch.equal(film[0][:, background[0]], film[2][:, background[0]])


def test_a_path_joins_its_ends_the_short_way_round():
    start = PictureRecipe(checkpoint="blocks", knobs={"rotation": 350, "shape": 1})
    end = PictureRecipe(checkpoint="blocks", knobs={"rotation": 10, "shape": 2})
    film = drawn(films.path(BLOCKS, start, end, 3))
    assert torch.allclose(film[:1], layers_of(BLOCKS, start).image, atol=1e-5)
    assert torch.allclose(film[-1:], layers_of(BLOCKS, end).image, atol=1e-2)
    turned = layers_of(BLOCKS, PictureRecipe(checkpoint="blocks", knobs={"rotation": 0, "shape": 1}))
    front = films.path(BLOCKS, start, start.model_copy(update={"knobs": {"rotation": 10, "shape": 1}}), 3)[1]()
    assert torch.allclose(front, turned.image, atol=1e-2)


def test_a_path_between_mixes_joins_its_ends():
    start, end = mixed(), mixed(texture=0.2)
    film = drawn(films.path(PATCHES, start, end, 4))
    assert torch.allclose(film[:1], layers_of(PATCHES, start).image, atol=1e-5)
    assert torch.allclose(film[-1:], layers_of(PATCHES, end).image, atol=1e-5)


def test_a_sheet_changes_one_slot_along_and_one_down():
    plan, columns = films.grid(PATCHES, mixed(), "background", "texture", [slot(7), slot(8)])
    sheet = drawn(plan)
    assert columns == 3 and len(sheet) == 9
    assert (sheet[0] == 1).all()
    cells = {(row, column): sheet[3 * row + column] for row in (1, 2) for column in (1, 2)}
    mask = layers_of(PATCHES, mixed()).mask[0, 0] == 1
    assert torch.equal(cells[1, 1][:, mask], cells[2, 1][:, mask])  # one texture a column
    assert torch.equal(cells[1, 1][:, ~mask], cells[1, 2][:, ~mask])  # one background a row
    assert not torch.equal(cells[1, 1], cells[1, 2])


def test_a_sheet_along_one_slot_both_ways_is_refused():
    with pytest.raises(ValueError, match="row and column change the same slot; choose two different ones"):
        films.grid(PATCHES, mixed(), "texture", "texture", [slot(7), slot(8)])


@pytest.mark.parametrize(("down", "across"), [("", "pose"), ("pose", "texture"), ("shape", "pose")])
def test_a_sheet_along_the_pose_of_a_kept_outline_is_refused(down, across):
    kept = mixed().model_copy(update={"mode": "feature"})
    with pytest.raises(ValueError, match="pose would change nothing; choose another slot"):
        films.grid(PATCHES, kept, down, across, [slot(7), slot(8)])


def test_a_sheet_along_the_pose_of_a_kept_outline_shows_what_other_slots_leave_open():
    weak = mixed(texture=0.5).model_copy(update={"mode": "feature"})
    plan, _ = films.grid(PATCHES, weak, "", "pose", [slot(7), slot(8)])
    first, second = drawn(plan[2:])
    assert not torch.equal(first, second)
    strong = [weak.model_copy(update={"slots": mixed(pose=s).slots}) for s in (1.0, 0.3)]
    assert torch.equal(*(layers_of(PATCHES, recipe).image for recipe in strong))  # as the page says: no effect


def test_a_film_of_the_last_seed_walks_among_the_last_ones():
    recipe = STILL.model_copy(update={"knobs": {"shape": MAX_SEED}})
    assert len(films.vary(BLOCKS, recipe, "shape", 8)) == 8


def test_what_cannot_be_filmed_is_said():
    with pytest.raises(ValueError, match="takes a photo"):
        films.vary(PATCHES, mixed(), "texture", 4)
    with pytest.raises(ValueError, match="no knob that turns"):
        films.turntable(PATCHES, mixed(), 4)
    with pytest.raises(ValueError, match="different checkpoints"):
        films.path(BLOCKS, STILL, mixed(), 4)


def test_a_film_through_codes_does_not_take_a_kept_outline_for_one():
    kept = mixed().model_copy(update={"mode": "feature"})
    with pytest.raises(ValueError, match="cannot keep a photo's outline; use the mode 'code'"):
        films.vary(PATCHES, kept, "texture_seed", 4)
    for ends in ((kept, mixed()), (mixed(), kept)):
        with pytest.raises(ValueError, match="cannot keep a photo's outline; use the mode 'code'"):
            films.path(PATCHES, *ends, 4)
    assert films.vary(PATCHES, PictureRecipe(checkpoint="patches", mode="feature"), "texture_seed", 4)  # none is kept


@pytest.mark.parametrize("kind", ["mp4", "webp", "gif"])
def test_films_open_again_and_can_be_followed(tmp_path: Path, kind):
    target = tmp_path / f"film.{kind}"
    films.write(target, films.enlarged(drawn(films.turntable(BLOCKS, STILL, 6)), 96), kind, fps=10)
    if kind != "mp4":
        with PIL.Image.open(target) as film:
            assert film.size == (96, 96) and getattr(film, "n_frames", 1) == 6
        return
    pictures = films.photos_of(target, 4)
    assert 2 <= len(pictures) <= 4 and pictures[0].size == (256, 256)
    film = drawn(films.follow(PATCHES, mixed(), pictures))
    assert film.shape == (len(pictures), 3, 64, 64)
    assert not torch.equal(film[0], film[1])


def test_a_strip_is_one_picture(tmp_path: Path):
    films.write(tmp_path / "strip.png", drawn(films.turntable(BLOCKS, STILL, 6)), "png", columns=3)
    with PIL.Image.open(tmp_path / "strip.png") as sheet:
        assert sheet.size == (3 * 64 + 4, 2 * 64 + 2)


def test_an_upright_film_in_full_size_can_be_read(tmp_path: Path):
    film = tmp_path / "upright.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "testsrc=size=1080x1920:rate=12"]
    subprocess.run([*command, "-t", "0.5", "-pix_fmt", "yuv420p", str(film)], check=True)
    assert len(films.photos_of(film, 4)) == 4


def test_a_file_that_is_no_video_gets_one_sentence(tmp_path: Path):
    (tmp_path / "text.mp4").write_text(json.dumps({"no": "video"}))
    with pytest.raises(ValueError, match=r"text\.mp4 is no film that can be read"):
        films.photos_of(tmp_path / "text.mp4", 4)


def test_pictures_are_only_ever_made_larger():
    image = layers_of(BLOCKS, STILL).image
    assert films.enlarged(image, 32) is image
    assert films.enlarged(image, 128).shape == (1, 3, 128, 128)
    assert len(to_pil(films.enlarged(image, 128))) == 1


@pytest.mark.parametrize("size", [0, 64, 512])
def test_a_sheet_of_many_pictures_stays_small_whatever_the_model_draws(size):
    large = films.Drawn(2880, "png", size)
    large.add(torch.ones(1, 3, 512, 512))
    assert large.shape[0] ** 2 * 2880 <= films.MOST_SHEET_PIXELS and large.shape == (74, 74, 3)
    large.add(torch.ones(1, 3, 64, 64))  # of another model
    assert (np.stack(list(large)) == 255).all()
    film = films.Drawn(2880, "mp4", size)
    film.add(torch.ones(1, 3, 512, 512))
    assert film.shape == (512, 512, 3)


def test_pictures_of_a_large_sheet_are_drawn_no_finer_than_they_are_kept():
    models = Models([BLOCKS])
    plan = orders.film(models, STILL, (None, None), orders.AROUND, "", 120, 512, "png", 1, NOBODY)
    rows = orders.rows_of(models, [STILL] * 24, "rotation", 120, 512, NOBODY)
    models.close()
    assert (plan.width, rows.width) == (365, 74)
    assert rows.frames[0]().shape == (1, 3, 74, 74) if rows.finer else (1, 3, 64, 64)


def test_a_long_film_s_frames_are_spread_evenly(tmp_path: Path):
    """More frames than are kept: the pictures still come from the whole film."""
    film = tmp_path / "long.mp4"
    shown = "color=black:size=64x64:rate=12,geq=lum=4*N:cb=128:cr=128"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", shown]
    subprocess.run([*command, "-t", "4", "-pix_fmt", "yuv420p", str(film)], check=True)
    levels = [float(np.asarray(picture).mean()) for picture in films.photos_of(film, 4)]
    assert len(levels) == 4 and levels[0] < 10 < 150 < levels[-1]
    assert np.diff(levels) == pytest.approx(np.diff(levels).mean(), rel=0.25)


def test_a_film_of_too_many_pixels_is_refused_undecoded(tmp_path: Path):
    film = tmp_path / "large.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "color=red:size=2560x1440:rate=1"]
    subprocess.run([*command, "-frames:v", "1", "-pix_fmt", "yuv420p", str(film)], check=True)
    with pytest.raises(ValueError, match=r"large\.mp4 is no film that can be read; .* at most 2.09 megapixels"):
        films.photos_of(film, 4)
