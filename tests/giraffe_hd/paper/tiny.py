"""The published GIRAFFE HD with a few channels."""

from dataclasses import replace

import torch

from giraffe_hd.giraffe2021.config import GeneratorConfig as GiraffeConfig
from giraffe_hd.giraffe2021.presets import CLEVR2_256
from giraffe_hd.paper.config import GeneratorConfig, VolumeConfig
from giraffe_hd.paper.generator import Generator
from giraffe_hd.paper.presets import COMPCAR_256

SMALL = VolumeConfig(resolution=8, n_samples=32)
TINY = GeneratorConfig(
    resolution=16,
    volume=SMALL,
    z_dim=8,
    z_dim_bg=6,
    feat_dim=12,
    n_mlp=2,
    prior=COMPCAR_256.generator.prior,
    fg_gen_mask=True,
    pos_share=True,
)
TINY_GIRAFFE = GiraffeConfig(
    resolution=16,
    volume=SMALL,
    z_dim=8,
    z_dim_bg=6,
    width=16,
    width_bg=8,
    feat_dim=32,
    prior=replace(CLEVR2_256.generator.prior, n_objects=3, n_present=(0.0, 0.5, 0.5)),
)


def make(config: GeneratorConfig) -> Generator:
    torch.manual_seed(0)
    generator = Generator(config).eval().requires_grad_(False)
    with torch.no_grad():  # densities of some weight, noise that can be seen
        generator.object_field.sigma_out.weight *= 100
        for name, parameter in generator.named_parameters():
            if name.endswith("noise.weight"):
                parameter.fill_(0.1)
    return generator
