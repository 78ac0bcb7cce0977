"""Frechet and kernel distance of a generator's pictures to real ones, in memory (clean-fid, Parmar et al. 2022)."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cleanfid
import numpy as np
import torch
import tyro
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from training.batched import rows
from training.checkpoint import load_generator
from training.data.folder import PictureSet, evaluation_data
from training.metrics.features import Features, load_features
from training.metrics.moments import Moments, frechet_distance, kernel_distance
from training.metrics.weights import cache_dir, download, keep
from training.pictures import to_uint8
from training.runtime.distributed import any_of, joined, rank, size
from training.runtime.malloc import keep_memory
from training.types import Generator, Image

log = logging.getLogger(__name__)

BLOCK = 64
"""Pictures for each random state, so that samples do not depend on the batch or on the number of processes."""
KEPT = 10_000
"""Largest number of feature vectors kept for the kernel distance."""
PUBLISHED_URL = "https://www.cs.cmu.edu/~clean-fid/stats/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Feature statistics of a set of pictures."""

    n: int
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    vectors: Float[Tensor, "kept d"]
    """Feature vectors for the kernel distance; empty if that is not computed."""


def at_once(generator: Generator) -> int:
    """Return the batch for drawing: small on a CPU, to avoid page faults, and small for large pictures, to fit on a
    GPU."""
    most = 16 if generator.device.type == "cpu" else BLOCK
    return max(1, min(most, BLOCK * 256**2 // generator.resolution**2))


@torch.inference_mode()
def drawn(generator: Generator, n: int, *, seed: int = 0, batch: int | None = None, **how: Any) -> Iterator[Image]:
    """Yield `n` samples of the generator in batches of at most `batch`; under torchrun this process's share of them.

    Picture i does not depend on the batch or the number of processes. `how` is passed to `generator.sample`.
    """
    batch = batch or at_once(generator)
    for block in range(rank(), -(-n // BLOCK), size()):
        state = np.random.SeedSequence((seed, block)).generate_state(1)
        codes = generator.sample(BLOCK, torch.Generator().manual_seed(int(state[0])), **how)
        wanted = min(BLOCK, n - block * BLOCK)
        for start in range(0, wanted, batch):
            yield generator(rows(codes, slice(start, min(start + batch, wanted)))).image


def taken(pictures: PictureSet, n: int, *, batch: int = BLOCK) -> Iterator[Image]:
    """Yield `n` pictures evenly spread over a set, in batches; under torchrun this process's share of them."""
    chosen = [i * len(pictures) // n for i in range(n)]
    for start in range(rank() * batch, n, size() * batch):
        yield pictures.get(chosen[start : start + batch]).image


def statistics(
    images: Iterable[Image], n: int, features: Features, *, kernel: bool = False, frechet: bool = True, what: str = ""
) -> Statistics:
    """Return the statistics of `n` pictures, quantised as a PNG would be; `what` names them in progress and messages.

    Under torchrun `images` is this process's share of the `n`, and each process gets the statistics of all.

    Raises: ValueError if the Frechet distance is wanted and `n` is too small for a covariance of full rank.
    """
    moments = Moments(keep_every=max(1, -(-n // KEPT)) if kernel else 0)
    with tqdm(total=n, desc=what, unit="img", leave=False, disable=rank() > 0) as bar:
        for image in images:
            vectors = features(to_uint8(image))
            dim = vectors.shape[1]
            if frechet and n <= dim:
                raise ValueError(
                    f"{n} {what or 'pictures'} are too few for {features.frechet_name}: its features have {dim} "
                    f"dimensions, so at least {dim + 1} pictures are needed on either side; give more, or ask for the "
                    f"kernel distance alone with --kid --no-fid"
                )
            moments.add(vectors)
            bar.update(len(image))
    moments.reduce()
    if moments.n != n:
        raise ValueError(f"{n} {what or 'pictures'} were expected and {moments.n} given")
    return Statistics(n=n, mean=moments.mean.cpu(), covariance=moments.covariance.cpu(), vectors=moments.vectors)


def real_statistics(
    pictures: PictureSet, n: int, features: Features, *, kernel: bool = False, frechet: bool = True
) -> Statistics:
    """Return the statistics of `n` real pictures, kept in the user's cache folder for the next time.

    The key covers the pictures' files, their crops and the network, so that any change gives new statistics.
    """
    path = cache_dir() / "statistics" / f"{_key(pictures, n, features, kernel)}.safetensors"
    kept = _kept(path, n, frechet)
    if not any_of(kept is None):  # machines may not share a cache folder
        assert kept is not None
        return kept
    result = statistics(taken(pictures, n), n, features, kernel=kernel, frechet=frechet, what="real pictures")
    if rank() == 0:
        keep(path, save({"mean": result.mean, "covariance": result.covariance, "vectors": result.vectors}))
    return result


def _kept(path: Path, n: int, frechet: bool) -> Statistics | None:
    """Return the statistics in a cache file; None if it is missing, damaged, or of too few pictures."""
    if not path.is_file():
        return None
    try:
        kept = Statistics(n=n, **load_file(path))
    except (SafetensorError, OSError, TypeError) as problem:
        log.warning("%s cannot be read (%s): computed again", path, problem)
        return None
    return kept if not frechet or n > len(kept.mean) else None


def _key(pictures: PictureSet, n: int, features: Features, kernel: bool) -> str:
    """Return a hash of everything that the statistics of `n` real pictures depend on."""
    settings = (1, n, str(pictures.config), features.digest, features.inception, kernel)
    digest = hashlib.sha256(repr(settings).encode())
    for name in pictures.files:
        digest.update(name.encode())
        digest.update((pictures.path / "images" / name).read_bytes())
    digest.update((pictures.path / "index.csv").read_bytes())  # the boxes around which pictures are cropped
    return digest.hexdigest()[:32]


def published_statistics(name: str, *, kernel: bool = False) -> Statistics:
    """Return statistics that clean-fid publishes, by `dataset/resolution/split` such as `ffhq/1024/trainval`.

    Raises: ValueError if `name` has another form; WeightsMissingError if the file cannot be downloaded.
    """
    if name.count("/") != 2:
        raise ValueError(
            f"{name!r} names no published statistics: expected dataset/resolution/split, as ffhq/1024/trainval"
        )
    dataset, resolution, split = name.lower().split("/")
    found = {}
    for part in ("", "_kid") if kernel else ("",):
        file = f"{dataset}_clean_{split}_{resolution}{part}.npz"
        path = Path(cleanfid.__path__[0]) / "stats" / file  # where clean-fid keeps its own
        if not path.is_file():
            path = download(
                PUBLISHED_URL + file,
                cache_dir() / "statistics" / file,
                digest=None,
                what=f"The published statistics {file}",
                remedy="Check the name against clean-fid's list, or give the pictures themselves with --data DIR.",
            )
        with np.load(path, allow_pickle=False) as arrays:
            found |= {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    vectors = found["feats"].float() if kernel else torch.zeros(0, len(found["mu"]))
    return Statistics(n=len(vectors), mean=found["mu"].double(), covariance=found["sigma"].double(), vectors=vectors)


def distances(
    real: Statistics, ours: Statistics, features: Features, *, frechet: bool, kernel: bool
) -> dict[str, float]:
    """Return the requested distances by name: FID and KID for Inception, FD and KD for other networks.

    Raises: ValueError if the two sides' features differ in length.
    """
    if len(real.mean) != len(ours.mean):
        raise ValueError(f"features of {len(real.mean)} and of {len(ours.mean)} dimensions cannot be compared")
    result: dict[str, float] = {}
    if frechet:
        result[features.frechet_name] = frechet_distance(real.mean, real.covariance, ours.mean, ours.covariance)
    if kernel:
        result[features.kernel_name] = kernel_distance(real.vectors, ours.vectors)
    return result


@dataclass(frozen=True, kw_only=True)
class Fid:
    """Print, as one JSON line, the FID of a generator's samples to real pictures.

    Under `torchrun -m training fid ...` the processes share the work.
    """

    checkpoint: tyro.conf.Positional[Path]
    """A generator file of either family."""
    data: Path | None = None
    """A prepared set of real pictures."""
    published: str | None = None
    """Instead of --data, statistics that clean-fid publishes: dataset/resolution/split, such as ffhq/1024/trainval."""
    split: str = "train"
    """Split of the real pictures; papers compare with the training split."""
    n_samples: int = 50_000
    """Samples, and at most as many real pictures. Papers use 50k; fewer give a larger FID."""
    seed: int = 0
    """Random seed of the samples."""
    batch: int | None = None
    """Batch for drawing; by default small on a CPU and large on a GPU."""
    fid: bool = True
    """Compute the Frechet distance."""
    kid: bool = False
    """Also compute the kernel distance, which is unbiased for few pictures."""
    features: Path | None = None
    """Instead of Inception a TorchScript network (n x 3 x h x w in [0, 1] -> n x d), a MobileNetV2 as a .tflite file,
    or the word `torchvision` for its MobileNetV2, downloaded once; the result is then called FD."""
    weights: Path | None = None
    """FID's Inception (inception-2015-12-05.pt) for machines without internet."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1; by default a GPU where there is one."""

    def run(self) -> None:
        """Print the result."""
        if (self.data is None) == (self.published is None):
            raise ValueError("give the real pictures by either --data DIR or --published NAME")
        if not (self.fid or self.kid):
            raise ValueError("nothing is left to measure: leave --no-fid out, or ask for --kid")
        if self.published and self.features:
            raise ValueError("published statistics are of Inception's features: leave --features or --published out")
        if self.n_samples < 2:
            raise ValueError(f"--n-samples is {self.n_samples}; expected at least 2")
        keep_memory()
        with joined(self.device) as device:
            self._measure(device)

    def _measure(self, device: torch.device) -> None:
        generator = load_generator(self.checkpoint, device)
        features = load_features(features=self.features, weights=self.weights, device=device)
        kinds = {"frechet": self.fid, "kernel": self.kid}
        if self.published:
            real = published_statistics(self.published, kernel=self.kid)
        else:
            assert self.data is not None
            pictures = PictureSet(self.data, evaluation_data(self.checkpoint, generator), self.split)
            real = real_statistics(pictures, min(len(pictures), self.n_samples), features, **kinds)
        samples = drawn(generator, self.n_samples, seed=self.seed, batch=self.batch)
        ours = statistics(samples, self.n_samples, features, **kinds, what="samples")
        if rank() == 0:
            found: dict[str, Any] = distances(real, ours, features, **kinds)
            found |= {"n_samples": ours.n, "n_real": real.n or None, "seed": self.seed, "split": self.split}
            found |= {"checkpoint": str(self.checkpoint), "data": str(self.data or self.published)}
            print(json.dumps(found | {"features": features.stem, "features_sha256": features.digest}))
