"""Networks of the distances: found, checked, missed; the command; two processes."""

import json
import os
import platform
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.places import ROOT
from tests.training.metrics.small_networks import SmallNetwork, Toy, prepared, scripted
from training.files import file_sha256
from training.metrics import features as features_module
from training.metrics import fid as fid_module
from training.metrics import weights as weights_module
from training.metrics.features import Features, load_features
from training.metrics.fid import Fid, drawn, published_statistics, statistics
from training.metrics.weights import WeightsMissingError
from training.nn.backbone import MobileNetV2


def test_without_weights_and_internet_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(features_module, "INCEPTION_URL", "http://127.0.0.1:9/inception.pt")
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsMissingError, match=r"cannot be reached .*--weights FILE.*--features FILE"):
        load_features()
    assert not list(tmp_path.rglob("*.pt"))
    with pytest.raises(WeightsMissingError, match="cannot be reached"):
        monkeypatch.setattr(fid_module, "PUBLISHED_URL", "http://127.0.0.1:9/")
        published_statistics("nosuchset/64/train")


def test_only_the_published_network_is_taken_from_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody may write there, and a TorchScript file runs as a program."""
    monkeypatch.setattr(features_module, "INCEPTION_URL", "http://127.0.0.1:9/inception.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platform, "system", lambda: "Windows")  # there clean-fid's place is the working folder
    planted = scripted(SmallNetwork(4), tmp_path / "inception-2015-12-05.pt")
    kept = tmp_path / "cache" / "knobs-without-labels" / planted.name
    monkeypatch.setattr("torch.jit.load", lambda *a, **o: pytest.fail("the planted network ran"))
    with pytest.raises(WeightsMissingError, match="cannot be reached"):
        load_features()
    assert "is not the published Inception and is left alone" in caplog.text
    monkeypatch.setattr(features_module, "INCEPTION_SHA256", file_sha256(planted))
    assert features_module.find_inception() == kept
    assert kept.read_bytes() == planted.read_bytes()
    planted.unlink()
    kept.write_bytes(b"another")  # in the cache too
    with pytest.raises(WeightsMissingError, match="cannot be reached"):
        load_features()
    planted.symlink_to("/dev/zero")
    with pytest.raises(WeightsMissingError, match="cannot be reached"):
        load_features()


def test_a_cache_that_cannot_be_written_or_is_nowhere_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = weights_module.keep(weights_module.cache_dir() / "statistics" / "x", b"content")
    assert path.read_bytes() == b"content"
    assert "cannot be kept in the cache" in caplog.text
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")  # what pathlib says of a user without a name

    monkeypatch.setattr(Path, "home", homeless)
    assert weights_module.keep(weights_module.cache_dir() / "y", b"more").read_bytes() == b"more"


@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_a_file_that_is_no_network_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.pt is not a TorchScript file"):
        load_features(features=path)
    with pytest.raises(ValueError, match="no file"):
        load_features(features=tmp_path / "gone.pt")


def test_torchvisions_network_is_given_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = MobileNetV2(same=False).eval()
    monkeypatch.setattr(features_module, "load_backbone", lambda: backbone)
    found = load_features(features=Path("torchvision"))
    assert found.frechet_name == "FD-mobilenet_v2_torchvision"
    pictures = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = backbone(pictures.permute(0, 3, 1, 2) / 127.5 - 1)  # 224 px are read as they are
    torch.testing.assert_close(found(pictures), expected.detach(), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        next(backbone.convolutions()).weight.add_(1)
    assert load_features(features=Path("torchvision")).digest != found.digest


def test_torchvisions_network_that_cannot_be_had_is_missed_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> MobileNetV2:
        raise ValueError("torchvision's MobileNetV2 weights cannot be downloaded (no route); give a file")

    monkeypatch.setattr(features_module, "load_backbone", unreachable)
    with pytest.raises(WeightsMissingError, match=r"cannot be downloaded \(no route\)\. Put .*b0353104\.pth"):
        load_features(features=Path("torchvision"))


def test_another_network_is_not_taken_for_inception(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    with pytest.raises(ValueError, match="not FID's Inception"):
        load_features(weights=scripted(Plain(), tmp_path / "plain.pt"))


def test_published_statistics_are_read_by_name(tmp_path: Path, network: Features) -> None:
    mean, sigma = np.arange(12.0), np.eye(12)
    folder = tmp_path / "cache" / "knobs-without-labels" / "statistics"
    folder.mkdir(parents=True)
    np.savez(folder / "flowers_clean_trainfull_64.npz", mu=mean, sigma=sigma)
    np.savez(folder / "flowers_clean_trainfull_64_kid.npz", feats=np.ones((30, 12)))
    found = published_statistics("Flowers/64/trainfull", kernel=True)
    assert found.vectors.shape == (30, 12)
    assert found.mean.tolist() == mean.tolist()
    with pytest.raises(ValueError, match="dataset/resolution/split"):
        published_statistics("flowers")


def test_the_command_prints_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(fid_module, "load_generator", lambda path, device: Toy())
    monkeypatch.setattr(
        "training.data.folder.read_card", lambda path: {"config": {"data": {"size": 16, "object_margin": 1.2}}}
    )
    data = prepared(tmp_path / "set", 40)
    network = scripted(SmallNetwork(12), tmp_path / "small-net.pt")
    command = Fid(checkpoint=tmp_path / "toy.safetensors", data=data, features=network, n_samples=90, kid=True)
    command.run()
    line = json.loads(capsys.readouterr().out)
    assert line["FD-small-net"] > 0
    assert "KD-small-net" in line
    assert "FID" not in line
    assert (line["n_samples"], line["n_real"]) == (90, 40)
    with pytest.raises(ValueError, match="either --data DIR or --published"):
        Fid(checkpoint=tmp_path / "toy.safetensors").run()


def test_two_processes_find_what_one_finds(tmp_path: Path, network: Features) -> None:
    """200 pictures are four blocks: two a process, and the kept vectors of both come together. 40 are the first's."""
    alone = {n: statistics(drawn(Toy(), n), n, network, kernel=True) for n in (200, 40)}
    script = textwrap.dedent(
        """
        import importlib.util, sys
        from pathlib import Path
        import torch
        from training.metrics.features import load_features
        from training.runtime.distributed import joined
        from training.metrics.fid import drawn, statistics

        spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
        toys = importlib.util.module_from_spec(spec); spec.loader.exec_module(toys)
        with joined("cpu") as device:
            network = load_features(features=Path(sys.argv[2]), device=device)
            found = [statistics(drawn(toys.Toy(), n), n, network, kernel=True) for n in (200, 40)]
        torch.save([[one.mean, one.covariance, one.vectors] for one in found], sys.argv[3])
        """
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, __file__, str(tmp_path / "small-net.pt"), str(tmp_path / f"{rank}.pt")],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for one, (mean, covariance, vectors) in zip(alone.values(), found, strict=True):
            torch.testing.assert_close(mean, one.mean)
            torch.testing.assert_close(covariance, one.covariance)
            torch.testing.assert_close(vectors.sort(0).values, one.vectors.sort(0).values)
