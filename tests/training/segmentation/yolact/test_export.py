"""The exported network says what the torch one does, and refuses what it cannot hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import training.segmentation.yolact.export as export_file
from training.segmentation.yolact.export import OUTPUTS, OnnxNetwork, export, quantise
from training.segmentation.yolact.network import Yolact
from training.segmentation.yolact.presets import FAST
from training.segmentation.yolact.published import NETWORKS
from training.segmentation.yolact.segmenter import YolactSegmenter

pytest.importorskip("onnxruntime", reason="ONNX Runtime is an optional extra: segment")
pytest.importorskip("onnxscript", reason="onnxscript is part of the optional extra: segment")


@pytest.fixture(scope="module")
def network() -> Yolact:
    torch.manual_seed(0)
    return Yolact(replace(FAST, size=64, pyramid_dim=8, protonet_dim=8, n_prototypes=4)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "fast.onnx"
    export(network, path)
    return path


def test_exported_network_equals_the_torch_one(network, exported, rng):
    image = torch.rand(1, 3, 64, 64, generator=rng) * 2 - 1
    ours, theirs = OnnxNetwork(exported)(image), network(image)
    for name in (*OUTPUTS, "anchors"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-5)


def test_exported_network_finds_the_same_objects(network, exported):
    photo = (torch.rand(40, 60, 3, generator=torch.Generator().manual_seed(1)) * 255).byte().numpy()
    torch_finder = YolactSegmenter(network)
    onnx_finder = YolactSegmenter(OnnxNetwork(exported))
    assert onnx_finder.labels == torch_finder.labels
    theirs = torch_finder(photo)
    for a, b in zip(onnx_finder(photo), theirs, strict=True):
        assert a.label == b.label and a.score == pytest.approx(b.score, abs=1e-4)
        assert a.box == pytest.approx(b.box, abs=0.01)


def test_eight_bits_stay_close(network, exported, tmp_path, rng):
    pictures = [torch.rand(1, 3, 64, 64, generator=rng) * 2 - 1 for _ in range(3)]
    quantise(exported, tmp_path / "int8.onnx", pictures)
    small = OnnxNetwork(tmp_path / "int8.onnx")
    assert small.config == network.config
    assert (tmp_path / "int8.onnx").stat().st_size < 0.5 * exported.stat().st_size
    ours, theirs = small(pictures[0]), network(pictures[0])
    for name in OUTPUTS:
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a - b).square().mean().sqrt() < 0.15 * b.square().mean().sqrt(), name
    with pytest.raises(ValueError, match="no pictures"):
        quantise(exported, tmp_path / "none.onnx", [])


def test_eight_bits_are_for_cpus_that_sum_them_exactly(exported, tmp_path, rng, monkeypatch, caplog):
    """Without VNNI instructions sums saturate: a network exported there has weights of seven bits."""
    onnx = pytest.importorskip("onnx")
    pictures, most = [torch.rand(1, 3, 64, 64, generator=rng) * 2 - 1], {}
    for bits, exact in ((8, True), (7, False)):
        monkeypatch.setattr(export_file, "has_vnni", lambda exact=exact: exact)
        quantise(exported, tmp_path / f"{bits}.onnx", pictures)
        OnnxNetwork(tmp_path / f"{bits}.onnx")
        assert not caplog.records
        stored = [onnx.numpy_helper.to_array(x) for x in onnx.load(str(tmp_path / f"{bits}.onnx")).graph.initializer]
        most[bits] = max(np.abs(x.astype(int)).max() for x in stored if x.dtype == np.int8 and x.size > 100)
    assert most[8] > 100 and 50 < most[7] <= 64
    OnnxNetwork(tmp_path / "8.onnx")
    assert "8-bit weights" in caplog.text and "export it here" in caplog.text


def test_files_that_are_no_export_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        OnnxNetwork(tmp_path / "missing.onnx")
    (tmp_path / "other.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match="no network exported"):
        OnnxNetwork(tmp_path / "other.onnx")


def test_deformable_networks_are_refused(tmp_path):
    with torch.device("meta"):
        plus = Yolact(NETWORKS["yolact_plus_resnet50"])
    with pytest.raises(ValueError, match="cannot be exported"):
        export(plus, tmp_path / "plus.onnx")
