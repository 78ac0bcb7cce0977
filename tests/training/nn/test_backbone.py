"""The pretrained feature network: weights of all kinds of file, padding, statistics, gradients."""

import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from training.nn.backbone import Conv, FrozenFeatures, MobileNetV2, load_backbone, perceptual_distance


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """torchvision's network with weights and statistics drawn at random, and its state dict on disk."""
    torch.manual_seed(0)
    network = mobilenet_v2(weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(network.state_dict(), path)
    return network, path


@torch.no_grad()
def test_folded_weights_give_torchvisions_features(published: tuple[nn.Module, Path]) -> None:
    network, path = published
    image = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = network.features((image - mean.view(3, 1, 1)) / std.view(3, 1, 1)).mean((2, 3))  # type: ignore[operator]
    torch.testing.assert_close(load_backbone(path)(image * 2 - 1), expected, atol=1e-5, rtol=1e-4)


class Scripted(nn.Module):
    """Computes a network's features as exported TensorFlow files do: weights in their order, padding written out."""

    def __init__(self, network: MobileNetV2) -> None:
        super().__init__()
        self.pairs = [(self.stored(c), c.bias.detach(), c.stride[0], c.groups) for c in network.convolutions()]  # type: ignore[union-attr]
        self.blocks = [block.residual for stage in network.stages for block in stage]  # type: ignore[union-attr]
        self.expands = [block.expand is not None for stage in network.stages for block in stage]  # type: ignore[union-attr]

    @staticmethod
    def stored(conv: Conv) -> Tensor:
        weight = conv.weight.detach()
        return (weight.permute(1, 2, 3, 0) if conv.groups > 1 else weight.permute(0, 2, 3, 1)).contiguous()

    @staticmethod
    def layer(x: Tensor, pair: tuple[Tensor, Tensor, int, int]) -> Tensor:
        weight, bias, stride, groups = pair
        weight = weight.permute(3, 0, 1, 2) if groups > 1 else weight.permute(0, 3, 1, 2)
        if weight.shape[2] == 3:
            x = F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        return F.conv2d(x, weight, bias, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        pairs: Iterator[tuple[Tensor, Tensor, int, int]] = iter(self.pairs)
        x = F.relu6(self.layer(x, next(pairs)))
        for residual, expands in zip(self.blocks, self.expands, strict=True):
            y = F.relu6(self.layer(x, next(pairs))) if expands else x
            y = self.layer(F.relu6(self.layer(y, next(pairs))), next(pairs))
            x = x + y if residual else y
        return F.relu6(self.layer(x, next(pairs))).mean((2, 3))


@torch.no_grad()
def test_weights_are_read_from_the_constants_of_torchscript(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MobileNetV2()
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; published files are TorchScript all the same
        traced = torch.jit.trace(Scripted(network), (image,))
        torch.jit.save(traced, tmp_path / "net.pt")
    expected = Scripted(network)(image)
    torch.testing.assert_close(load_backbone(tmp_path / "net.pt")(image), expected, atol=1e-5, rtol=1e-4)


def test_same_padding_starts_at_the_first_pixel() -> None:
    conv = Conv(1, 1, 3, stride=2, same=True)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]).view(1, 1, 3, 3))
        conv.bias.zero_()  # type: ignore[union-attr]
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    assert conv(picture).flatten().tolist() == [0, 2, 8, 10]


@pytest.mark.parametrize("wrong", ["absent", "text", "other", "pickled", "cut"])
def test_files_that_hold_no_mobilenet_are_refused_in_one_sentence(wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if wrong == "text":
        path.write_text("no weights")
    if wrong == "other":
        torch.save({"0.0.weight": torch.zeros(4, 3, 3, 3)}, path)
    if wrong == "pickled":
        torch.save(MobileNetV2(), path)  # a whole module: reading it would run code
    if wrong == "cut":
        torch.save(mobilenet_v2(weights=None).state_dict(), path)
        path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=r"no file|holds no MobileNetV2"):
        load_backbone(path)


def test_a_damaged_download_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"
    kept.parent.mkdir(parents=True)
    for content in (b"", b"PK\x03\x04 cut off"):
        for name in (kept.name, "mobilenet_v2-b0353104.pth"):  # of either weights that torchvision publishes
            kept.with_name(name).write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoints are damaged \(.*\); remove the file there, or give a file"):
            load_backbone(None)


@pytest.fixture(scope="module")
def features() -> FrozenFeatures:
    torch.manual_seed(0)
    return FrozenFeatures(MobileNetV2(), side=64, bf16=False)


def test_channels_of_the_pictures_observed_have_mean_0_and_deviation_1() -> None:
    features = FrozenFeatures(MobileNetV2(), side=64, bf16=False)
    rng = torch.Generator().manual_seed(1)
    maps = [3 + 2 * torch.randn(features.PICTURES, c, 2, 2, generator=rng) for c in features.CHANNELS]
    for part in range(0, features.PICTURES, 96):
        features.observe([x[part : part + 96] for x in maps])
    before = features.total.clone()
    features.observe([x + 9 for x in maps])  # enough were seen: nothing changes
    assert torch.equal(before, features.total)
    for x in features.standardised(maps):
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(x.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(x.shape[1]), atol=1e-2, rtol=0)


def test_gradients_reach_the_picture_and_no_weight(features: FrozenFeatures) -> None:
    picture = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    perceptual_distance(features(picture), features(-picture.detach())).sum().backward()
    assert picture.grad is not None
    assert float(picture.grad.abs().sum()) > 0
    assert not any("_backbone" in name for name in features.state_dict())
    assert all(p.grad is None for p in features._backbone[0].parameters())


def test_perceptual_distance_is_zero_for_the_same_and_scale_free() -> None:
    maps = [torch.randn(2, 5, 4, 4), torch.randn(2, 3, 2, 2)]
    assert float(perceptual_distance(maps, maps).max()) == 0
    # two orthogonal directions of two channels: each place is scaled to (sqrt 2, 0) and (0, sqrt 2)
    a, b = torch.tensor([1.0, 0]).view(1, 2, 1, 1), torch.tensor([0, 5.0]).view(1, 2, 1, 1)
    assert float(perceptual_distance([a], [b])) == pytest.approx(2**0.5, rel=1e-4)


class Buffers:
    """Writes a FlatBuffer front to back: a table's vtable before it, what it refers to after it."""

    def __init__(self) -> None:
        self.data = bytearray(4) + b"TFL3"

    def point(self, at: int) -> None:
        """Make the reference at `at` lead to what comes next."""
        self.data += bytes(-len(self.data) % 8)
        self.data[at : at + 4] = struct.pack("<I", len(self.data) - at)

    def vector(self, values: np.ndarray) -> Callable[[], None]:
        def write() -> None:
            self.data += struct.pack("<I", len(values)) + values.tobytes()

        return write

    def tables(self, items: Sequence[Callable[[], None]]) -> Callable[[], None]:
        def write() -> None:
            start = len(self.data)
            self.data += struct.pack("<I", len(items)) + bytes(4 * len(items))
            for i, item in enumerate(items):
                self.point(start + 4 + 4 * i)
                item()

        return write

    def table(self, fields: Mapping[int, int | Callable[[], None]]) -> Callable[[], None]:
        """A table of numbers, four bytes each, and of what it refers to; the point where it begins is its own."""

        def write() -> None:
            here, n = len(self.data), max(fields, default=-1) + 1
            vtable = 4 + 4 * n
            offsets = [4 + 4 * i if i in fields else 0 for i in range(n)]
            self.data += struct.pack("<i", -vtable) + bytes(4 * n)
            self.data += struct.pack(f"<HH{n}H", 4 + 2 * n, vtable, *offsets)
            for i, value in fields.items():
                at = here + 4 + 4 * i
                if isinstance(value, int):
                    self.data[at : at + 4] = struct.pack("<i", value)
                else:
                    self.point(at)
                    value()

        return write


def tensorflow_lite(pairs: Sequence[tuple[np.ndarray, np.ndarray]], scale: float) -> bytes:
    """Return a file of convolutions: uint8 weights around 100 and int32 biases, both of one scale."""
    file = Buffers()
    quantised = {2: file.vector(np.array([scale], np.float32)), 3: file.vector(np.array([100], np.int64))}
    exact = {2: quantised[2]}
    tensors, buffers, operators = [file.table({})], [file.table({})], []  # tensor 0: what an operator reads
    for pair in pairs:
        for values, kind, how in zip(pair, (3, 2), (quantised, exact), strict=True):
            shape = file.vector(np.array(values.shape, np.int32))
            tensors.append(file.table({0: shape, 1: kind, 2: len(buffers), 4: file.table(how)}))
            buffers.append(file.table({0: file.vector(np.frombuffer(values.tobytes(), np.uint8))}))
        operators.append(file.table({1: file.vector(np.array([0, len(tensors) - 2, len(tensors) - 1], np.int32))}))
        operators.append(file.table({1: file.vector(np.array([0, 0], np.int32))}))  # an addition
    graph = file.table({0: file.tables(tensors), 3: file.tables(operators)})
    file.point(0)
    file.table({2: file.tables([graph]), 4: file.tables(buffers)})()
    return bytes(file.data)


@torch.no_grad()
def test_quantised_weights_are_read_from_tensorflow_lite(tmp_path: Path) -> None:
    rng, scale, expected, pairs = np.random.default_rng(0), 2.0**-9, MobileNetV2(), []
    for conv in expected.convolutions():
        out, inside, kernel, _ = conv.weight.shape
        shape = (1, kernel, kernel, out) if conv.groups > 1 else (out, kernel, kernel, inside)
        pairs.append((rng.integers(0, 256, shape, np.uint8), rng.integers(-99, 99, out, np.int32)))
        weight = torch.from_numpy((pairs[-1][0].astype(np.float32) - 100) * scale)
        conv.weight.copy_(weight.permute(3, 0, 1, 2) if conv.groups > 1 else weight.permute(0, 3, 1, 2))
        conv.bias.copy_(torch.from_numpy(pairs[-1][1] * scale))  # type: ignore[union-attr]
    classifier = (np.zeros((5, 1, 1, 1280), np.uint8), np.zeros(5, np.int32))
    path = tmp_path / "mobilenet.tflite"
    path.write_bytes(tensorflow_lite([*pairs, classifier], scale))
    found = load_backbone(path)
    for ours, theirs in zip(found.convolutions(), expected.convolutions(), strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)  # type: ignore[arg-type]
    byte = torch.tensor([0.0, 128, 255])
    seen = (byte / 127.5 - 1 - found.mean) / found.std
    torch.testing.assert_close(seen, (byte - 128) / 128)
    path.write_bytes(path.read_bytes()[:-1_000_000])
    with pytest.raises(ValueError, match="holds no MobileNetV2"):
        load_backbone(path)
