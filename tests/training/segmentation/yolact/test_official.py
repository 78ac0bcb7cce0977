"""The authors' weights files, read and written: what is inferred, what is refused, and that the bits come back."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.__main__ import main
from training.checkpoint import load_model
from training.official import read_official
from training.segmentation.yolact.network import Yolact
from training.segmentation.yolact.official import _named, at_size, for_other_classes, network_of, read, state_of, write
from training.segmentation.yolact.presets import FAST
from training.segmentation.yolact.published import NETWORKS

EDGE = "yolact_edge_mobilenetv2"


def blank(name: str) -> dict[str, Tensor]:
    """Return a state dict of ones that takes no room, in memory or on disk."""
    with torch.device("meta"):
        state = Yolact(NETWORKS[name]).state_dict()
    return {key: torch.ones((), dtype=tensor.dtype).expand(tensor.shape) for key, tensor in state.items()}


def saved(state: object, folder: Path, name: str = f"{EDGE}_54_800000.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


@pytest.mark.parametrize(
    "name",
    [
        "yolact_im400",
        "yolact_resnet50_pascal",
        "yolact_darknet53",
        "yolact_plus_base",
        "yolact_plus_resnet50",
        "yolact_edge_vid_resnet50",
        EDGE,
    ],
)
def test_config_is_inferred_from_tensors_and_name(name, caplog):
    with caplog.at_level(logging.WARNING):
        assert network_of(blank(name), Path(f"{name}_54_800000.pth")).config == NETWORKS[name]
    assert not caplog.messages


def test_bits_come_back(tmp_path, capsys):
    torch.manual_seed(0)
    state = Yolact(NETWORKS[EDGE]).state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.uniform_(-1, 1)
    path = saved(state, tmp_path)
    out = tmp_path / "edge.safetensors"
    assert main(["import-official", str(path), "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "yolact"
    network = load_model(out)
    assert isinstance(network, Yolact) and network.config == NETWORKS[EDGE]
    write(network, tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) and back[key].dtype == state[key].dtype for key in state)


def test_leftovers_of_early_versions_are_dropped():
    state = blank("yolact_resnet50")
    more = {"backbone.layer1.0.conv1.weight": torch.ones(3), "fpn.downsample_layers.2.weight": torch.ones(3)}
    network = network_of(state | more, Path("yolact_resnet50_1_2.pth"))
    assert network.state_dict().keys() == state.keys()


def test_names_of_the_pyramid_convert_both_ways():
    network = network_of(blank("yolact_resnet50"), Path("yolact_resnet50_1_2.pth"))
    split = state_of(network, split=True)
    assert split.keys() == blank("yolact_edge_resnet50").keys()
    edge = network_of(split, Path("yolact_edge_resnet50_1_2.pth"))
    assert edge.config == NETWORKS["yolact_edge_resnet50"]
    assert state_of(edge, split=False).keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("proto_net.2.bias"), "lacks 'proto_net.2.bias'"),
        (lambda s: s.pop("backbone.layers.3.1.conv.1.1.num_batches_tracked"), "num_batches_tracked"),
        (lambda s: s.update(extra=torch.ones(1)), "'extra'"),
        (lambda s: s.update({"proto_net.2.bias": torch.ones(3)}), "'proto_net.2.bias'"),
        (lambda s: s.update({"proto_net.2.bias": torch.full((256,), torch.nan)}), "'proto_net.2.bias'"),
        (lambda s: s.update({"proto_net.2.bias": torch.ones(256, dtype=torch.int64)}), "'proto_net.2.bias'"),
        (lambda s: s.pop("semantic_seg_conv.weight"), "'semantic_seg_conv.weight'"),
        (lambda s: s.update({"prediction_layers.0.mask_layer.weight": torch.ones(95, 256, 3, 3)}), "mask_layer.weight"),
        (lambda s: s.pop("backbone.layers.8.0.weight"), "backbone.layers.2"),
    ],
)
def test_other_tensors_are_refused_by_name(change, named):
    state = blank(EDGE)
    change(state)
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        network_of(state, Path(f"{EDGE}_54_800000.pth"))


def test_a_trunk_alone_is_told_apart(tmp_path):
    state = {"layers.0.0.weight": torch.ones(32, 3, 3, 3), "layers.0.1.bias": torch.ones(32)}
    with pytest.raises(ValueError, match="pretrained trunk alone"):
        read_official([saved(state, tmp_path, "mobilenet_v2.pth")])


def test_files_of_unknown_name_say_what_is_assumed(caplog):
    with caplog.at_level(logging.WARNING):
        network = network_of(blank(EDGE), Path("mine.pth"))
    assert network.config == NETWORKS[EDGE]
    assert "input of 550 pixels" in caplog.text


@pytest.mark.parametrize(
    ("stem", "known"),
    [
        ("yolact_base_54_800000", NETWORKS["yolact_base"]),
        ("yolact_base", NETWORKS["yolact_base"]),
        ("yolact_im400_54_800000", NETWORKS["yolact_im400"]),
        ("yolact_resnet50_pascal_120_100", NETWORKS["yolact_resnet50_pascal"]),
        ("yolact_resnet50_54_800000_interrupt", NETWORKS["yolact_resnet50"]),
        ("yolact_edge_vid_resnet50_847_50000", NETWORKS["yolact_edge_vid_resnet50"]),
        ("yolact_darknet53_400_54_800000", at_size(NETWORKS["yolact_darknet53"], 400)),
        ("yolact_darknet53_im400_54_800000", at_size(NETWORKS["yolact_darknet53"], 400)),
        ("yolact_resnet18", None),
        ("cats", None),
    ],
)
def test_names_of_files(stem, known):
    assert _named(Path(f"{stem}.pth")) == known


def test_scales_of_other_sizes_are_the_published_ones():
    for name in ("yolact_im400", "yolact_im700"):
        assert at_size(NETWORKS["yolact_base"], NETWORKS[name].size) == NETWORKS[name]


def test_a_name_that_contradicts_the_tensors_is_refused():
    with pytest.raises(ValueError, match="9"):
        network_of(blank(EDGE), Path("yolact_plus_base_54_800000.pth"))


def test_weights_that_are_no_state_dict_are_refused(tmp_path):
    for content in ({"backbone.conv1.weight": 3}, [1, 2]):
        with pytest.raises(ValueError, match="no state dict"):
            read(saved(content, tmp_path))


def test_fine_tuning_changes_the_layers_of_the_classes_only():
    theirs = blank(EDGE)
    with torch.device("meta"):
        ours = Yolact(replace(NETWORKS[EDGE], classes=("cat", "dog"))).state_dict()
    kept = for_other_classes(theirs, ours)
    assert {key.split(".")[-2] for key in ours.keys() - kept.keys()} == {"conf_layer", "semantic_seg_conv"}
    with pytest.raises(ValueError, match=r"proto_net\.10\.bias"):
        for_other_classes({k: v for k, v in theirs.items() if k != "proto_net.10.bias"}, ours)


def test_only_published_networks_are_written_as_official(tmp_path):
    with torch.device("meta"):
        network = Yolact(FAST)
    with pytest.raises(ValueError, match="mobilenetv2-same"):
        write(network, tmp_path / "fast.pth")
