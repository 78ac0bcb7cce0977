"""A photo becomes knobs: the reader, the inversion, its files, and the commands that use them."""

import csv
import json
import math
from dataclasses import replace
from functools import partialmethod

import PIL.Image
import pytest
import torch

from giraffe_hd import __main__ as giraffe
from giraffe_hd.fast.config import GeneratorConfig, PoseConfig
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.prior import pose_targets, pose_values
from giraffe_hd.fast.reader import (
    PoseReader,
    ReaderConfig,
    load_reader,
    pose_read,
    reader_path,
    relative_to,
)
from giraffe_hd.fast.recombine import PLAIN, Draw, draw_pool, moved_objects, recombined, stretched_bodies
from giraffe_hd.invert import FeatureDistance, InvertOptions, Problem, invert, prior_styles, with_own_weights
from training import __main__ as training
from training.batched import rows
from training.checkpoint import load_generator, makes_pictures, read_card, save_generator
from training.codes_file import read_codes, read_weights, weights_path, write_codes
from training.inversion import invert as invert_any
from training.invertible import Progress
from training.metrics.inversion import psnr
from training.pictures import to_pil

POSE = PoseConfig(azimuth=(0.0, 0.0), y=(-0.1, 0.06))
SMALL = GeneratorConfig(
    resolution=16, rays=16, object_channels=(6, 6), background_channels=(6, 6, 4), field_dim=16, features=6,
    w_dim=12, z_dim=8, mask_channels=4, samples=4, pose=POSE,
)  # fmt: skip
FEW = InvertOptions(coarse=4, fine=12)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(SMALL).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def reader() -> PoseReader:
    torch.manual_seed(1)
    return PoseReader(ReaderConfig(resolution=16, channels=(8, 10), pose=POSE)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(generator, reader, tmp_path_factory):
    """Return a folder with a generator, its reader beside it, and two photos of the generator's own."""
    folder = tmp_path_factory.mktemp("models")
    save_generator(folder / "car.safetensors", generator)
    (folder / "readers").mkdir()
    save_generator(folder / "readers" / "car.safetensors", reader)
    for i, picture in enumerate(to_pil(generator(draw(generator)).image)):
        picture.save(folder / f"{i}.png")
    return folder


def draw(generator, n=2, seed=1):
    return generator.sample(n, torch.Generator().manual_seed(seed))


class Told(PoseReader):
    """A reader that is told the answer."""

    def __init__(self, codes, config):
        super().__init__(config)
        self.answer = pose_targets(codes, config.pose)

    def forward(self, image):
        return self.answer[: len(image)]


def told(codes) -> PoseReader:
    return Told(codes, ReaderConfig(resolution=16, channels=(8, 10), pose=POSE))


def test_readings_are_the_inverse_of_what_pose_heads_learn(generator):
    codes = draw(generator, 5)
    read = pose_read(pose_targets(codes, POSE), POSE)
    off = torch.remainder(read.rotation - codes.rotation + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(off, torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(read.elevation, codes.elevation)
    torch.testing.assert_close(read.scale, codes.scale[:, 0])  # the head reads its logarithm
    torch.testing.assert_close(read.y, codes.translation[:, 1])
    torch.testing.assert_close(read.z, codes.translation[:, 2])
    torch.testing.assert_close(read.certainty, torch.ones(5))


def test_knob_values_are_the_inverse_of_set(generator):
    codes = draw(generator)
    for knob in generator.knobs:
        if knob.kind != "seed":
            value = knob.low + 0.3 * (knob.high - knob.low)
            stands = generator.knob_values(generator.set(codes, knob.name, value))[knob.name]
            torch.testing.assert_close(stands, torch.full((2,), value))


def test_features_tell_pictures_apart_each_for_itself(reader):
    photos = torch.rand(2, 3, 16, 16) * 2 - 1
    distance = FeatureDistance(reader, photos)
    torch.testing.assert_close(distance(photos), torch.zeros(2))
    near, far = photos + 0.05 * torch.randn_like(photos), photos.flip(0)
    assert (distance(near) < distance(far)).all()
    alone = torch.cat([FeatureDistance(reader, x)(y) for x, y in zip(photos.split(1), near.split(1), strict=True)])
    torch.testing.assert_close(distance(near), alone)


def test_features_alone_bring_pictures_nearer(generator, monkeypatch):
    monkeypatch.setattr("giraffe_hd.invert.difference", lambda image, *_: image.new_zeros(len(image)))
    shown = draw(generator, 1, seed=5)
    photo, reader = generator(shown).image, told(shown)
    distance = FeatureDistance(reader, photo)
    found = [invert(generator, reader, photo, options=replace(FEW, fine=n, features=5.0)).codes for n in (0, 20)]
    start, end = (distance(generator(codes).image).item() for codes in found)
    assert end < 0.7 * start


def test_a_reader_lies_beside_its_generator_and_is_no_generator(folder, generator):
    path = reader_path(folder / "car.safetensors")
    assert path is not None and path == folder / "readers" / "car.safetensors" and not makes_pictures(path)
    assert load_reader(path).resolution == 16
    assert reader_path(folder / "other.safetensors") is None
    with pytest.raises(ValueError, match="expected a pose reader"):
        load_reader(folder / "car.safetensors")


def test_recombined_pictures_know_their_pose(generator):
    rng = torch.Generator().manual_seed(0)
    pool = draw_pool(generator, 12, 4, [], rng)
    image, targets = recombined(pool, 64, rng)
    assert image.shape == (64, 3, 16, 16) and image.abs().max() <= 1
    torch.testing.assert_close(targets[:, :2].norm(dim=1), torch.ones(64))
    own = pool.mask.float() / 255 * pool.foreground.float() + (1 - pool.mask.float() / 255) * pool.own.float()
    own = torch.cat([own, own.flip(3)]) / 127.5 - 1
    nearest = (image[:, None] - own[None]).abs().amax((2, 3, 4)).amin(1)
    assert 0.1 < float((nearest < 1e-4).float().mean()) < PLAIN + 0.3


def test_moved_objects_are_where_they_should_be_read():
    spot = torch.zeros(1, 4, 64, 64)
    spot[:, 3, 30:34, 30:34] = 1  # an object in the middle: y = z = 0
    zero = replace(POSE, y=(-0.1, 0.1))
    moved, read = moved_objects(spot, torch.zeros(1, 6), zero, Draw(1, torch.Generator().manual_seed(5)))
    mask = moved[0, 3]
    line = (torch.arange(64) + 0.5) / 32 - 1
    half = 2.732 * math.tan(math.radians(10))
    right, down = ((mask.sum(dim) * line).sum() / mask.sum() for dim in (0, 1))
    assert float(right) == pytest.approx(float(read[0, 4]) * 0.1 / half, abs=0.01)
    assert float(-down) == pytest.approx(float(read[0, 5]) * 0.06 / half, abs=0.01)
    assert abs(float(right)) > 0.01


def test_stretched_bodies_are_as_large_as_they_should_be_read():
    sides = stretched_bodies(POSE, Draw(50, torch.Generator().manual_seed(0)))
    assert (sides[:, 0] == 1).all()  # the length is seen, and is the size
    assert sides[:, 1:].prod(1).std() > 0.1
    front = replace(POSE, rotation=(-40.0, 40.0))
    faces = stretched_bodies(front, Draw(50, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(faces[:, 1:].prod(1), torch.ones(50))  # covers as much as before
    assert faces[:, 1].std() > 0.05


def test_mirrored_pictures_are_read_the_other_way_round(generator):
    rng = torch.Generator().manual_seed(0)
    pool = replace(draw_pool(generator, 1, 1, [], rng))
    turn, y = float(pool.targets[0, 0]), float(pool.targets[0, 4])
    _, targets = recombined(pool, 200, rng)
    kept = targets[(targets[:, 2] == pool.targets[0, 2]) & (targets[:, 3] == pool.targets[0, 3])]
    assert {round(v, 4) for v in kept[:, 0].tolist()} == {round(turn, 4), round(-turn, 4)}
    mirrored = kept[kept[:, 0] == -turn][0, 4]
    world = -0.02 + 0.08 * y
    assert float(mirrored) == pytest.approx((-world + 0.02) / 0.08, abs=1e-4)


def test_whitened_styles_have_the_priors_mean_and_covariance(generator):
    white = prior_styles(generator)["shape"]
    z = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(9))
    w = generator.map_shape(z)
    torch.testing.assert_close(white.mean, w.mean(0), atol=0.06, rtol=0)
    drawn = white.mean + torch.randn(20_000, 12, generator=torch.Generator().manual_seed(8)) @ white.root
    torch.testing.assert_close(drawn.T.cov(), w.T.cov(), atol=0.08, rtol=0.1)


def test_inversion_comes_nearer_and_keeps_to_the_prior(generator):
    codes = draw(generator)
    photo = generator(codes).image
    found = invert(generator, told(codes), photo, which=torch.arange(2), options=FEW)
    start = invert(generator, told(codes), photo, which=torch.arange(2), options=InvertOptions(coarse=0, fine=0))
    better = psnr(generator(found.codes).image, photo) - psnr(generator(start.codes).image, photo)
    assert (better > 1).all()
    off = (found.codes.rotation - codes.rotation).rad2deg()
    assert (torch.remainder(off + 180, 360) - 180).abs().max() < FEW.reach
    held = invert(generator, told(codes), photo, options=replace(FEW, prior=100.0, layer_prior=100.0))
    mean = start.codes.styles[0] - held.codes.styles[0]
    assert mean.norm() < 0.5 * (start.codes.styles[0] - found.codes.styles[0]).norm()


def test_photos_of_one_object_share_shape_and_look_alone(generator):
    codes = rows(draw(generator), torch.tensor([0, 0]))
    codes = replace(codes, rotation=codes.rotation + torch.tensor([0.0, 2.0]))
    found = invert(generator, told(codes), generator(codes).image, options=FEW).codes
    shared = slice(0, generator.style_layers["look"].stop)
    torch.testing.assert_close(found.styles[0, shared], found.styles[1, shared])
    assert not torch.allclose(found.styles[0, shared.stop :], found.styles[1, shared.stop :])
    assert float((found.rotation[1] - found.rotation[0]).cos()) < 0


def test_turned_starts_from_the_other_end(generator):
    codes = draw(generator)
    photo, none = generator(codes).image, InvertOptions(coarse=0, fine=0)
    here, there = (invert(generator, told(codes), photo, turned=t, options=none).codes for t in (False, True))
    torch.testing.assert_close((there.rotation - here.rotation).cos(), -torch.ones(2))
    torch.testing.assert_close(there.elevation, here.elevation)


def test_progress_comes_with_every_step_and_can_cancel(generator):
    codes = draw(generator, 1)
    seen: list[Progress] = []

    def until_five(progress: Progress) -> bool:
        seen.append(progress)
        return len(seen) < 6

    found = invert(generator, told(codes), generator(codes).image, options=FEW, progress=until_five)
    assert [p.stage for p in seen] == ["pose", *["coarse"] * 4, "fine"] and not found.finished
    assert [round(p.done * 16) for p in seen] == [0, 1, 2, 3, 4, 5]
    assert torch.equal(found.codes.styles, seen[-1].codes.styles)
    assert invert(generator, told(codes), generator(codes).image, options=FEW, progress=lambda _: None).finished


def test_sharpened_photos_have_weights_of_their_own(generator):
    codes = draw(generator, 1)
    photo = (generator(codes).image + 0.3).clamp(-1, 1)
    before = {name: w.clone() for name, w in generator.named_parameters()}
    found = invert(generator, told(codes), photo, options=replace(FEW, sharpen=8))
    assert all(torch.equal(w, before[name]) for name, w in generator.named_parameters())
    assert {name.split(".")[0] for name in found.weights} == {"object", "background"}
    own = with_own_weights(generator, found.weights)
    sharper, plain = own(found.codes), generator(found.codes)
    assert psnr(sharper.image, photo) > psnr(plain.image, photo)
    assert torch.equal(sharper.mask, plain.mask)
    with pytest.raises(ValueError, match="another generator"):
        with_own_weights(generator, {"object.none": torch.zeros(1)})


def test_inversion_works_where_no_gradients_are_kept(generator):
    codes = draw(generator, 1)
    with torch.inference_mode():
        photo = generator(codes).image
        assert invert(generator, told(codes), photo, options=FEW).loss < 3


def test_photos_that_do_not_fit_are_refused(generator, reader):
    with pytest.raises(ValueError, match="square"):
        invert(generator, reader, torch.zeros(1, 3, 16, 20))
    with pytest.raises(ValueError, match="objects of 3"):
        invert(generator, reader, torch.zeros(1, 3, 16, 16), which=torch.arange(3))
    with pytest.raises(ValueError, match="no pose reader"):
        generator.invert(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="no such option"):
        generator.invert(torch.zeros(1, 3, 16, 16), reader=reader, depth=3)


def test_codes_in_files_draw_the_same_picture(folder, tmp_path):
    generator = load_generator(folder / "car.safetensors")
    codes = invert_any(generator, generator(draw(generator)).image, coarse=2, fine=2)
    image = generator(codes).image
    written = write_codes(tmp_path / "car.json", generator, folder / "car.safetensors", codes, image)
    assert written["files"] == [str(tmp_path / "car.json"), str(tmp_path / "car-2.json")]
    for i, file in enumerate(("car.json", "car-2.json")):
        again = generator(read_codes(tmp_path / file, generator)).image
        torch.testing.assert_close(again, image[i : i + 1], atol=1e-4, rtol=0)
    recipe = json.loads((tmp_path / "car.json").read_text())
    assert set(recipe["slots"]) == {"shape", "look", "background"}
    recipe["slots"]["look"] = {"seed": 7}
    (tmp_path / "look.json").write_text(json.dumps(recipe))
    seeded = generator(read_codes(tmp_path / "look.json", generator)).image
    wanted = generator(generator.set(rows(codes, 0), "look", 7)).image
    torch.testing.assert_close(seeded, wanted, atol=1e-4, rtol=0)


def side(path):
    with PIL.Image.open(path) as picture:
        return picture.size


def test_a_photo_goes_through_the_commands(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Generator, "invert", partialmethod(Generator.invert, coarse=3, fine=5))
    car, photos = folder / "car.safetensors", [str(folder / f"{i}.png") for i in (0, 1)]
    out = tmp_path / "car.json"
    assert giraffe.main(["invert", *photos, "--checkpoint", str(car), "--out", str(out), "--sharpen"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["files"]) == 2 and 10 <= said["knobs"]["elevation"][0] <= 40
    assert weights_path(out).is_file()
    shared = ["--checkpoint", str(car), "--codes", str(out)]
    assert giraffe.main(["render", *shared, "--out", str(tmp_path / "one.png")]) == 0
    assert side(tmp_path / "one.png") == (16, 16)
    other = ["--set", f"look={tmp_path / 'car-2.json'}", "rotation=90", "--size", "32"]
    assert giraffe.main(["turntable", *shared, *other, "--frames", "2", "--out", str(tmp_path / "turn.png")]) == 0
    mesh = ["mesh", *shared, "--resolution", "12", "--level", "2", "--out", str(tmp_path / "car.glb")]
    assert giraffe.main(mesh) == 0
    assert training.main(["invert", str(car), photos[0], "--out", str(tmp_path / "b.json")]) == 0
    assert giraffe.main(["render", "--checkpoint", str(car), "--codes", str(out), str(tmp_path / "b.json"),
                         "--out", str(tmp_path / "two.png")]) == 0  # fmt: skip
    assert side(tmp_path / "two.png") == (34, 16)
    capsys.readouterr()
    assert giraffe.main(["invert", "--checkpoint", str(car), "--out", str(out)]) == 2
    assert "give at least one path" in capsys.readouterr().err


def test_a_preview_shows_what_sharpening_made(folder, tmp_path, monkeypatch):
    shown: list[torch.Tensor] = []
    monkeypatch.setattr("training.inversion.write_sheet", lambda path, pictures, columns: shown.append(pictures))
    monkeypatch.setattr(Generator, "invert", partialmethod(Generator.invert, coarse=3, fine=5))
    car, out = folder / "car.safetensors", tmp_path / "car.json"
    arguments = [str(car), str(folder / "0.png"), "--out", str(out), "--sharpen", "--preview", str(tmp_path / "p.png")]
    assert training.main(["invert", *arguments]) == 0
    plain = load_generator(car)
    assert isinstance(plain, Generator)
    codes = read_codes(out, plain)
    sharpened = with_own_weights(plain, read_weights(out))(codes).image
    assert (shown[0][1:] - sharpened).abs().mean() < 0.2 * (plain(codes).image - sharpened).abs().mean()


def test_an_inversion_begins_at_the_pose_that_is_read(generator, reader):
    codes = replace(generator.sample(3, torch.Generator().manual_seed(4)), azimuth=torch.zeros(3))
    read = reader(generator(codes).image).clamp(-1.3, 1.3)
    start = Problem(generator, read, torch.arange(3), InvertOptions()).codes()
    wanted = pose_read(read, POSE)
    for found, expected in ((start.elevation, wanted.elevation), (start.translation[:, 1], wanted.y)):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(start.scale[:, 0] / POSE.proportions[0], wanted.scale)


def test_poses_of_a_folder_are_written_as_a_table(folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("0.png", "red, old.png"):
        (photos / name).write_bytes((folder / "0.png").read_bytes())
    arguments = ["--data", str(photos), "--checkpoint", str(folder / "car.safetensors")]
    assert giraffe.main(["read-poses", *arguments, "--out", str(tmp_path / "poses.csv")]) == 0
    with (tmp_path / "poses.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["file", "rotation", "elevation", "scale", "x", "y", "certainty"]
    assert [line[0] for line in lines] == ["0.png", "red, old.png"]
    assert all(len(line) == len(head) and all(math.isfinite(float(v)) for v in line[1:]) for line in lines)


def test_a_reader_is_trained_on_recombined_layers(folder, tmp_path, capsys):
    car, start = folder / "car.safetensors", tmp_path / "start.safetensors"
    save_generator(start, relative_to(load_reader(folder / "readers" / "car.safetensors"), PoseConfig()))
    arguments = ["--checkpoint", str(car), "--out", str(tmp_path / "reader.safetensors"), "--images", "96", "--samples"]
    assert giraffe.main(["train-reader", str(start), *arguments, "16", "--grounds", "2", "--batch", "16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 96
    assert found["knobs"]["rotation_slope"] <= 1
    assert read_card(tmp_path / "reader.safetensors")["knobs"] == found["knobs"]
    image, trained = torch.rand(2, 3, 16, 16), load_reader(tmp_path / "reader.safetensors")
    assert not torch.allclose(load_reader(start)(image), trained(image))
    assert trained.config.pose == POSE  # the generator's prior, not that of the reader it began with


def test_pose_values_wrap_whole_turns(generator):
    codes = replace(draw(generator, 1), rotation=torch.tensor([-0.5]))
    assert float(pose_values(codes, POSE)["rotation"]) == pytest.approx(360 - math.degrees(0.5))
