"""The raw network as an ONNX file, and that file as a network: boxes are chosen and masks drawn outside of it.

Input `image`: RGB, 0 to 255, float32, 1 x 3 x side x side. Outputs `box_code`, `logits`, `coefficients`, `prototypes`,
as `Predictions` names them. Config and anchors stand in the file.
"""

import copy
import importlib
import json
import logging
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor, nn

from training.devices import has_vnni
from training.files import write_whole
from training.segmentation.contract import Pixels
from training.segmentation.yolact.anchors import make_anchors
from training.segmentation.yolact.config import NetworkConfig
from training.segmentation.yolact.network import Predictions, Yolact
from training.segmentation.yolact.photos import prepare
from training.types import Image

log = logging.getLogger(__name__)

OUTPUTS = ("box_code", "logits", "coefficients", "prototypes")
OPSET = 20
BITS = "bits"
"""Name of a quantised file's note on its weights."""
NEEDED = "python -m pip install 'knobs-without-labels[segment]'"


class _Raw(nn.Module):
    """The network from bytes' numbers to tensors without names."""

    def __init__(self, network: Yolact) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.network.raw(self.network.pyramid(image / 127.5 - 1))


def export(network: Yolact, path: Path) -> None:
    """Write the network as ONNX, atomically, for one picture at a time.

    Raises: ValueError where ONNX is not installed, or for a network with deformable convolutions or mask re-scoring,
        which have no counterpart there.
    """
    if network.config.deformable_every or network.config.mask_rescoring:
        raise ValueError(
            "YOLACT++'s deformable convolutions and mask re-scoring cannot be exported; use the torch model"
        )
    onnx = _imported("onnx", "onnxscript")
    size = network.config.size
    example = torch.zeros(1, 3, size, size)
    raw = _Raw(copy.deepcopy(network).cpu()).eval()
    with torch.no_grad():
        program = torch.onnx.export(
            raw, (example,), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=["image"], output_names=list(OUTPUTS),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = "config", json.dumps(asdict(network.config))
    onnx.checker.check_model(model)
    write_whole(path, model.SerializeToString())


def export_int8(network: Yolact, path: Path, photos: Iterable[Pixels]) -> None:
    """Write the network as ONNX in 8 bits, calibrated on photos; see `export` and `quantise`."""
    config = network.config
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "float.onnx"
        export(network, whole)
        tensors = (torch.from_numpy(np.ascontiguousarray(photo)) for photo in photos)
        quantise(whole, path, (prepare(photo, config.size, letterbox=config.letterbox)[0] for photo in tensors))


def quantise(source: Path, path: Path, pictures: Iterable[Image], *, bits: Literal[7, 8] | None = None) -> None:
    """Write an exported network with 8-bit weights and activations, scaled by what `pictures` cause; 100 will do.

    Weights are signed, with a scale a channel; activations unsigned. Besides convolutions, sums and the nonlinearities
    between them are in 8 bits: with these in float nothing would be gained. By default weights have 8 `bits` where this
    CPU has VNNI instructions, else 7: there ONNX Runtime's sums saturate, which cost .12 of AP instead of .02.

    Raises: ValueError where ONNX Runtime is not installed, or without pictures.
    """
    onnx = _imported("onnx", "onnxruntime")
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest, self.count = iter(pictures), 0

        def get_next(self) -> Any:
            for picture in self.rest:
                self.count += 1
                return {"image": ((picture + 1) * 127.5).numpy()}
            return None

    reader, bits = Reader(), bits or (8 if has_vnni() else 7)
    kind = quantization.QuantType
    with tempfile.TemporaryDirectory() as folder:
        prepared, out = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quantization.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        try:
            quantization.quantize_static(
                str(prepared), str(out), reader, quant_format=quantization.QuantFormat.QDQ, per_channel=True,
                weight_type=kind.QInt8, activation_type=kind.QUInt8, reduce_range=bits == 7,
                op_types_to_quantize=["Conv", "Add", "Clip", "Relu"],
            )  # fmt: skip
        except ValueError as error:
            if reader.count == 0:
                raise ValueError("got no pictures to calibrate with; give some, 100 are enough") from error
            raise
        model = onnx.load(str(out))
        entry = model.metadata_props.add()
        entry.key, entry.value = BITS, str(bits)
        write_whole(path, model.SerializeToString())


class OnnxNetwork:
    """An exported network on ONNX Runtime; called as the network itself."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Open the file. Raises: ValueError for other files, or where ONNX Runtime is not installed."""
        runtime = _imported("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if not path.is_file():
            raise ValueError(f"there is no file {path}; write one with `python -m training segment export`")
        try:
            self.session = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
            about = self.session.get_modelmeta().custom_metadata_map
            self.config: NetworkConfig = TypeAdapter(NetworkConfig).validate_json(about["config"])
        except Exception as error:  # a damaged or other file may raise anything
            raise ValueError(
                f"{path.name} is no network exported by this toolkit ({type(error).__name__}); export it again"
            ) from error
        self.anchors = make_anchors(self.config)
        if about.get(BITS) == "8" and not has_vnni():
            log.warning(
                "%s has 8-bit weights, which are inexact on this CPU: it has no VNNI instructions; export it here",
                path.name,
            )

    @property
    def device(self) -> torch.device:
        """Where its input is expected."""
        return torch.device("cpu")

    def eval(self) -> "OnnxNetwork":
        """Return itself: it does not learn."""
        return self

    def __call__(self, image: Image) -> Predictions:
        """Return the predictions for one picture in [-1, 1]."""
        return self.predict(((image + 1) * 127.5).numpy())

    def predict(self, image: Float[np.ndarray, "1 3 size size"]) -> Predictions:
        """Return the predictions for one picture, RGB in 0 to 255."""
        found: list[Any] = self.session.run(list(OUTPUTS), {"image": np.ascontiguousarray(image, np.float32)})
        named = {name: torch.from_numpy(value) for name, value in zip(OUTPUTS, found, strict=True)}
        return Predictions(**named, anchors=self.anchors)


def _imported(*names: str) -> Any:
    """Return the first of these modules. Raises: ValueError that says how to install them."""
    try:
        modules = [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; run: {NEEDED}") from error
    return modules[0]
