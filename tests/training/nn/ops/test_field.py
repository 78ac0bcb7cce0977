"""The fused op that renders a field: by hand, against plain PyTorch, in every generator."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from giraffe_hd.fast.config import GeneratorConfig
from giraffe_hd.fast.generator import Generator
from giraffe_hd.paper import generator
from giraffe_hd.paper.config import FieldConfig, VolumeConfig
from giraffe_hd.paper.fields import FeatureField
from giraffe_hd.paper.presets import COMPCAR_256
from mixnmatch.fast.config import GeneratorConfig as MixConfig
from mixnmatch.fast.solid import Solid
from tests.training.nn.ops.field_cases import FAMILIES, differences, each, field_case, run
from training.nn import fields, volume
from training.nn.ops.field import (
    Density,
    Encoding,
    Mlp,
    field_composite,
    render_field,
    render_field_reference,
    stratified_depths,
)


def constant_field(width: int = 16, sigma_bias: float = 0.0) -> Mlp:
    """Return a field of hidden features 0, 1, 2, ... everywhere."""
    return Mlp(
        entry=torch.zeros(1, 6, width),
        hidden=torch.zeros(1, 0, width, width),
        bias=torch.arange(float(width)).expand(1, 1, width),
        sigma=torch.zeros(1, width),
        sigma_bias=torch.tensor([sigma_bias]),
    )


def test_three_rays_by_hand():
    """Clear; half the light taken at each sample; a wall that hides what is behind it."""
    half = math.log(2.0)  # exp(-ln 2) = 1/2
    raw = torch.tensor([[[-1.0, 0.0, -5.0], [half, half, half], [0.0, 1e4, half]]])
    origin, direction = torch.zeros(1, 1, 3), torch.zeros(1, 3, 3)
    t = torch.tensor([[[1.0, 2.0, 3.0]] * 3])
    out = render_field(origin, direction, t, torch.ones(1, 3, 3), constant_field(), Encoding(1), Density(), raw)
    alpha = torch.tensor([[0.0, 1 / 2 + 1 / 4 + 1 / 8, 1.0]])
    torch.testing.assert_close(out.alpha, alpha)
    torch.testing.assert_close(out.features, alpha[..., None] * torch.arange(16.0))
    torch.testing.assert_close(out.distance, torch.tensor([[0.0, 1 / 2 + 2 / 4 + 3 / 8, 2.0]]))
    torch.testing.assert_close(out.depth, torch.tensor([[0.0, (1 / 2 + 2 / 4 + 3 / 8) / (7 / 8), 2.0]]))


def test_density_as_it_is_defined():
    p = torch.tensor([[[0.0, 0.3, 0.4], [0.9, 0.0, 0.0], [0.0, 1.2, 0.0]]])
    one = torch.ones(1, 3, 1)

    def optical(density: Density) -> Tensor:
        out = render_field(torch.zeros(1, 1, 3), p, one, one, constant_field(sigma_bias=0.2), Encoding(1), density)
        return -torch.log1p(-out.alpha)

    boxed = optical(Density(gain=2.0, box=1.1))
    torch.testing.assert_close(boxed, torch.tensor([[0.4, 0.4, 0.0]]))
    ball = optical(Density(softplus=True, gain=0.5, slope=4.0, radius=0.7))
    torch.testing.assert_close(ball, 0.5 * F.softplus(0.2 + 4 * (0.7 - torch.tensor([[0.5, 0.9, 1.2]]))))


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_gradients_by_finite_differences(family):
    case = field_case(family, n=2, rays=2, samples=2, width=3, layers=2, noise=True)
    encoding = case.encoding._replace(octaves=1)
    mlp = case.mlp
    skip = None if mlp.skip is None else mlp.skip[:, : encoding.size]
    mlp = mlp._replace(entry=mlp.entry[:, : encoding.size], skip=skip)
    names = [k for k, v in mlp._asdict().items() if isinstance(v, Tensor)]
    assert case.noise is not None
    tensors = [*case.geometry, *(mlp._asdict()[k] for k in names), case.noise]
    tensors = [x.double().requires_grad_() for x in tensors]

    def render(origin: Tensor, direction: Tensor, t: Tensor, step: Tensor, *others: Tensor):
        new = mlp._replace(**dict(zip(names, others[:-1], strict=True)))
        return tuple(render_field_reference(origin, direction, t, step, new, encoding, case.density, others[-1]))

    assert torch.autograd.gradcheck(render, tensors)
    assert torch.autograd.gradgradcheck(lambda *a: render(*a)[0].sum(), tensors, fast_mode=True)


def test_clipped_rays_equal_unclipped_ones():
    """64 samples along the whole ray, and only the window of them that is in the box: same values, same gradients."""
    case = field_case("paper", n=2, rays=40, width=16, seed=3)
    origin, direction = (x.double() for x in case.geometry[:2])
    step = 3.0 / 64
    t = (torch.arange(64, dtype=torch.float64) + 0.5).mul(step).add(1.0).expand(2, 40, 64)
    mlp = each(case.mlp, Tensor.double)
    inside = (origin[:, :, None] + direction[:, :, None] * t[..., None]).abs().amax(-1) <= 1.1
    most = int(inside.sum(-1).max())
    assert 8 < most < 56
    assert not inside.any(-1).all()
    first = inside.to(torch.uint8).argmax(-1)
    near = 1.0 + first * step
    window = stratified_depths(near, near + most * step, torch.ones(40, dtype=torch.float64), most)
    window = (window[0], torch.where(inside.any(-1)[..., None], window[1], 0))
    whole = replace(case, geometry=(origin, direction, t, torch.full_like(t, step)), mlp=mlp)
    clipped = replace(whole, geometry=(origin, direction, *window))
    a, b = run(render_field_reference, whole), run(render_field_reference, clipped)
    for name, wanted in a.items():
        torch.testing.assert_close(b[name], wanted, msg=lambda text, name=name: f"{name}: {text}")


def test_reference_is_the_fast_field():
    torch.manual_seed(0)
    field = fields.ObjectField(64, 3, 4, 8, mirror=True, density=6.0)
    case = field_case("fast", n=2, rays=9, samples=4, noise=True)
    assert case.noise is not None
    origin, direction, t, step = case.geometry
    w = torch.randn(2, 8)
    p = origin[:, :, None] + direction[:, :, None] * t[..., None]
    sigma, hidden = field(p.flatten(1, 2), w, case.noise.flatten(1))
    weights = volume.ray_weights(sigma.view(2, 9, 4), step)
    wanted = (weights[..., None] * hidden.view(2, 9, 4, -1)).sum(2)

    mlp, encoding, density = field.as_op(w)
    assert (encoding, density) == FAMILIES["fast"]
    out = render_field(*case.geometry, mlp, encoding, density, case.noise)
    torch.testing.assert_close(out.features, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.alpha, weights.sum(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.distance, (weights * t).sum(-1), atol=1e-5, rtol=1e-4)


def test_reference_is_the_published_field():
    torch.manual_seed(0)
    config = FieldConfig(
        z_dim=8, width=32, n_layers=5, skip=3, extent=2.0, feat_dim=4, use_viewdirs=False, use_z_app=False
    )
    field = FeatureField(config).double()
    assert field.fc_p_skip is not None
    z = torch.randn(2, 8, dtype=torch.float64)
    condition = field.condition(z, z)
    p = torch.randn(2, 30, 3, dtype=torch.float64) / 2
    with torch.no_grad():  # half the points empty
        field.sigma_out.bias.data -= field.density(p, condition.along())[0].median()
    raw, hidden = field.density(p, condition.along())
    mlp, encoding = field.as_op(condition)
    assert encoding == FAMILIES["paper"][0]
    # a ray a point: features are alpha h, and alpha says the density
    one = torch.ones(2, 30, 1, dtype=torch.float64)
    out = render_field(torch.zeros(2, 1, 3).double(), p, one, one, mlp, *FAMILIES["paper"])
    sigma = F.relu(raw) * (p.abs().amax(-1) <= 1.1)
    torch.testing.assert_close(out.alpha, -torch.expm1(-sigma))
    torch.testing.assert_close(out.features, out.alpha[..., None] * hidden)
    assert 0.1 < (sigma > 0).double().mean() < 0.9


@pytest.mark.parametrize("learning", [False, True], ids=["picture", "learning"])
def test_generators_draw_the_same_by_the_op(monkeypatch, learning):
    """Both families, values and gradients, with and without training's noise; the op is its reference here."""
    torch.manual_seed(0)
    fast = Generator(
        GeneratorConfig(
            resolution=32, rays=16, field_dim=32, w_dim=16, z_dim=8, object_channels=(16, 8),
            background_channels=(16, 16, 16, 8), features=16,
        )
    )  # fmt: skip
    sizes = {
        "z_dim": 8,
        "z_dim_bg": 8,
        "feat_dim": 16,
        "n_mlp": 2,
        "resolution": 16,
        "volume": VolumeConfig(resolution=8),
    }
    published = generator.Generator(replace(COMPCAR_256.generator, **sizes))

    def found() -> list[Tensor]:
        tensors = []
        for network in (fast, published):
            network.train(learning).zero_grad()
            codes = network.sample(2, torch.Generator().manual_seed(1))
            rng = torch.Generator().manual_seed(2) if learning else None
            layers = network(codes, rng=rng, **({"sigma_noise": 0.5} if network is fast else {}))
            tensors += [x.detach() for x in (layers.image, layers.mask, layers.alpha, layers.depth)]
            if learning:
                layers.image.square().mean().backward()
                fields = [m for name, m in network.named_children() if name.endswith("field") or name == "head"]
                tensors += [p.grad for m in fields for p in m.parameters() if p.grad is not None]
        return tensors

    plain = found()
    for module in ("training.nn.volume", "giraffe_hd.paper.volume"):
        monkeypatch.setattr(f"{module}.triton_works", lambda *_: True)
    for ours, wanted in zip(found(), plain, strict=True):
        torch.testing.assert_close(ours, wanted, atol=2e-5 * max(1.0, float(wanted.abs().max())), rtol=1e-3)


@pytest.mark.parametrize("learning", [False, True])
def test_a_solid_of_mixnmatch_is_the_same_by_the_op(monkeypatch, learning):
    torch.manual_seed(0)
    solid = Solid(MixConfig(resolution=32, field_dim=32, style_dim=16, feature_dim=9, samples=4))
    z, style = torch.randn(2, 8), torch.randn(2, 16)

    def found() -> list[Tensor]:
        solid.zero_grad()
        feature = solid(z, style, torch.Generator().manual_seed(1) if learning else None)
        feature.square().mean().backward()
        return [feature.detach(), *(p.grad for p in solid.parameters() if p.grad is not None)]

    plain = found()
    assert plain[0][:, 0].max() > 0.5  # something is there
    monkeypatch.setattr("training.nn.volume.triton_works", lambda *_: True)
    for ours, wanted in zip(found(), plain, strict=True):
        torch.testing.assert_close(ours, wanted, atol=2e-5 * max(1.0, float(wanted.abs().max())), rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_rays_that_miss_gather_nothing_wherever_they_are(family):
    """A box behind the camera, and rays so far away that half precision would call it infinity."""
    case = field_case(family, rays=4, behind=True, dtype=torch.float16)
    origin, _, t, step = case.geometry
    assert not step.any()
    far = replace(case, geometry=(origin, torch.full((2, 4, 3), 1e30), t + 1, step))
    for name, value in run(render_field, far).items():
        assert not value.any(), name


def test_spread_is_even_and_ends_where_the_box_does():
    near, far = torch.tensor([[1.0, 2.0, math.inf]]), torch.tensor([[3.0, 1.0, -math.inf]])
    t, step = stratified_depths(near, far, torch.tensor([1.0, 1.0, 2.0]), 4)
    torch.testing.assert_close(t[0, 0], torch.tensor([1.25, 1.75, 2.25, 2.75]))
    torch.testing.assert_close(step[0], torch.tensor([[0.5] * 4, [0.0] * 4, [0.0] * 4]))
    assert torch.isfinite(t).all()
    torch.testing.assert_close(stratified_depths(near, far, torch.full((3,), 1.5), 1)[1][0, 0, 0], torch.tensor(3.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias": torch.zeros(2, 3, 16)}, "mlp.bias is"),
        ({"entry": torch.zeros(3, 60, 16)}, "weights of 3 images with 2 images"),
        ({"entry": torch.zeros(1, 27, 16)}, "mlp.entry is"),
        ({"skip_after": 9}, "skip comes in after layer 9; expected 1 to 4"),
    ],
)
def test_networks_that_do_not_fit_are_refused(change, words):
    case = field_case("paper")
    with pytest.raises(ValueError, match=words):
        render_field(*case.geometry, case.mlp._replace(**change), case.encoding, case.density)


def test_op_on_the_cpu_is_the_reference():
    case = field_case("fast", noise=True)
    mlp = case.mlp

    def by_op(*args):
        *geometry, mlp, encoding, density, noise = args
        tensors = (mlp.entry, mlp.hidden, mlp.skip, mlp.bias, mlp.sigma, mlp.sigma_bias)
        made = field_composite(*geometry, noise, *tensors, mlp.skip_after, list(encoding), list(density))
        return type(case.grads)(*made)

    assert mlp.skip is None
    assert max(differences(run(by_op, case), run(render_field, case)).values()) < 1e-6
