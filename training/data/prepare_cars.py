"""The command that renders cars into a prepared set, `prepare cars`."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from tqdm import tqdm

from training.data.cars.factors import (
    ELEVATION,
    FOV,
    MESHES,
    PROPORTIONS,
    RADIUS,
    ROTATION,
    SCALE,
    TRANSLATION_Y,
    TRANSLATION_Z,
    sample_factors,
)
from training.data.cars.render import render_bytes
from training.data.writing import report, whole_folder, write_index

CHUNK = 50
"""Pictures in one job of a worker."""


@dataclass(frozen=True, kw_only=True)
class PrepareCars:
    """Render cars with all factors, boxes and masks known; the same arguments always give the same pictures."""

    out: Path
    """The folder to make."""
    size: int = 64
    """Side of the pictures in pixels."""
    count: int = 20_000
    """Training pictures."""
    test: int = 3_000
    """Test pictures; they do not depend on `count`."""
    seed: int = 0
    """Random seed of the factors."""
    shadow: bool = False
    """Draw a soft shadow on the ground, which is part of neither mask nor background and makes training harder."""
    workers: int = 0
    """Worker processes; 0 takes one for each core."""

    def __post_init__(self) -> None:
        if self.size < 8 or self.count < 1 or self.test < 0 or self.seed < 0 or self.workers < 0:
            raise ValueError(
                f"cannot render {self.count} + {self.test} pictures of {self.size} px with seed {self.seed} and "
                f"{self.workers} workers; expected at least 8 px, 1 training picture and no negative number"
            )

    def run(self) -> None:
        """Write the set. Raises: ValueError if the folder is there already."""
        jobs = [
            (stream, start, min(CHUNK, n - start))
            for stream, n in enumerate((self.count, self.test))
            for start in range(0, n, CHUNK)
        ]
        workers = self.workers or os.cpu_count() or 1
        with whole_folder(self.out) as folder:
            for name in ("images", "masks"):
                (folder / name).mkdir()
            arguments = [(self, folder, *job) for job in jobs]
            rows: list[dict[str, Any]] = []
            with tqdm(total=self.count + self.test, unit="pictures", disable=None) as bar:
                if workers == 1:
                    for part in map(_render_job, arguments):
                        rows += part
                        bar.update(len(part))
                else:
                    spawn = multiprocessing.get_context("spawn")
                    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
                        for part in pool.map(_render_job, arguments):
                            rows += part
                            bar.update(len(part))
            write_index(folder, rows, self._made())
        report(self.out, rows, 0, "rendered")

    def _made(self) -> dict[str, Any]:
        """Return the content of `set.json`."""
        prior = {
            "rotation": ROTATION,
            "elevation": ELEVATION,
            "scale": SCALE,
            "ty": TRANSLATION_Y,
            "tz": TRANSLATION_Z,
            "tx": 0,
            "azimuth": 0,
        }
        return {
            "made_by": "python -m training prepare cars",
            "arguments": {k: v for k, v in asdict(self).items() if k not in ("out", "workers")},
            "label": "mesh",
            "licence": "CC0-1.0, as the meshes",
            "units": "angles in radians, lengths in world units, boxes in pixels, colours sRGB in [0, 1]",
            "camera": {"radius": RADIUS, "fov_degrees": FOV},
            "box_proportions": PROPORTIONS,
            "prior": prior,
        }


def _render_job(job: tuple[PrepareCars, Path, int, int, int]) -> list[dict[str, Any]]:
    """Render some pictures of a stream into a folder; return their rows of the index."""
    command, folder, stream, start, n = job
    factors = sample_factors(n, seed=command.seed, start=start, stream=stream)
    rows = []
    for i in range(n):
        name = f"{('train', 'test')[stream]}-{start + i:06d}.png"
        picture, mask, box = render_bytes(factors, i, command.size, shadow=command.shadow)
        PIL.Image.fromarray(picture).save(folder / "images" / name, compress_level=4)
        PIL.Image.fromarray(mask).save(folder / "masks" / name, compress_level=4)
        edges = dict(zip(("x0", "y0", "x1", "y1"), (edge * command.size for edge in box), strict=True))
        shape = {"width": command.size, "height": command.size}
        values = factors.row(i)
        label = MESHES[values["mesh"]]
        rows.append({"file": name, "split": ("train", "test")[stream], "label": label, **shape, **edges, **values})
    return rows
