"""The projected discriminator: fixed mixing, losses by hand, a penalty that is one, a run that learns to tell."""

from pathlib import Path

import pytest
import torch

from training.nn import projected_discriminator
from training.nn.backbone import FrozenFeatures, MobileNetV2
from training.nn.projected_discriminator import (
    ProjectedConfig,
    ProjectedDiscriminator,
    discriminator_loss,
    generator_loss,
    projected_for,
)


@pytest.fixture(scope="module")
def network() -> ProjectedDiscriminator:
    torch.manual_seed(0)
    features = FrozenFeatures(MobileNetV2(), side=64, bf16=False)
    network = ProjectedDiscriminator(features)
    with torch.no_grad():
        features.observe(features.raw(torch.rand(16, 3, 64, 64) * 2 - 1))
    return network


def test_mixing_is_fixed_and_the_same_in_every_run(network: ProjectedDiscriminator) -> None:
    other = ProjectedDiscriminator(network.features)
    learnt = {name for name, _ in network.named_parameters()}
    assert not any(name.startswith(("mixing", "features")) for name in learnt)
    for name, value in network.mixing.state_dict().items():
        assert torch.equal(value, other.mixing.state_dict()[name])


def test_losses_by_hand() -> None:
    real, fake = [torch.zeros(2, 1, 3, 3), torch.full((2, 1, 2, 2), 1.0)], [torch.zeros(2, 1, 3, 3)] * 2
    log2, one = 0.693147, 0.313262  # softplus(0), softplus(-1)
    assert float(discriminator_loss(real, fake)) == pytest.approx(((log2 + log2) + (one + log2)) / 2, rel=1e-4)
    assert float(generator_loss(real)) == pytest.approx((log2 + one) / 2, rel=1e-4)


def test_penalty_of_a_linear_head_by_hand(network: ProjectedDiscriminator) -> None:
    weight = torch.randn(1, 48, 1, 1)

    class Linear(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * weight).sum(1, keepdim=True)

    maps = [torch.randn(2, 48, 4, 4)]
    linear = ProjectedDiscriminator(network.features)
    linear.heads, linear.mixing = torch.nn.ModuleList([Linear()]), torch.nn.Identity()  # type: ignore[assignment]
    # the mean logit has the gradient weight / 16 in each of 16 cells: |g|^2 = |w|^2 / 16; times 48 x 16 numbers / 2
    expected = 0.5 * 48 * 16 * float(weight.square().sum()) / 16
    assert float(linear.penalty(maps)) == pytest.approx(expected, rel=1e-4)


def test_heads_learn_to_tell_features_of_another_mean(network: ProjectedDiscriminator) -> None:
    rng = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, betas=(0.0, 0.99))

    def maps(mean: float) -> list[torch.Tensor]:
        sizes = zip(network.features.CHANNELS, (16, 8, 4, 2), strict=True)
        return [mean + torch.randn(4, c, side, side, generator=rng) for c, side in sizes]

    losses = []
    for _ in range(12):
        real, fake = maps(0.5), maps(-0.5)
        loss = discriminator_loss(network(real), network(fake)) + 0.003 * network.penalty(real)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"side": 100}])
def test_configs_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        ProjectedConfig(**wrong)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--projected.backbone"):
        projected_for(ProjectedConfig(weight=1.0, backbone=tmp_path / "no.pt"), torch.device("cpu"), bf16=False)


def test_without_a_file_and_a_network_training_goes_on_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def offline(path: Path | None = None) -> MobileNetV2:
        raise ValueError("torchvision's MobileNetV2 weights cannot be downloaded")

    monkeypatch.setattr(projected_discriminator, "load_backbone", offline)
    assert projected_for(ProjectedConfig(weight=1.0), torch.device("cpu"), bf16=False) is None
    assert "without the projected discriminator" in caplog.text
    assert projected_for(ProjectedConfig(), torch.device("cpu"), bf16=False) is None
