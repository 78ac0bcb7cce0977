"""Pretrained trunks: torchvision's published weights, or those of a file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.nn.backbone import load_backbone
from training.official import read_plain
from training.segmentation.yolact.backbone import FoldedMobileNetV2, MobileNetV2, ResNet, Trunk
from training.segmentation.yolact.config import BackboneName

_LEARNT_ANEW = re.compile(r".*(conv2\.bias|conv2\.conv_offset_mask\..*|num_batches_tracked)")
"""Weights that a pretrained file may lack: what is deformable begins as the plain convolution."""


def load_trunk(trunk: Trunk, name: BackboneName, path: Path | None = None) -> None:
    """Give a trunk the pretrained weights of a file, or torchvision's published ones, downloaded once.

    A file holds torchvision's state dict, or one by the authors' keys; for the folded MobileNetV2 also a TorchScript.

    Raises: ValueError for a file that does not fit, or weights that cannot be downloaded.
    """
    if isinstance(trunk, FoldedMobileNetV2):
        trunk.load(load_backbone(path))
        return
    state = _published(name) if path is None else read_plain(path)
    source = "torchvision's weights" if path is None else path.name
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{source} is no state dict; give the trunk's pretrained weights")
    _take(trunk, _by_our_keys(trunk, dict(state)), source)


def folded_name(path: Path | None) -> BackboneName:
    """Return which of the two folded MobileNetV2 pretrained weights are for."""
    return "mobilenetv2-same" if load_backbone(path).same else "mobilenetv2-folded"


def _published(name: BackboneName) -> Any:
    from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, ResNet101_Weights

    known = {
        "resnet50": ResNet50_Weights.IMAGENET1K_V1,
        "resnet101": ResNet101_Weights.IMAGENET1K_V1,
        "mobilenetv2": MobileNet_V2_Weights.IMAGENET1K_V1,
    }
    if name not in known:
        raise ValueError(f"torchvision has no weights of {name}; give a file, --trunk FILE, or --no-pretrained")
    try:
        return known[name].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"the pretrained {name} cannot be downloaded ({reason}); give a file, --trunk FILE, or --no-pretrained"
        ) from error


def _by_our_keys(trunk: Trunk, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under the trunk's keys, without its classifier."""
    state = {key.removeprefix("backbone."): tensor for key, tensor in state.items()}
    state = {key: tensor for key, tensor in state.items() if not re.match(r"(fc|classifier)\.", key)}
    if isinstance(trunk, ResNet):
        return {re.sub(r"^layer(\d)\.", lambda m: f"layers.{int(m[1]) - 1}.", key): t for key, t in state.items()}
    if isinstance(trunk, MobileNetV2) and any(key.startswith("features.") for key in state):
        ours = list(trunk.state_dict())
        if len(ours) != len(state):
            raise ValueError(f"got a MobileNetV2 of {len(state)} tensors, expected {len(ours)}")
        return dict(zip(ours, state.values(), strict=True))
    return state


@torch.no_grad()
def _take(trunk: Trunk, state: dict[str, Tensor], source: str) -> None:
    ours = trunk.state_dict()
    for key, tensor in ours.items():
        if key not in state and not _LEARNT_ANEW.fullmatch(key):
            raise ValueError(f"{source} lacks {key!r} of the trunk")
        if key in state and state[key].shape != tensor.shape:
            came, fits = tuple(state[key].shape), tuple(tensor.shape)
            raise ValueError(f"{source}: {key!r} is of shape {came}, the trunk needs {fits}")
    if surplus := sorted(state.keys() - ours.keys()):
        raise ValueError(f"{source} holds {surplus[0]!r}, which the trunk has not")
    trunk.load_state_dict(state, strict=False)
