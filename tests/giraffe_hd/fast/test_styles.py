"""Styles in the codes of the fast GIRAFFE HD: each part's own rows, and seeds, swaps and interpolation on them."""

from dataclasses import replace

import pytest
import torch

from giraffe_hd.fast.config import GeneratorConfig
from giraffe_hd.fast.generator import Generator
from training.batched import rows, stack
from training.films import codes_between
from training.interpolation import slerp
from training.nn.ops.field import render_field
from training.nn.styled import Detail
from training.nn.volume import box_rays, render_rays, stratified_depths
from training.runtime.result_cache import ResultCache

SMALL = GeneratorConfig(
    resolution=16, rays=16, object_channels=(6, 6), background_channels=(6, 6, 4), field_dim=16, features=6,
    w_dim=12, z_dim=8, mask_channels=4, samples=4,
)  # fmt: skip
WITH_PLANES = replace(SMALL, plane_channels=(8, 6), plane_features=4, detailed_background=True)
PARTS = ("shape", "look", "background")


@pytest.fixture(scope="module", params=[SMALL, WITH_PLANES], ids=["points", "planes"])
def generator(request) -> Generator:
    torch.manual_seed(0)
    found = Generator(request.param).eval().requires_grad_(False)
    for module in found.modules():
        if isinstance(module, Detail):  # as after training: at 0 they do nothing
            module.gain.fill_(0.3)
            module.strength.fill_(0.1)
    return found


def draw(generator, n=2, seed=1):
    return generator.sample(n, torch.Generator().manual_seed(seed))


def styled(generator, n=2, seed=1, part=None):
    codes = draw(generator, n, seed)
    styles = generator.no_styles(codes)
    layers = slice(None) if part is None else generator.style_layers[part]
    rng = torch.Generator().manual_seed(seed)
    styles[:, layers] = torch.randn(styles[:, layers].shape, generator=rng)
    return replace(codes, styles=styles)


def test_styles_that_differ_by_nothing_draw_the_same(generator):
    codes = draw(generator)
    plain, zero = generator(codes), generator(replace(codes, styles=generator.no_styles(codes)))
    torch.testing.assert_close(zero.image, plain.image)
    points = torch.rand(2, 9, 3) * 2 - 1
    torch.testing.assert_close(
        generator.density(replace(codes, styles=generator.no_styles(codes)), points), generator.density(codes, points)
    )


def test_equal_offsets_in_all_layers_are_another_latent_code(generator):
    a, b = draw(generator), draw(generator, seed=2)
    styles = generator.no_styles(a)
    off = generator.map_shape(b.z_s_fg) - generator.map_shape(a.z_s_fg)
    styles[:, generator.style_layers["shape"]] = off[:, None]
    mask = generator(replace(a, styles=styles)).mask
    torch.testing.assert_close(mask, generator(replace(a, z_s_fg=b.z_s_fg)).mask)
    assert not torch.allclose(mask, generator(a).mask)


@pytest.mark.parametrize(("part", "moved"), [("shape", "mask"), ("look", "foreground"), ("background", "background")])
def test_each_part_has_its_own_rows(generator, part, moved):
    plain, other = generator(draw(generator)), generator(styled(generator, part=part))
    kept = {"shape": ("background",), "look": ("mask", "background", "depth"), "background": ("mask", "foreground")}
    assert not torch.allclose(getattr(plain, moved), getattr(other, moved))
    for name in kept[part]:
        torch.testing.assert_close(getattr(plain, name), getattr(other, name))


def test_every_row_of_styles_moves_the_picture(generator):
    codes = draw(generator, 1)
    styles = generator.no_styles(codes).requires_grad_(True)
    with torch.enable_grad():
        generator(replace(codes, styles=styles)).image.square().sum().backward()
    assert (styles.grad.abs().amax((0, 2)) > 0).all()


@pytest.mark.parametrize("part", PARTS)
def test_a_seed_draws_its_own_part_anew(generator, part):
    photo = styled(generator)
    seeded, plain = generator.set(photo, part, 7), generator.set(draw(generator), part, 7)
    layers = generator.style_layers[part]
    assert (seeded.styles[:, layers] == 0).all()
    others = torch.ones(seeded.styles.shape[1], dtype=torch.bool)
    others[layers] = False
    assert torch.equal(seeded.styles[:, others], photo.styles[:, others])
    name = {"shape": "mask", "look": "mask", "background": "background"}[part]
    if part != "look":
        torch.testing.assert_close(getattr(generator(seeded), name), getattr(generator(plain), name))
    assert generator.set(draw(generator), part, 7).styles is None


def test_parts_are_swapped_with_their_styles(generator):
    a, b = styled(generator, seed=1), styled(generator, seed=2)
    mixed = generator.take(generator.take(a, "look", b), "background", b)
    one, two, both = generator(a), generator(b), generator(mixed)
    assert torch.equal(both.mask, one.mask)
    turned = replace(b, elevation=a.elevation)
    torch.testing.assert_close(both.background, generator(turned).background)
    assert not torch.allclose(both.foreground, one.foreground) and not torch.equal(two.mask, both.mask)
    back = generator.take(mixed, "look", draw(generator))
    assert (back.styles[:, generator.style_layers["look"]] == 0).all()
    with pytest.raises(ValueError, match="shape, look, background"):
        generator.take(a, "wheels", b)


def test_interpolation_ends_at_both_and_passes_codes_without_styles(generator):
    a, b = styled(generator, seed=1), draw(generator, seed=2)
    torch.testing.assert_close(generator(codes_between(a, b, 0.0)).image, generator(a).image)
    torch.testing.assert_close(generator(codes_between(a, b, 1.0)).image, generator(b).image)
    torch.testing.assert_close(generator(codes_between(b, a, 1.0)).image, generator(a).image)
    half = codes_between(a, b, 0.5)
    assert half.styles.isfinite().all() and 0 < half.styles.norm() < a.styles.norm()
    assert slerp(torch.zeros(1, 4), torch.ones(1, 4), 0.5).tolist() == [[0.5] * 4]


def test_rows_with_and_without_styles_are_not_stacked(generator):
    assert stack([rows(styled(generator), 0), rows(styled(generator), 1)]).styles.shape[0] == 2
    with pytest.raises(ValueError, match="styles"):
        stack([draw(generator), styled(generator)])


def test_cached_results_know_the_styles(generator):
    a, b = styled(generator, seed=1), styled(generator, seed=2)
    b = replace(a, styles=b.styles)
    wanted = [generator(codes).image for codes in (a, b, replace(a, styles=None))]
    generator.result_cache = ResultCache()
    try:
        for _ in range(2):
            for codes, image in zip((a, b, replace(a, styles=None)), wanted, strict=True):
                assert torch.equal(generator(codes).image, image)
    finally:
        generator.result_cache = None


def test_larger_pictures_have_the_styles(generator):
    photo = styled(generator)
    large, small = generator.at(32)(photo), generator(photo)
    assert large.image.shape[-1] == 32
    reduced = torch.nn.functional.avg_pool2d(large.background, 2)
    assert (
        (reduced - small.background).abs().mean() < 0.1 < (generator(draw(generator)).background - reduced).abs().max()
    )


def test_the_op_renders_the_styles_of_each_layer():
    torch.manual_seed(0)
    generator = Generator(SMALL).requires_grad_(False)  # the op reads no planes
    codes = styled(generator)
    w = generator.map_shape(codes.z_s_fg)[:, None] + codes.styles[:, generator.style_layers["shape"]]
    rays = box_rays(codes.object_pose, 16, SMALL.pose.fov)
    seen = render_rays(generator.field, rays, codes.scale[:, :1], w, SMALL.samples)
    t, step = stratified_depths(rays.near, rays.far, rays.length / codes.scale[:, :1], SMALL.samples)
    found = render_field(rays.origin, rays.direction, t, step, *generator.field.as_op(w))
    alpha = found.alpha.gather(1, seen.which)
    torch.testing.assert_close(alpha * seen.real, seen.opacity * seen.real, atol=1e-5, rtol=1e-4)
    hidden = found.features.gather(1, seen.which[..., None].expand_as(seen.hidden))
    torch.testing.assert_close(hidden[seen.real], seen.hidden[seen.real], atol=1e-5, rtol=1e-4)
