"""Split two shapes that photos are assigned to interchangeably, so that each stands for half of those photos.

Two equal shapes stay equal, because no photo is reconstructed better with one of them. Here each photo's own style is
optimised to reconstruct it; the changes are grouped into two clusters, and each cluster's mean becomes a shape (vector
quantisation by splitting, Linde, Buzo and Gray 1980).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import TypeAdapter
from scipy.cluster.vq import kmeans2
from torch import Tensor

from mixnmatch.fast.config import TrainConfig
from mixnmatch.fast.generator import Generator
from mixnmatch.fast.recipe import Recipe
from mixnmatch.fast.solid import Solid
from training.batched import rows
from training.checkpoint import read_card, save_generator
from training.data.folder import PictureSet
from training.nn.backbone import perceptual_distance
from training.types import Image
from training.upgrade import upgraded
from training.warm_start import copy_matching, load_weights

BATCH = 42
"""Photos computed at a time."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Write a generator in which two shapes that share the same photos each stand for half of them.

    Continue training with `python -m training train ... --start-from SOURCES OUT`.
    """

    sources: tuple[Path, ...]
    """Run folders or generator files, as for `train --start-from`. The last one's config is used; at least one must be
    a run, which holds the image discriminator."""
    data: Path
    """The prepared set whose photos are split."""
    out: Path
    shapes: tuple[int, int]
    """The two shapes, counted from 0, that are read from the same kind of photo."""
    photos: int = 168
    """How many photos of these shapes are used."""
    steps: int = 10
    """Optimisation steps of each photo's style."""

    def run(self) -> dict[str, Any]:
        """Write the generator; return the shapes, photos per half and their distance. Raises: ValueError for unusable
        sources."""
        if not self.sources:
            raise ValueError("--sources is empty; give the run or file whose shapes are split")
        config = config_of(self.sources[-1])
        pair = self.pair(config.generator.n_shapes)
        recipe = Recipe(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        has_discriminator = False
        for source in self.sources:
            theirs = recipe.adapt_weights(load_weights(source))
            copy_matching(recipe.networks, theirs)
            has_discriminator |= any(name.startswith("image_discriminator.") for name in theirs)
        if not has_discriminator:
            raise ValueError("none of the sources holds an image discriminator; give the folder of a run among them")
        recipe.networks.requires_grad_(False)
        photos = PictureSet(self.data, config.data)
        chosen = self.theirs(recipe.generator, photos, pair)
        moves = style_changes(recipe, photos.get(chosen).image, steps=self.steps)
        halves, which = two_means(moves)
        embed = recipe.generator.parent.embed.weight
        embed[:, pair] = embed[:, pair].mean(1, keepdim=True) + halves.T.to(embed)
        card = {"family": "mixnmatch", "config": TypeAdapter(TrainConfig).dump_python(config, mode="json")}
        save_generator(self.out, recipe.generator, card=card)
        counts = [int((which == k).sum()) for k in (0, 1)]
        return {
            "out": str(self.out),
            "shapes": pair.tolist(),
            "photos": counts,
            "apart": float(halves.diff(dim=0).norm()),
        }

    def pair(self, n: int) -> Int[Tensor, "2"]:
        """Return the two shapes. Raises: ValueError unless they are two different ones of `n`."""
        a, b = self.shapes
        if a == b or not (0 <= a < n and 0 <= b < n):
            raise ValueError(f"--shapes {a} {b}: expected two different shapes of 0 to {n - 1}")
        return torch.tensor(self.shapes)

    def theirs(self, generator: Generator, photos: PictureSet, pair: Int[Tensor, "2"]) -> list[int]:
        """Return the indices of photos that are read as one of `pair`. Raises: ValueError if there are fewer than 8."""
        found: list[int] = []
        for i in range(0, len(photos), BATCH):
            part = range(i, min(i + BATCH, len(photos)))
            shares = generator.encoders.codes(photos.get(part).image.to(generator.device), ("shape",)).p
            found += [part[j] for j in torch.isin(shares.argmax(1).cpu(), pair).nonzero()[:, 0].tolist()]
            if len(found) >= self.photos:
                break
        if len(found) < 8:
            raise ValueError(f"of {len(photos)} photos {len(found)} are read as shapes {pair.tolist()}; 8 are needed")
        return found[: self.photos]


def config_of(source: Path) -> TrainConfig:
    """Return the train config of a run or a generator file. Raises: ValueError if its shapes are not solids."""
    path = source / "config.json"
    said = json.loads(path.read_bytes()) if path.is_file() else read_card(source).get("config", {})
    said = upgraded(said, TrainConfig)
    pose = said.get("generator", {}).get("pose", {})
    if said.get("family") != "mixnmatch" or pose.get("kind") != "turn":
        raise ValueError(
            f"{source} has no solid shapes; give a run or a model of the `fast` MixNMatch that turns, last"
        )
    return TypeAdapter(TrainConfig).validate_python(said)


@torch.enable_grad()
def style_changes(recipe: Recipe, image: Image, *, steps: int, rate: float = 0.3) -> Float[Tensor, "n style"]:
    """Return the change of each photo's shape style that best reconstructs it, in the image discriminator's
    features."""
    generator = recipe.generator
    space = generator.parent.space
    assert isinstance(space, Solid)
    image = image.to(generator.device)
    with torch.no_grad():
        codes = generator.encode(image)
        style = generator.parent.embed(codes.p) + generator.parent.free(codes.z[:, generator.parent.n_placing :])
        true = recipe.discriminator_features(image)
    moves = torch.zeros_like(style).requires_grad_()
    optimizer = torch.optim.Adam([moves], lr=rate, betas=(0.5, 0.9))
    for _ in range(steps):
        optimizer.zero_grad()
        for part in torch.arange(len(image)).split(BATCH):
            some = rows(codes, part)
            with recipe.precision():
                fake = generator(some, feature=space(some.z, style[part] + moves[part])).image
            off = perceptual_distance(recipe.discriminator_features(fake), [maps[part] for maps in true])
            (off.sum() + 5e-4 * moves[part].square().sum()).backward()
        optimizer.step()
    return moves.detach().cpu()


def two_means(points: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "2 d"], Int[Tensor, " n"]]:
    """Return the two means of 2-means, initialised along the first principal axis, and each point's cluster."""
    apart = points - points.mean(0)
    _, _, widest = torch.linalg.svd(apart, full_matrices=False)
    side = apart @ widest[0] > 0
    start = torch.stack([points[side].mean(0), points[~side].mean(0)])
    means, which = kmeans2(points.double().numpy(), start.double().numpy(), minit="matrix")
    return torch.from_numpy(means).to(points), torch.from_numpy(which).long()
