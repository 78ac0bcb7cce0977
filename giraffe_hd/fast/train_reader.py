"""`python -m giraffe_hd train-reader`: the pose reader of a generator, out of the discriminator of its training."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from tqdm import tqdm

from giraffe_hd.fast.config import TrainConfig
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.losses import pose_error
from giraffe_hd.fast.prior import pose_targets
from giraffe_hd.fast.reader import PoseReader, calibrate, line, load_reader, reader_from_discriminator, relative_to
from giraffe_hd.fast.recombine import Pool, draw_pool, recombined
from training.checkpoint import load_generator, read_card, save_generator
from training.data.backgrounds import read_environments
from training.devices import autocast, pick_device
from training.files import check_folder
from training.nn.layers import MinibatchStddev
from training.warm_start import load_weights

log = logging.getLogger(__name__)

WEIGHTS = TrainConfig().pose_weights_late
CALIBRATED_ON, MEASURED_ON = 2_000, 400
"""New samples of the generator that the readings are calibrated on, and others that they are measured on."""
NAMES = ("elevation", "scale", "x", "y")
"""Knobs of the reader's numbers after sin and cos of the rotation."""


@dataclass(frozen=True, kw_only=True)
class TrainReader:
    """Make the pose reader of a generator: the pose head of its discriminator, trained on with other grounds, colours
    and crops, so that it reads photos which are unlike the set too."""

    run_folder: tyro.conf.Positional[Path]
    """The run that trained the generator, or any folder with its resume state; or a reader's file to train on."""
    checkpoint: Path
    """The generator file, whose samples are the pictures to learn from."""
    out: Path
    """The reader's file; `readers/NAME.safetensors` or `reader.safetensors` beside the generator is found by itself."""
    backgrounds: Path | None = None
    """A folder of environment maps (.npz with `radiance`), views of which become grounds; else drawn patterns alone."""
    images: int = 100_000
    """Pictures to learn from; 0 only takes the pose head out of the discriminator, or the reader, and calibrates it."""
    samples: int = 6_000
    """The generator's samples that these are recombined from; more are drawn once, at about 100 a second."""
    grounds: int = 2_000
    """Grounds to choose from."""
    batch: int = 48
    """Pictures a step."""
    learning_rate: float = 1e-3
    """Adam's at first; it falls to nothing as a cosine."""
    seed: int = 0
    """Of samples and of all that is drawn at random."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1; by default a GPU where there is one."""

    def run(self) -> dict[str, Any]:
        """Write the reader; return what it was made of, how far it errs on recombined samples, and how it follows the
        knobs of the generator's own.

        Raises: ValueError for a run or a generator of other families.
        """
        if self.images < 0 or min(self.samples, self.batch, self.grounds) < 1:
            raise ValueError("--images counts from 0, --samples, --grounds and --batch from 1")
        if self.out.suffix != ".safetensors":
            raise ValueError(f"{self.out} is no name for a reader's file; end it in .safetensors")
        check_folder(self.out.parent)
        device = pick_device(self.device)
        generator = load_generator(self.checkpoint, device)
        if not isinstance(generator, Generator):
            raise ValueError(f"{self.checkpoint.name} is a {generator.family}; readers are for fast GIRAFFE HD models")
        rng = torch.Generator().manual_seed(self.seed)
        maps = list(read_environments(self.backgrounds).values()) if self.backgrounds else []
        reader = self._start(generator)
        pool = draw_pool(generator, self.samples, self.grounds, maps, rng) if self.images else None
        if pool is not None:
            train_reader(reader, pool, self, rng)
        calibrate(reader, *readings(reader, generator, CALIBRATED_ON, rng))
        error = {} if pool is None else reading_error(reader, pool, rng)
        knobs = knob_figures(*readings(reader, generator, MEASURED_ON, rng))
        card = {
            "reads": "rotation, elevation, size and place of the object in a picture",
            "generator": self.checkpoint.name,
            "generator_sha256": read_card(self.checkpoint).get("sha256", ""),
            "images_seen": self.images,
            "error_on_recombined_samples": error,
            "knobs": knobs,
        }
        save_generator(self.out, reader, card=card, dtype=torch.bfloat16)
        return {"out": str(self.out), "images": self.images, **error, "knobs": knobs}

    def _start(self, generator: Generator) -> PoseReader:
        """Return the reader to begin with, on the generator's device."""
        if self.run_folder.is_file():
            return relative_to(load_reader(self.run_folder, generator.device), generator.config.pose)
        state, prefix = load_weights(self.run_folder), "discriminator."
        weights = {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
        pose = generator.config.pose
        image = generator(generator.sample(64, torch.Generator().manual_seed(self.seed))).image.cpu()
        maps = reader_from_discriminator(weights, pose).trunk.maps(image)[-1]
        typical = float(MinibatchStddev()(maps)[:, -1].mean())
        return reader_from_discriminator(weights, pose, typical).to(generator.device)


def train_reader(reader: PoseReader, pool: Pool, options: TrainReader, rng: torch.Generator) -> None:
    """Train a reader in place on recombined samples; its weights are frozen again afterwards."""
    reader.train().requires_grad_(True)
    steps = math.ceil(options.images / options.batch)
    optimizer = torch.optim.Adam(reader.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), fused=True)
    with torch.enable_grad(), tqdm(total=steps * options.batch, unit="pictures", disable=None) as bar:
        for step, (image, target) in enumerate(_batches(reader, pool, steps, options.batch, rng)):
            share = min((step + 1) / 50, (1 + math.cos(math.pi * step / steps)) / 2)
            optimizer.param_groups[0]["lr"] = options.learning_rate * share
            with autocast(reader.device):
                loss = pose_error(reader(image), target, WEIGHTS)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            bar.update(options.batch)
            if step % 100 == 0:
                log.info("%d pictures: error %.4f", step * options.batch, float(loss.detach()))
    reader.eval().requires_grad_(False)


def _batches(
    reader: PoseReader, pool: Pool, steps: int, batch: int, rng: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for _ in range(steps):
        image, target = recombined(pool, batch, rng)
        yield image.to(reader.device), target.to(reader.device)


@torch.no_grad()
def reading_error(reader: PoseReader, pool: Pool, rng: torch.Generator, *, n: int = 512) -> dict[str, float]:
    """Return the median error of the rotation in degrees, and the share turned round, on recombined samples."""
    image, target = recombined(pool, n, rng)
    read = torch.cat([reader(part.to(reader.device)) for part in image.split(64)]).cpu()
    off = torch.atan2(read[:, 0], read[:, 1]) - torch.atan2(target[:, 0], target[:, 1])
    off = torch.remainder(off.rad2deg() + 180, 360).sub(180).abs()
    return {
        "rotation_error": round(float(off.median()), 3),
        "rotation_flips": round(float((off > 90).float().mean()), 4),
    }


@torch.no_grad()
def readings(
    reader: PoseReader, generator: Generator, n: int, rng: torch.Generator
) -> tuple[Float[torch.Tensor, "n 6"], Float[torch.Tensor, "n 6"]]:
    """Return what the reader reads from `n` new samples as they are, and what it should read."""
    read, wanted = [], []
    for start in range(0, n, 32):
        codes = generator.sample(min(32, n - start), rng)
        read.append(reader(generator(codes).image).cpu())
        wanted.append(pose_targets(codes, generator.config.pose).cpu())
    return torch.cat(read), torch.cat(wanted)


def knob_figures(read: Float[torch.Tensor, "n 6"], wanted: Float[torch.Tensor, "n 6"]) -> dict[str, float]:
    """Return slope and R2 (squared correlation) of each reading against its knob; of a rotation that goes round, those
    of its sine and cosine, averaged."""
    found: dict[str, float] = {}
    angles = [torch.atan2(x[:, 0], x[:, 1]) for x in (read, wanted)]
    if float(angles[1].max() - angles[1].min()) > math.pi:
        parts = [line(wanted[:, i], read[:, i]) for i in range(2)]
        found |= {"rotation_slope": sum(p[0] for p in parts) / 2, "rotation_r2": sum(p[1] for p in parts) / 2}
    else:
        found["rotation_slope"], found["rotation_r2"] = line(angles[1], angles[0])
    for i, name in enumerate(NAMES, start=2):
        if wanted[:, i].std() > 0:
            found[f"{name}_slope"], found[f"{name}_r2"] = line(wanted[:, i], read[:, i])
    return {name: round(value, 3) for name, value in found.items()}
