"""Conformance cases: inputs and outputs of the authors' own programs, with weights that are made, not stored.

A case is a folder beside this file. Its `case.json` lists each tensor of the authors' checkpoint by its own key; `fill`
turns such a list into the same values on every machine. Its `arrays.npz` holds inputs (`in_...`) and outputs.
"""

import argparse
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from giraffe_hd.codes import Codes
from giraffe_hd.paper.prior import elevation_of

HERE = Path(__file__).resolve().parent


def load_case(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a case's description (settings, manifests under `checkpoint`) and its arrays, inputs and outputs alike."""
    case = json.loads((HERE / name / "case.json").read_text())
    with np.load(HERE / name / "arrays.npz", allow_pickle=False) as arrays:
        return case, {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def fill(manifest: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """Return the state dict that `manifest` describes.

    An entry is `{"shape", "int"}` for a counter, `{"shape", "value"}` for a constant, or `{"shape", "mean", "std"}`
    for normal values (of `|x|` with `"positive"`) drawn from NumPy's Mersenne Twister seeded with the key's CRC-32.
    """
    return {key: _tensor(key, spec) for key, spec in manifest.items()}


def _tensor(key: str, spec: dict[str, Any]) -> Tensor:
    if "int" in spec:
        return torch.tensor(spec["int"], dtype=torch.int64)
    if "value" in spec:
        return torch.tensor(spec["value"], dtype=torch.float32).reshape(spec["shape"])
    # The authors' outputs were made with this generator: another one would make other weights.
    draw = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(spec["shape"])
    if spec.get("positive"):
        draw = np.abs(draw)
    return torch.from_numpy((spec["mean"] + spec["std"] * draw).astype(np.float32))


def write_compcar(path: Path) -> tuple[Codes, dict[str, Tensor]]:
    """Write the CompCar case's checkpoint as GIRAFFE HD's authors save it; return the case's inputs as our codes, and
    its arrays."""
    case, arrays = load_case("giraffehd_compcar_128")
    settings = dict(case["settings"])
    settings["res_vol"] = settings.pop("resolution_vol")
    torch.save({"g_ema": fill(case["checkpoint"]["g_ema"]), "args": argparse.Namespace(**settings)}, path)
    codes = Codes(
        z_s_fg=arrays["in_z_shape_fg"],
        z_a_fg=arrays["in_z_appearance_fg"],
        z_s_bg=arrays["in_z_shape_bg"],
        z_a_bg=arrays["in_z_appearance_bg"],
        azimuth=2 * math.pi * arrays["in_u"][:, 0],
        elevation=elevation_of(arrays["in_v"][:, 0]),
        radius=arrays["in_radius"][:, 0],
        scale=arrays["in_scale"],
        translation=arrays["in_translation"],
        rotation=2 * math.pi * arrays["in_rotation"][:, 0],
    )
    return codes, arrays


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the root mean square of the difference over the standard deviation of `theirs`."""
    return float((ours - theirs).square().mean().sqrt() / theirs.std(correction=0))
