"""Photos' codes after encoding: a few steps bring colours and outline back, and every factor is still its own."""

import pytest
import torch

from mixnmatch import __main__ as mixnmatch
from mixnmatch.continuous.config import GeneratorConfig
from mixnmatch.continuous.generator import Generator
from mixnmatch.continuous.invert import InvertOptions, difference, invert
from mixnmatch.continuous.stages import unfolded
from training.checkpoint import save_generator
from training.codes_file import read_codes, write_codes
from training.invertible import InvertsPhotos
from training.pictures import to_pil

SMALL = GeneratorConfig(
    shape_dim=4, texture_dim=4, texture_channels=2, background_channels=4, feature_dim=6, shape_channels=(8, 8, 6, 6),
    texture_widths=(8, 8), background_widths=(8, 8, 6, 6), style_dim=8, encoder_widths=(8, 8, 8), bank=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(SMALL).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    line = torch.linspace(-1, 1, 64)
    inside = (line[:, None].square() + line.square() < 0.4).float()
    colours = torch.tensor([[0.8, -0.6, -0.7], [-0.5, 0.4, 0.7]])
    return colours[0, :, None, None] * inside + colours[1, :, None, None] * (1 - inside)[None].expand(2, 3, -1, -1)


def test_optimised_codes_are_nearer_to_the_photo(generator, photo):
    read = generator.read(photo)
    outline = unfolded(generator.extractor(photo)[0])
    options = InvertOptions(steps=12)
    found = invert(generator, photo, options=options)
    before, after = (difference(generator(codes), photo, outline, options) for codes in (read, found.codes))
    assert (after < 0.9 * before).all() and found.finished
    held = invert(generator, photo, options=InvertOptions(steps=12, prior=100.0)).codes
    assert (held.c - read.c).norm() < 0.5 * (found.codes.c - read.c).norm()


def test_each_photo_is_optimised_for_itself(generator, photo):
    """In what they draw: an entry of a code without effect has rounding as its gradient, and Adam steps by its sign."""
    two = torch.cat([photo[:1], -photo[1:].roll(9, 3)])
    both = generator(invert(generator, two, options=InvertOptions(steps=4)).codes).image
    for k, single in enumerate(two.split(1)):
        alone = generator(invert(generator, single, options=InvertOptions(steps=4)).codes).image
        moved = (alone - generator(generator.read(single)).image).abs().mean()
        assert (both[k : k + 1] - alone).abs().mean() < 0.1 * moved


def test_encoding_with_steps_gives_the_factors_asked_for(generator, photo):
    model: object = generator
    assert isinstance(model, InvertsPhotos) and generator.steps == 0
    plain, finer = generator.encode(photo), generator.with_steps(3)
    with torch.inference_mode():
        found = finer.encode(photo)
        texture = finer.encode(photo, factors=("texture",))
    assert not torch.allclose(found.c, plain.c) and not torch.allclose(found.b, plain.b)
    torch.testing.assert_close(texture.c, found.c)
    assert (texture.z == 0).all() and (texture.b == 0).all() and (texture.p == 0).all()
    assert torch.equal(generator.encode(photo).c, plain.c)
    with pytest.raises(ValueError, match="0 or more"):
        generator.with_steps(-1)


def test_progress_can_cancel(generator, photo):
    stages = []

    def until_two(progress):
        stages.append((progress.stage, progress.done))
        return len(stages) < 3

    found = generator.invert(photo, steps=8, progress=until_two)
    assert stages == [("read", 0.0), ("fine", 0.125), ("fine", 0.25)] and not found.finished
    with pytest.raises(ValueError, match="no such option"):
        generator.invert(photo, depth=3)


def test_the_command_draws_with_steps_and_codes_go_through_files(generator, photo, tmp_path, capsys):
    checkpoint = tmp_path / "mix.safetensors"
    save_generator(checkpoint, generator)
    to_pil(photo)[0].save(tmp_path / "photo.png")
    arguments = ["--checkpoint", str(checkpoint), "--texture", str(tmp_path / "photo.png"), "--crop", "centre"]
    for steps in ("0", "3"):
        assert mixnmatch.main(["mix", *arguments, "--refine", steps, "--out", str(tmp_path / f"{steps}.png")]) == 0
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "3.png").read_bytes()
    capsys.readouterr()
    codes = generator.invert(photo, steps=2).codes
    write_codes(tmp_path / "mix.json", generator, checkpoint, codes, photo)
    again = read_codes(tmp_path / "mix.json", generator)
    torch.testing.assert_close(generator(again).image, generator(codes).image[:1])
