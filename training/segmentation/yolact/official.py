"""The authors' weights files, `CONFIG_EPOCH_ITERATION.pth`, read and written: bare state dicts by their own keys.

What a network consists of is read from the tensors. How large its input is, and which anchors it has, no file says:
that is taken from the config that the file's name begins with.
"""

import io
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.files import write_whole
from training.foreign import tables
from training.official import read_plain
from training.registry import officials
from training.segmentation.yolact.classes import COCO, PASCAL, YOUTUBE_VIS
from training.segmentation.yolact.config import BackboneName, NetworkConfig
from training.segmentation.yolact.network import Yolact
from training.segmentation.yolact.published import NETWORKS

log = logging.getLogger(__name__)

State = dict[str, Tensor]

_SPLIT = (
    (r"^fpn\.lat_layers\.", "fpn_phase_1.lat_layers."),
    (r"^fpn\.(pred_layers|downsample_layers)\.", r"fpn_phase_2.\1."),
)
"""The pyramid's keys in YOLACT's files, and as YolactEdge splits them."""
_JOIN = r"^fpn_phase_[12]\."


def read(path: Path, known: NetworkConfig | None = None) -> Yolact:
    """Return the network that an official weights file holds, in evaluation mode on the CPU.

    `known` gives the input's size and the anchors; by default the config that the file's name begins with does.

    Raises: ValueError for a file that is damaged, of the trunk alone, or with a key that is missing, unexpected or of
    another shape; the key is named.
    """
    content = read_plain(path)
    marks = re.compile(officials()["yolact"].marks)
    for _, table in tables(content):  # without wrappers, and without the prefix that they put before keys
        if any(isinstance(key, str) and marks.fullmatch(key) for key in table):
            return network_of(table, path, known)
    raise ValueError(f"{path.name} is no state dict of YOLACT; expected the authors' CONFIG_EPOCH_ITERATION.pth")


def network_of(table: Mapping[Any, Any], path: Path, known: NetworkConfig | None = None) -> Yolact:
    """Return the network of a state dict that was read from `path`; see `read`."""
    if strange := [key for key, value in table.items() if not (isinstance(key, str) and isinstance(value, Tensor))]:
        raise ValueError(f"{path.name} is no state dict: {strange[0]!r} is no tensor")
    state = _without_leftovers(dict(table))
    if not any(key.startswith("backbone.") for key in state) and any(key.startswith("layers.") for key in state):
        raise ValueError(
            f"{path.name} holds a pretrained trunk alone, from which training begins; expected a whole "
            f"network's, CONFIG_EPOCH_ITERATION.pth"
        )
    structure = _structure(state, path.name)
    config = _of_name(path, structure) if known is None else like(structure, known)
    with torch.device("meta"):  # shapes only: nothing is allocated for a file that does not fit
        network = Yolact(config)
    network.load_state_dict(_checked(state, network, path.name), assign=True)
    return network.requires_grad_(False).eval()


def state_of(network: Yolact, *, split: bool | None = None) -> State:
    """Return the weights by the authors' keys, bit for bit; `split` names the pyramid as YolactEdge (True) or YOLACT
    (False) does, by default as the config says."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    if split is None or split == network.config.split_pyramid:
        return state
    if network.config.video:
        raise ValueError("YOLACT has no network for video; this one's pyramid stays split")
    return {_renamed(key, split): tensor for key, tensor in state.items()}


def write(network: Yolact, path: Path, *, split: bool | None = None) -> None:
    """Write the weights as an official file, whole or not at all; see `state_of`.

    Raises: ValueError for a network that the authors' programs have no config for.
    """
    if network.config.backbone in ("mobilenetv2-folded", "mobilenetv2-same"):
        raise ValueError(f"the authors' programs know no trunk {network.config.backbone}; export to ONNX instead")
    buffer = io.BytesIO()
    torch.save(state_of(network, split=split), buffer)
    write_whole(path, buffer.getvalue())


def _renamed(key: str, split: bool) -> str:
    if not split:
        return re.sub(_JOIN, "fpn.", key)
    for pattern, name in _SPLIT:
        key = re.sub(pattern, name, key)
    return key


def _without_leftovers(state: State) -> State:
    """Return a file's tensors without those that early versions stored twice, or that their networks did not use."""
    unused = re.compile(r"backbone\.layer(?!s).*|fpn\.downsample_layers\.([2-9]|\d\d+)\..*")
    return {key: tensor for key, tensor in state.items() if not unused.fullmatch(key)}


def _structure(state: State, name: str) -> NetworkConfig:
    """Return what the network consists of, with the input and the anchors of the published default."""

    def size(key: str, axis: int = 0) -> int:
        tensor = state.get(key)
        if tensor is None or tensor.ndim <= axis:
            raise ValueError(f"{name} is not whole: {key!r} is missing or has another shape; download it again")
        return tensor.shape[axis]

    split = any(key.startswith("fpn_phase_") for key in state)
    head = "prediction_layers.0"
    n_anchors, left = divmod(size(f"{head}.bbox_layer.weight"), 4)
    n_prototypes = size("proto_net.10.weight")
    if left or not n_anchors or size(f"{head}.mask_layer.weight") != n_anchors * n_prototypes:
        raise ValueError(
            f"{name}: '{head}.mask_layer.weight' has {size(f'{head}.mask_layer.weight')} rows, which {n_prototypes} "
            f"prototypes and '{head}.bbox_layer.weight' do not account for"
        )
    backbone = _backbone(state, name)
    plus = n_anchors == 9
    base = NETWORKS["yolact_plus_base" if plus else "yolact_base"]
    return replace(
        base,
        classes=_names(size("semantic_seg_conv.weight"), name),
        backbone=backbone,
        octaves=base.octaves if n_anchors in (3, 9) else (1.0,) * n_anchors,
        ratios=base.ratios if n_anchors in (3, 9) else (1.0,),
        deformable_every=_interval(state, name) if backbone.startswith("resnet") else 0,
        pyramid_dim=size("fpn_phase_1.lat_layers.0.weight" if split else "fpn.lat_layers.0.weight"),
        protonet_dim=size("proto_net.0.weight"),
        n_prototypes=n_prototypes,
        mask_rescoring=any(key.startswith("maskiou_net.") for key in state),
        split_pyramid=split,
        video=any(key.startswith("flow_net.") for key in state),
    )


def _names(n: int, name: str) -> tuple[str, ...]:
    for known in (COCO, YOUTUBE_VIS, PASCAL):
        if len(known) == n:
            return known
    log.warning("%s has %d classes of unknown names; they are called class 1, class 2, ...", name, n)
    return tuple(f"class {i + 1}" for i in range(n))


def _backbone(state: State, name: str) -> BackboneName:
    if any(key.startswith("backbone._preconv.") for key in state):
        return "darknet53"
    if "backbone.layers.8.0.weight" in state:
        return "mobilenetv2"
    blocks = {match[1] for key in state if (match := re.match(r"backbone\.layers\.2\.(\d+)\.conv1\.weight$", key))}
    known: dict[int, BackboneName] = {6: "resnet50", 23: "resnet101"}
    if len(blocks) not in known:
        raise ValueError(
            f"{name}: its trunk has {len(blocks)} blocks in 'backbone.layers.2'; known are ResNet-50 (6), ResNet-101 "
            f"(23), DarkNet-53 ('backbone._preconv') and MobileNetV2 ('backbone.layers.8.0.weight')"
        )
    return known[len(blocks)]


def _interval(state: State, name: str) -> int:
    """Return how many blocks apart deformable convolutions are; 0 where there are none."""
    pattern = re.compile(r"backbone\.layers\.(\d+)\.(\d+)\.conv2\.conv_offset_mask\.weight")
    found = {(int(m[1]), int(m[2])) for key in state if (m := pattern.fullmatch(key))}
    if not found:
        return 0
    blocks = sorted(block for stage, block in found if stage == 2)
    interval = blocks[1] - blocks[0] if len(blocks) > 1 else 1000
    counts = [len({key.split(".")[3] for key in state if key.startswith(f"backbone.layers.{s}.")}) for s in range(4)]
    wanted = {(stage, block) for stage in (1, 2, 3) for block in range(0, counts[stage], interval)}
    if odd := sorted(found ^ wanted):
        stage, block = odd[0]
        raise ValueError(
            f"{name}: deformable convolutions stand every {interval} blocks, but for "
            f"'backbone.layers.{stage}.{block}.conv2.conv_offset_mask.weight'"
        )
    return interval


def at_size(config: NetworkConfig, size: int) -> NetworkConfig:
    """Return a config for inputs of another side: scales of anchors in proportion, cut to whole pixels."""
    scales = tuple(float(int(scale * size / config.size)) for scale in config.scales)
    return config if size == config.size else replace(config, size=size, scales=scales)


def _named(path: Path) -> NetworkConfig | None:
    """Return the published config that a file's name begins with, if any: CONFIG[_SIZE or _imSIZE]_EPOCH_ITERATION."""
    for name in sorted(NETWORKS, key=len, reverse=True):
        pattern = rf"{name}(?:_im(?P<im>\d+)|_(?P<size>\d+)(?=_\d+_\d+))?(?:_\d.*)?"
        if found := re.fullmatch(pattern, path.stem):
            size = found["im"] or found["size"]
            return at_size(NETWORKS[name], int(size)) if size else NETWORKS[name]
    return None


def _of_name(path: Path, structure: NetworkConfig) -> NetworkConfig:
    """Return the structure with the input and the anchors of the config that the file's name begins with."""
    known = _named(path)
    if known is not None and known.n_anchors != structure.n_anchors:
        raise ValueError(
            f"{path.name} has {structure.n_anchors} anchors a place in 'prediction_layers.0.bbox_layer.weight', the "
            f"config of that name has {known.n_anchors}; name the file after its own config"
        )
    if known is None:
        if structure.n_anchors not in (3, 9):
            raise ValueError(
                f"{path.name} has {structure.n_anchors} anchors a place in 'prediction_layers.0.bbox_layer.weight', "
                f"known configs have 3 or 9"
            )
        known = structure
        anchors = "square ones" if known.square_anchors else "ones of their own ratio"
        log.warning(
            "%s names no published config: taken are an input of %d pixels, anchors of %s pixels, %s; where that is "
            "wrong, name the file CONFIG_EPOCH_ITERATION.pth, with one of %s",
            path.name, known.size, known.scales, anchors, ", ".join(NETWORKS),
        )  # fmt: skip
    return like(structure, known)


def like(structure: NetworkConfig, known: NetworkConfig) -> NetworkConfig:
    """Return the structure with the input and the anchors of another config: what no file says."""
    return replace(
        structure,
        size=known.size,
        scales=known.scales,
        octaves=known.octaves,
        ratios=known.ratios,
        square_anchors=known.square_anchors,
    )


def _checked(state: State, network: Yolact, name: str) -> State:
    """Return `state` if it is exactly what the network needs. Raises: ValueError that names the key."""
    wanted = network.state_dict()
    for key in wanted:
        if key not in state:
            raise ValueError(f"{name} lacks {key!r}; download it again")
    for key, tensor in state.items():
        if key not in wanted:
            raise ValueError(f"{name} holds {key!r}, which a network like the rest of it has not")
        if tensor.shape != wanted[key].shape:
            came, fits = tuple(tensor.shape), tuple(wanted[key].shape)
            raise ValueError(f"{name}: {key!r} is of shape {came}, the rest needs {fits}")
        if tensor.is_floating_point() != wanted[key].is_floating_point() or not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: {key!r} holds values that are no finite weights: the file is damaged")
    return {key: state[key].float() if tensor.is_floating_point() else state[key] for key, tensor in wanted.items()}


CLASS_LAYERS = re.compile(
    r"prediction_layers\.\d+\.conf_layer\..*|semantic_seg_conv\..*|maskiou_net\.maskiou_net\.10\..*"
)
"""Weights that depend on the classes: the only ones that may differ when training continues with other classes."""


VIDEO_LAYERS = re.compile(rf"{CLASS_LAYERS.pattern}|(flow_net|flow_net_pre_convs|spa)\..*")
"""The same, and the layers that networks for single pictures lack."""


def for_other_classes(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], anew: re.Pattern[str] = CLASS_LAYERS
) -> State:
    """Return the weights of `theirs` that initialise a network of other classes: all but those of the layers `anew`
    that are missing or of another shape. The pyramid may be named as YOLACT or as YolactEdge does.

    Raises: ValueError that names the first other key that is missing, unexpected or of another shape.
    """
    split = any(key.startswith("fpn_phase_") for key in ours)
    theirs = {_renamed(key, split): tensor for key, tensor in theirs.items()}
    kept: State = {}
    for key in sorted(theirs.keys() | ours.keys()):
        if key in theirs and key in ours and theirs[key].shape == ours[key].shape:
            kept[key] = theirs[key]
        elif not anew.fullmatch(key):
            a, b = (tuple(side[key].shape) if key in side else "missing" for side in (theirs, ours))
            raise ValueError(f"these weights are of another network: {key!r} is {a} there and {b} here")
    return kept
