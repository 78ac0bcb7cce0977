"""The Frechet distance and the kernel distance, by hand and against clean-fid."""

import platform
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from tests.places import ROOT
from tests.training.metrics.small_networks import RandomInception, SmallNetwork, Toy, prepared, scripted
from training.config import DataConfig
from training.data.folder import PictureSet
from training.files import file_sha256
from training.metrics import features as features_module
from training.metrics import fid as fid_module
from training.metrics.features import INCEPTION_SIDE, Features, load_features, resize_clean
from training.metrics.fid import distances, drawn, real_statistics, statistics, taken
from training.metrics.moments import Moments, frechet_distance, kernel_distance
from training.pictures import to_pil


def test_frechet_distance_of_two_normal_distributions_by_hand() -> None:
    one, two = torch.tensor([1.0, 2.0]).double(), torch.tensor([4.0, 6.0]).double()
    wide, narrow = torch.diag(torch.tensor([9.0, 16.0])).double(), torch.diag(torch.tensor([4.0, 1.0])).double()
    # |(3, 4)|^2 + (3 - 2)^2 + (4 - 1)^2
    assert frechet_distance(one, wide, two, narrow) == pytest.approx(35, rel=1e-12)
    assert frechet_distance(one, wide, one, wide) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_is_clean_fids() -> None:
    from cleanfid.fid import frechet_distance as theirs

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 40)) @ rng.normal(size=(40, 40)), rng.normal(size=(300, 40)) + 0.5
    sides = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its sqrtm(disp=...)
        expected = theirs(*sides[0], *sides[1])
    ours = frechet_distance(*(torch.from_numpy(part) for side in sides for part in side))
    assert ours == pytest.approx(float(expected), rel=1e-8)


def test_moments_are_those_of_all_vectors_at_once() -> None:
    x = 100 + torch.randn(203, 7)  # far from zero: sums of squares must not cancel
    moments = Moments(keep_every=3)
    for part in x.split([1, 50, 2, 150]):
        moments.add(part)
    torch.testing.assert_close(moments.mean, x.double().mean(0))
    torch.testing.assert_close(moments.covariance, x.double().T.cov(), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(moments.vectors, x[::3])


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (512, 400), (299, 299)])
def test_pictures_reach_inception_as_clean_fid_resizes_them(size: tuple[int, int]) -> None:
    from cleanfid.resize import make_resizer

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = make_resizer("PIL", False, "bicubic", (INCEPTION_SIDE, INCEPTION_SIDE))(pixels)
    ours = resize_clean(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    np.testing.assert_allclose(ours[0].permute(1, 2, 0).numpy(), theirs, atol=1e-3)  # of 255


CLEAN_FID: dict[str, Any] = {
    "device": torch.device("cpu"),
    "num_workers": 0,
    "use_dataparallel": False,
    "verbose": False,
}


def saved(folder: Path, toy: Toy, n: int) -> str:
    folder.mkdir()
    for i, picture in enumerate(to_pil(torch.cat(list(drawn(toy, n))))):
        picture.save(folder / f"{i:05}.png", compress_level=1)
    return str(folder)


def test_fid_is_clean_fids_on_saved_pictures(tmp_path: Path) -> None:
    """Same pictures, same network: to 1e-3 of itself. In 2048 dimensions: tests/benchmarks/fid_speed.py."""
    from cleanfid import fid as theirs

    torch.manual_seed(0)
    small = SmallNetwork(24).eval()
    n = 100
    folders = [saved(tmp_path / "real", Toy(0.2), n), saved(tmp_path / "drawn", Toy(), n)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # clean-fid's own: sqrtm(disp=...)
        expected = theirs.compute_fid(
            folders[0], folders[1], custom_feat_extractor=lambda x: small((x - 128) / 128), **CLEAN_FID
        )
    path = scripted(small, tmp_path / "inception-2015-12-05.pt")
    found = measured(load_features(weights=path), n)
    assert found["FID"] == pytest.approx(float(expected), rel=1e-3)


def test_kid_and_features_are_clean_fids_from_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random Inception where clean-fid looks for its own: features to 1e-4, KID to 1e-6."""
    from cleanfid import features as their_features
    from cleanfid import fid as theirs

    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platform, "system", lambda: "Windows")  # there clean-fid's place is the working folder
    theirs_file = scripted(RandomInception(), tmp_path / "inception-2015-12-05.pt")
    monkeypatch.setattr(
        features_module, "INCEPTION_SHA256", file_sha256(theirs_file)
    )  # as if this were the published one
    n = 60
    folders = [saved(tmp_path / "real", Toy(0.2), n), saved(tmp_path / "drawn", Toy(), n)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clean-fid's own: torch.jit.load
        warnings.simplefilter("ignore", FutureWarning)
        np.random.seed(0)  # noqa: NPY002 (what clean-fid draws its subsets with)
        expected = theirs.compute_kid(folders[0], folders[1], **CLEAN_FID)
        extractor = their_features.build_feature_extractor("clean", torch.device("cpu"), use_dataparallel=False)
        vectors = theirs.get_folder_features(
            folders[0], extractor, num_workers=0, device=torch.device("cpu"), verbose=False
        )
    features = load_features()
    ours = statistics(drawn(Toy(0.2), n), n, features, frechet=False, kernel=True).vectors
    np.testing.assert_allclose(ours.numpy(), vectors, rtol=1e-4, atol=1e-5)
    assert measured(features, n, frechet=False)["KID"] == pytest.approx(expected, abs=1e-6)


def measured(features: Features, n: int, *, frechet: bool = True) -> dict[str, float]:
    real, ours = (statistics(drawn(toy, n), n, features, kernel=True, frechet=frechet) for toy in (Toy(0.2), Toy()))
    return distances(real, ours, features, frechet=frechet, kernel=True)


def test_kernel_distance_is_near_zero_for_one_distribution_and_not_for_two() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(600, 16, generator=rng), torch.randn(600, 16, generator=rng)
    assert abs(kernel_distance(a, b, subsets=20, largest=500)) < 0.02
    assert kernel_distance(a, b + 0.5, subsets=20, largest=500) > 0.1


def test_every_device_finds_the_same(device: torch.device, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = scripted(RandomInception(), tmp_path / "inception.pt")
    here, there = load_features(weights=path), load_features(weights=path, device=device)
    assert here.dim == 2048
    pictures = torch.randint(0, 256, (20, 24, 24, 3), dtype=torch.uint8)
    torch.testing.assert_close(there(pictures).cpu(), here(pictures), rtol=1e-3, atol=1e-3)
    found = statistics(drawn(Toy(), 40), 40, there, frechet=False, kernel=True)
    assert found.mean.device.type == found.vectors.device.type == "cpu"
    torch.testing.assert_close(found.mean.float(), found.vectors.mean(0), rtol=1e-4, atol=1e-5)


def test_samples_depend_on_the_seed_alone() -> None:
    whole = torch.cat(list(drawn(Toy(), 150, seed=3, batch=64)))
    assert len(whole) == 150
    torch.testing.assert_close(torch.cat(list(drawn(Toy(), 150, seed=3, batch=7))), whole)
    torch.testing.assert_close(torch.cat(list(drawn(Toy(), 70, seed=3))), whole[:70])
    assert not torch.allclose(torch.cat(list(drawn(Toy(), 150, seed=4))), whole)
    assert not torch.allclose(whole[:64], whole[64:128])


def test_real_statistics_are_counted_once_and_anew_after_any_change(
    tmp_path: Path, network: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(tmp_path / "set", 40)
    config = DataConfig(size=16, flip=False)
    first = real_statistics(PictureSet(folder, config), 40, network)
    plain = torch.cat(list(taken(PictureSet(folder, config), 40)))
    torch.testing.assert_close(
        first.mean, network(((plain + 1) * 127.5).round().byte().permute(0, 2, 3, 1)).double().mean(0)
    )
    counted = []
    count = fid_module.statistics
    monkeypatch.setattr(fid_module, "statistics", lambda *a, **k: counted.append(1) or count(*a, **k))
    again = real_statistics(PictureSet(folder, config), 40, network)
    assert not counted
    torch.testing.assert_close(again.covariance, first.covariance, rtol=0, atol=0)
    real_statistics(PictureSet(folder, config), 39, network)
    real_statistics(PictureSet(folder, DataConfig(size=16, flip=False, object_margin=1.0)), 40, network)
    PIL.Image.new("RGB", (16, 16), "red").save(folder / "images" / "0000.png")
    changed = real_statistics(PictureSet(folder, config), 40, network)
    assert len(counted) == 3
    assert not torch.equal(changed.mean, first.mean)
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])  # a cut file is counted anew, not believed
    torch.testing.assert_close(real_statistics(PictureSet(folder, config), 40, network).mean, changed.mean)
    assert len(counted) == 4


def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    """Without new pages: a process of its own, as the setting is one of the whole process."""
    script = textwrap.dedent(
        """
        import resource
        import torch
        from training.runtime.malloc import keep_memory

        def faults():
            for _ in range(20):
                torch.ones(16 * 2**20)  # 64 MB: 16,384 pages
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        kept = keep_memory()
        print(kept, -faults() + faults())
        """
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    kept, pages = found.stdout.split()
    if kept == "False":
        pytest.skip("this C library has no such setting")
    assert int(pages) < 16_384


def test_too_few_pictures_are_refused_with_the_number_needed(network: Features) -> None:
    with pytest.raises(ValueError, match=r"12 samples are too few .* at least 13 pictures"):
        statistics(drawn(Toy(), 12), 12, network, what="samples")
    statistics(drawn(Toy(), 13), 13, network)
    statistics(drawn(Toy(), 5), 5, network, frechet=False, kernel=True)
