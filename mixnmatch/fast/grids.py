"""Grids of pictures that a run writes: samples with their layers, one factor varied a row, photos reconstructed and
mixed."""

from dataclasses import replace

import torch

from mixnmatch.fast.generator import Generator
from training.batched import repeat, rows
from training.types import Batch, Image


def grids(generator: Generator, batch: Batch) -> dict[str, Image]:
    """Return samples with their layers, one factor varied a row, and real photos reconstructed and mixed."""
    rng = torch.Generator().manual_seed(7)
    codes = generator.sample(24, rng)
    layers = generator(rows(codes, slice(0, 16)))
    parts = [layers.image, layers.background[:8], layers.parent[:8], layers.mask[:8].expand(-1, 3, -1, -1) * 2 - 1]
    samples = torch.cat(parts)
    still = repeat(rows(codes, 0), 8)
    turned = rows(codes, slice(8, 16))
    shapes = torch.arange(8, device=still.p.device) % still.p.shape[1]
    varied = [
        generator(replace(still, b=turned.b, z_background=turned.z_background)).image,
        generator(replace(still, z=turned.z)).image,
        generator(replace(still, p=torch.eye(still.p.shape[1], device=still.p.device)[shapes])).image,
        generator(replace(still, c=turned.c)).image,
    ]
    real = batch.image[:8]
    read = generator.encode(real)
    other = rows(read, [(i + 1) % len(real) for i in range(len(real))])
    reconstruction = generator(read)
    photos = [
        real,
        reconstruction.image,
        reconstruction.mask.expand(-1, 3, -1, -1) * 2 - 1,
        generator(replace(read, c=other.c)).image,
        generator(replace(read, p=other.p)).image,
        generator(replace(read, z=other.z)).image,
        generator(replace(read, b=other.b, z_background=other.z_background)).image,
        generator(read, feature=generator.shape_feature(real)).image,
    ]
    return {"samples": samples, "factors": torch.cat(varied), "photos": torch.cat(photos)}
