"""Fit the prior of poses to photos, by the poses that a trained discriminator reads from them.

The first prior is a guess (`giraffe_hd.fast.config.VIEWS`). Where it is wider than the photos, knobs have ends that no
photo shows; where it is narrower, objects are squeezed into it. GIRAFFE leaves both to the user (its Appendix).
"""

import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor

from giraffe_hd.fast.config import PoseConfig, TrainConfig
from training.checkpoint import write_whole
from training.data.folder import PictureSet
from training.nn.discriminator import Discriminator
from training.upgrade import upgraded
from training.warm_start import load_weights

log = logging.getLogger(__name__)

SHARE = 0.95
"""Of the photos: so many lie within each fitted range."""
BEYOND = 1.25
"""Readings further from the middle than this, where 1 is the end of the range trained on, count as this far."""
GAP = 60.0
"""Degrees: rotations that leave no larger gap go all the way round."""


def fitted(pose: PoseConfig, read: Float[Tensor, "n 6"]) -> PoseConfig:
    """Return the prior whose ranges hold `SHARE` of the poses read, as `giraffe_hd.fast.prior.pose_targets` are.

    A range that was a single value stays one.
    """
    rest = (1 - SHARE) / 2

    def span(column: int, old: tuple[float, float]) -> tuple[float, float]:
        values = read[:, column].clamp(-BEYOND, BEYOND)
        low, high = (float(values.quantile(share)) for share in (rest, 1 - rest))
        middle, half = sum(old) / 2, (old[1] - old[0]) / 2
        return round(middle + low * half, 4), round(middle + high * half, 4)

    low, high = span(3, (math.log(pose.scale[0]), math.log(pose.scale[1])))
    return replace(
        pose,
        rotation=_arc(torch.atan2(read[:, 0], read[:, 1]).rad2deg(), pose.rotation),
        elevation=span(2, pose.elevation),
        scale=(round(math.exp(low), 4), round(math.exp(high), 4)),
        y=span(4, pose.y),
        z=span(5, pose.z),
    )


def _arc(angle: Float[Tensor, " n"], old: tuple[float, float]) -> tuple[float, float]:
    """Return the shortest arc, in degrees, that holds `SHARE` of the angles; a full circle if it leaves little out."""
    if old[0] == old[1]:
        return old
    there = angle.double().sort().values
    count = math.ceil(SHARE * len(there))
    ends = torch.cat([there, there + 360])[count - 1 : count - 1 + len(there)]
    width, start = (ends - there).min(0)
    if float(width) > 360 - GAP:
        return (0.0, 360.0) if old[1] - old[0] < 360 else old
    low = float(there[start])
    middle = low + float(width) / 2
    low += 360 * round((sum(old) / 2 - middle) / 360)  # the turn nearest the old range
    return round(low, 2), round(low + float(width), 2)


@dataclass(frozen=True, kw_only=True)
class FitPrior:
    """Fit the prior of poses to a run's photos, as its discriminator reads them, and write it into their set."""

    run_folder: tyro.conf.Positional[Path]
    """A run of a fast preset, trained until its knobs turn: 50,000 pictures or so."""
    data: Path
    """The prepared set to read, whose set.json is to hold the prior."""
    n: int = 2_000
    """Photos to read, at most."""

    def run(self) -> dict[str, Any]:
        """Write the prior; return the old and new ranges and how many photos were read.

        Raises: ValueError if the folder is no run of a fast preset, or the set cannot be read.
        """
        path, about = self.run_folder / "config.json", self.data / "set.json"
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if stored.get("family") != "giraffe_hd":
            raise ValueError(f"{self.run_folder} is no run of a fast GIRAFFE HD; give the --out folder of its training")
        config = TypeAdapter(TrainConfig).validate_python(upgraded(stored, TrainConfig))
        discriminator = Discriminator(config.discriminator.channels, config.discriminator.pose_dim)
        state = load_weights(self.run_folder)
        prefix = "discriminator."
        discriminator.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        pictures = PictureSet(self.data, replace(config.data, flip=False))
        n = min(self.n, len(pictures))
        before = config.generator.pose
        with torch.no_grad():
            shown = [batch.image for batch in pictures.batches(n, 64)]
            if config.data.flip:
                shown += [image.flip(3) for image in shown]  # as in training
            read = torch.cat([discriminator.eval()(image)[1] for image in shown])
        pose = fitted(before, read.float())
        made = json.loads(about.read_text(encoding="utf-8"))
        made |= {"pose_before": made.get("pose", asdict(before)), "pose": asdict(pose)}
        write_whole(about, (json.dumps(made, indent=2) + "\n").encode())
        changed = {k: [v, asdict(pose)[k]] for k, v in asdict(before).items() if v != asdict(pose)[k]}
        return {"set": str(self.data), "photos": n, "ranges": changed}
