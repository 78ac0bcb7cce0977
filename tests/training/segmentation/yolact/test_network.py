"""The networks of all published configs: weights by the authors' names, anchors, sizes."""

import gzip
import json

import pytest
import torch

from tests.places import ROOT
from training.nn.backbone import MobileNetV2
from training.segmentation.yolact.anchors import decode, encode, make_anchors, overlap
from training.segmentation.yolact.backbone import FoldedMobileNetV2
from training.segmentation.yolact.classes import COCO, PASCAL, YOUTUBE_VIS
from training.segmentation.yolact.config import NetworkConfig
from training.segmentation.yolact.network import Yolact
from training.segmentation.yolact.presets import FAST
from training.segmentation.yolact.published import NETWORKS

KEYS = json.loads(gzip.decompress((ROOT / "tests" / "conformance" / "yolact_keys.json.gz").read_bytes()))


def network(config: NetworkConfig) -> Yolact:
    with torch.device("meta"):
        return Yolact(config)


def test_all_published_configs_are_there():
    assert NETWORKS.keys() == KEYS.keys()


@pytest.mark.parametrize("name", sorted(KEYS))
def test_weights_have_the_authors_keys_and_shapes(name):
    ours = {key: list(tensor.shape) for key, tensor in network(NETWORKS[name]).state_dict().items()}
    assert list(ours.items()) == list(KEYS[name].items())


def test_class_lists():
    assert (len(COCO), len(PASCAL), len(YOUTUBE_VIS)) == (80, 20, 40)
    assert COCO[0] == "person" and COCO[15] == "cat" and COCO[79] == "toothbrush"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("yolact_base", 19_248),
        ("yolact_im400", 10_077),
        ("yolact_im700", 30_963),
        ("yolact_plus_base", 57_744),
        ("yolact_resnet50_pascal", 19_248),
    ],
)
def test_number_of_anchors(name, count):
    assert make_anchors(NETWORKS[name]).shape == (count, 4)


def test_anchors_by_hand():
    square, plain = (make_anchors(NETWORKS[name]) for name in ("yolact_base", "yolact_resnet50_pascal"))
    torch.testing.assert_close(square[4], torch.tensor([1.5 / 69, 0.5 / 69, 24 * 0.5**0.5 / 550, 24 * 0.5**0.5 / 550]))
    torch.testing.assert_close(plain[5], torch.tensor([1.5 / 69, 0.5 / 69, 32 * 2**0.5 / 550, 32 / 2**0.5 / 550]))
    octaves = make_anchors(NETWORKS["yolact_plus_base"])  # scale, then ratio
    torch.testing.assert_close(octaves[3, 2], torch.tensor(24 * 2 ** (1 / 3) / 550))


def test_code_of_boxes_is_inverted_by_decoding(rng):
    anchors = make_anchors(FAST)[:50]
    boxes = torch.rand(50, 4, generator=rng)
    boxes[:, 2:] += boxes[:, :2] + 0.01
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes)
    code = torch.tensor([[1.0, 0.0, 5 * 0.6931472, 0.0]])
    torch.testing.assert_close(
        decode(code, torch.tensor([[0.5, 0.5, 0.2, 0.4]])), torch.tensor([[0.32, 0.3, 0.72, 0.7]])
    )


def test_overlap_by_hand():
    a, b = torch.tensor([[0.0, 0.0, 0.4, 0.4]]), torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.5, 0.5, 0.9, 0.9]])
    torch.testing.assert_close(overlap(a, b), torch.tensor([[0.04 / 0.28, 0.0]]))


@pytest.mark.parametrize("name", ["yolact_darknet53", "yolact_plus_resnet50", "yolact_edge_mobilenetv2"])
def test_network_runs_at_small_sizes(name):
    torch.manual_seed(0)
    config = NETWORKS[name]
    found = Yolact(config).eval()(torch.zeros(1, 3, 97, 97))
    n = config.n_anchors * sum(side**2 for side in (13, 7, 4, 2, 1))
    assert found.box_code.shape == (1, n, 4) and found.logits.shape == (1, n, 81)
    assert found.coefficients.shape == (1, n, 32) and found.prototypes.shape == (1, 26, 26, 32)
    assert found.anchors.shape == (n, 4)


def test_fast_network():
    torch.manual_seed(0)
    model = Yolact(FAST).eval()
    found = model(torch.zeros(1, 3, 320, 320))
    assert found.prototypes.shape == (1, 80, 80, 32)
    assert found.anchors.shape[0] == found.logits.shape[1] == 3 * (40**2 + 20**2 + 10**2 + 5**2)
    assert 2.4e6 < sum(parameter.numel() for parameter in model.parameters()) < 2.6e6


def test_fast_trunk_takes_pretrained_weights(rng):
    torch.manual_seed(0)
    pretrained, trunk = MobileNetV2(same=True), FoldedMobileNetV2(same=True)
    trunk.load(pretrained)
    image = torch.rand(1, 3, 64, 64, generator=rng)
    maps = pretrained.maps(image)
    for ours, theirs in zip(trunk(trunk.normalise(image)), (maps[2], maps[4], maps[6]), strict=True):
        assert torch.equal(ours, theirs)
    assert len(trunk(image, 1)) == 1
    with pytest.raises(ValueError, match="pads otherwise"):
        trunk.load(MobileNetV2(same=False))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classes": ()}, "classes"),
        ({"classes": ("cat", "cat")}, "classes"),
        ({"backbone": "darknet53", "deformable_every": 1}, "deformable_every"),
        ({"size": 3}, "size"),
        ({"size": 300, "backbone": "mobilenetv2-same"}, "multiples of 32"),
        ({"scales": (24.0,)}, "scales"),
        ({"ratios": ()}, "ratios"),
        ({"pyramid_dim": 0}, "pyramid_dim"),
        ({"video": True}, "video"),
    ],
)
def test_configs_that_mean_nothing_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        NetworkConfig(**{"classes": ("cat",)} | changes)
