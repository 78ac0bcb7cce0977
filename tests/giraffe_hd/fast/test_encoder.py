"""The photo encoder and the reconstruction of photos in training."""

from dataclasses import replace

import pytest
import torch

from giraffe_hd.fast.config import DiscriminatorConfig, GeneratorConfig, PoseConfig, ReconstructionConfig
from giraffe_hd.fast.encoder import LATENT, PhotoEncoder, pose_of
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.presets import CARS_64, CATS_64
from giraffe_hd.fast.prior import pose_targets
from giraffe_hd.fast.reader import reader_from_discriminator
from giraffe_hd.fast.recipe import Recipe, reconstructed_rows
from training.loop.step import step_rng, train_step
from training.nn.projected_discriminator import ProjectedConfig
from training.types import Batch, Step
from training.warm_start import copy_matching

TINY = replace(
    CARS_64,
    loop=replace(CARS_64.loop, batch=8, bf16=False),
    data=replace(CARS_64.data, size=16),
    generator=GeneratorConfig(
        resolution=16,
        rays=8,
        object_channels=(8, 6),
        background_channels=(8, 6, 4),
        field_dim=8,
        features=8,
        fitted_codes=True,
    ),
    discriminator=DiscriminatorConfig(channels=(8, 10)),
    reconstruction=ReconstructionConfig(share=0.5, channels=(8, 16), perceptual=0.0),
)

DEVICE = torch.device("cpu")


def at(index: int) -> Step:
    return Step(index=index, images=8 * index, rng=step_rng(0, index))


def photos() -> Batch:
    """Return bright discs on dark grounds, of several sizes and places."""
    rng = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    centre, radius = 7 + 2 * torch.rand(2, 8, 1, 1, generator=rng), 3 + 2 * torch.rand(8, 1, 1, generator=rng)
    mask = (((x - centre[0]) ** 2 + (y - centre[1]) ** 2).sqrt() < radius).float()[:, None]
    colours = torch.rand(2, 8, 3, 1, 1, generator=rng)
    return Batch(image=mask * (0.2 + 0.8 * colours[0]) - (1 - mask) * (0.2 + 0.8 * colours[1]), mask=mask)


@pytest.mark.parametrize("pose", [PoseConfig(), CATS_64.generator.pose], ids=["all sides", "front"])
def test_a_pose_read_without_error_is_the_pose(pose: PoseConfig):
    codes = Generator(replace(TINY.generator, pose=pose)).sample(16, torch.Generator().manual_seed(0))
    read = pose_of(pose_targets(codes, pose), pose)
    read["rotation"] = read["rotation"].remainder(2 * torch.pi)
    for name, value in read.items():
        true = codes.rotation.remainder(2 * torch.pi) if name == "rotation" else getattr(codes, name)
        torch.testing.assert_close(value, true, atol=1e-5, rtol=1e-5)


def test_a_pose_outside_the_prior_is_brought_to_its_end():
    pose = CATS_64.generator.pose
    codes = pose_of(torch.tensor([[1.0, 0.0, 3.0, -9.0, 2.0, 0.0]]), pose)  # 90 degrees, above, tiny, far right
    torch.testing.assert_close(codes["rotation"].rad2deg(), torch.tensor([pose.rotation[1]]))
    torch.testing.assert_close(codes["elevation"].rad2deg(), torch.tensor([pose.elevation[1]]))
    torch.testing.assert_close(codes["scale"][:, 0], torch.tensor([pose.scale[0] * pose.proportions[0]]))
    torch.testing.assert_close(codes["translation"][:, 1], torch.tensor([pose.y[1]]))


def test_codes_are_the_means_or_drawn_around_them():
    torch.manual_seed(0)
    encoder = PhotoEncoder(TINY.generator, (8, 16)).requires_grad_(False)
    read = encoder(torch.rand(4, 3, 16, 16))
    exact, drawn = encoder.codes(read), encoder.codes(read, torch.Generator().manual_seed(0))
    means = torch.cat([getattr(exact, name) for name in LATENT], 1)
    assert torch.equal(means, read.mean)
    noise = (torch.cat([getattr(drawn, name) for name in LATENT], 1) - means) / (read.log_variance / 2).exp()
    assert float(noise.mean()) == pytest.approx(0, abs=0.1) and float(noise.std()) == pytest.approx(1, abs=0.1)


def test_drawn_codes_become_like_those_read():
    recipe, batch = Recipe(replace(TINY, reconstruction=replace(TINY.reconstruction, fit=0.2)), DEVICE), photos()
    recipe.networks.requires_grad_(False)
    for i in range(40):
        recipe.begin(batch, at(i))
    generator, read = recipe.generator, recipe.read
    drawn = generator.sample(4000, torch.Generator().manual_seed(0))
    spread = read.log_variance.exp().mean(0)
    for name, means, noise in zip(LATENT, read.mean.chunk(4, 1), spread.chunk(4), strict=True):
        found = getattr(drawn, name)
        torch.testing.assert_close(found.mean(0), means.mean(0), atol=0.05, rtol=0)
        torch.testing.assert_close(found.var(0), means.var(0, correction=0) + noise, atol=0.03, rtol=0.1)
    behind = [torch.cat([x.z_s_bg, x.z_a_bg], 1) for x in (drawn, generator.set(drawn, "background", [*range(4000)]))]
    read_behind = torch.cat(read.mean.chunk(4, 1)[2:], 1)
    for codes in behind:  # a seed draws both codes together, and as training does
        off = codes.T.cov() - read_behind.T.cov(correction=0) - torch.diag(spread.chunk(2)[1])
        assert off.abs().max() < 0.1


def test_a_few_steps_bring_reconstructions_nearer_to_their_photos():
    torch.manual_seed(0)
    recipe, batch, logged = Recipe(TINY, DEVICE), photos(), []
    recipe.networks.requires_grad_(False)
    phases = recipe.phases()
    for i in range(40):
        recipe.begin(batch, at(i))
        logged.append(train_step(phases, batch, at(i)))
    assert all(bool(value.isfinite()) for terms in logged for value in terms.values())
    for name in ("G/pixels", "G/mask"):
        first, last = (sum(float(terms[name]) for terms in part) for part in (logged[:8], logged[-8:]))
        assert last < 0.85 * first, name
    assert recipe.photos == slice(4, 8)
    assert len(recipe.grids(recipe.generator, batch)["photos"]) == 5 * 8


def test_an_encoder_that_learns_first_keeps_the_drawn_codes():
    torch.manual_seed(0)
    config = replace(TINY.reconstruction, since=8 * 60, fit=0.05)
    recipe, batch = Recipe(replace(TINY, reconstruction=config), DEVICE), photos()
    recipe.networks.requires_grad_(False)
    phases, errors = recipe.phases(), []
    for i in range(60):
        recipe.begin(batch, at(i))
        assert recipe.photos == slice(8, 8)  # no photo yet
        errors.append(float(train_step(phases, batch, at(i))["G/cycle"]))
    fits = recipe.generator.fits.state_dict()
    assert all(float(value) == 0 for name, value in fits.items() if name.endswith(".updates"))
    assert sum(errors[-8:]) < sum(errors[:8])
    for i in range(60, 80):
        recipe.begin(batch, at(i))
    assert recipe.photos == slice(4, 8)
    fits = recipe.generator.fits.state_dict()
    spread = [value.diag().mean() for name, value in fits.items() if name.endswith(".covariance")]  # 1 before
    assert min(map(float, spread)) > 0.5


def test_an_encoder_begins_as_the_pose_reader_of_a_run_without_one():
    torch.manual_seed(0)
    without = Recipe(replace(TINY, reconstruction=ReconstructionConfig()), DEVICE)
    wide = replace(TINY.reconstruction, channels=TINY.discriminator.channels)
    theirs = without.networks.state_dict()
    recipe = Recipe(replace(TINY, reconstruction=wide), DEVICE)
    copy_matching(recipe.networks, recipe.adapt_weights(theirs))
    judge = {name.removeprefix("discriminator."): w for name, w in theirs.items() if name.startswith("discriminator.")}
    reader = reader_from_discriminator(judge, TINY.generator.pose)
    assert recipe.encoder is not None
    image = photos().image
    torch.testing.assert_close(recipe.encoder(image).pose, reader(image))
    narrow = Recipe(TINY, DEVICE).adapt_weights(theirs)
    assert not any(name.startswith("encoder.") for name in narrow)


def test_a_run_with_more_octaves_begins_from_all_weights_of_one_with_fewer():
    few = Recipe(TINY, DEVICE)
    more = Recipe(replace(TINY, generator=replace(TINY.generator, octaves=TINY.generator.octaves + 1)), DEVICE)
    taken, numbers = copy_matching(more.networks, more.adapt_weights(few.networks.state_dict()))
    assert taken == numbers
    codes = few.generator.sample(2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(more.generator(codes).image, few.generator(codes).image)


def test_a_run_with_planes_and_details_begins_as_one_without():
    torch.manual_seed(0)
    few = Recipe(TINY, DEVICE)
    wider = replace(TINY.generator, plane_channels=(8, 6), plane_features=4, detailed_background=True)
    more = Recipe(replace(TINY, generator=wider), DEVICE)
    copy_matching(more.networks, more.adapt_weights(few.networks.state_dict()))
    codes = few.generator.sample(2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(more.generator(codes).image, few.generator(codes).image)
    new = {name for name, _ in more.generator.named_parameters()} - {n for n, _ in few.generator.named_parameters()}
    before = {name: p.detach().clone() for name, p in more.generator.named_parameters() if name in new}
    phases, batch = more.phases(), photos()
    more.networks.requires_grad_(False)
    for i in range(3):  # the weights that were 0 move, then the gains that they read, then what has that gain
        more.begin(batch, at(i))
        train_step(phases, batch, at(i))
    unmoved = [name for name, p in before.items() if torch.equal(p, more.generator.get_parameter(name))]
    assert new and not unmoved


def test_a_set_without_masks_is_refused():
    recipe = Recipe(TINY, DEVICE)
    with pytest.raises(ValueError, match=r"--reconstruction\.mask 0"):
        recipe.begin(Batch(image=photos().image), at(0))


def test_configs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"reconstruction\.share"):
        ReconstructionConfig(share=2.0)
    with pytest.raises(ValueError, match=r"reconstruction\.perceptual"):
        replace(TINY, reconstruction=replace(TINY.reconstruction, perceptual=1.0), projected=ProjectedConfig())
    with pytest.raises(ValueError, match="fitted-codes"):
        replace(TINY, generator=replace(TINY.generator, fitted_codes=False))
    with pytest.raises(ValueError, match=r"reconstruction\.channels"):
        replace(TINY, reconstruction=replace(TINY.reconstruction, channels=(8, 8, 8)))


def test_a_batch_of_one_picture_is_refused():
    with pytest.raises(ValueError, match=r"--loop\.batch at least twice"):
        reconstructed_rows(1, 0.5)
    assert reconstructed_rows(2, 1.0) == slice(1, 2)


@pytest.mark.parametrize(("share", "photos_read"), [(0.01, 1), (0.5, 4), (1.0, 7)])
def test_any_share_leaves_a_photo_and_a_drawn_code(share: float, photos_read: int):
    recipe = Recipe(replace(TINY, reconstruction=replace(TINY.reconstruction, share=share)), DEVICE)
    recipe.networks.requires_grad_(False)
    recipe.begin(photos(), at(0))
    losses = recipe.generator_losses(photos(), at(0))
    assert len(recipe.read.mean) == photos_read
    assert all(bool(value.isfinite()) for value in losses.values())
