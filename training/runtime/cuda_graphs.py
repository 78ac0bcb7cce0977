"""CUDA graphs of a generator for interactive use: recorded once, replayed for new codes.

At batch 1 a picture takes about two hundred small kernels, whose launches take longer than their work.
"""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from training.batched import fields_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A captured graph, the tensors it reads and those it writes."""

    graph: "torch.cuda.CUDAGraph"
    codes: Any
    options: dict[str, Any]
    layers: Any


class CudaGraphed:
    """A generator's `forward` as CUDA graphs: `generator.forward = CudaGraphed(generator.forward)`.

    Results are exact: the same kernels run. Each shape of codes, and each set of options, has its own graph; on a CPU,
    or with gradients, the function is called directly. The generator's weights must not change.
    """

    def __init__(self, function: Callable[..., Any], most: int = 8) -> None:
        if most < 1:
            raise ValueError(f"{most} recordings are none; give 1 or more")
        self.function, self.most = function, most
        self._kept: dict[Hashable, Recording | None] = {}

    def __call__(self, codes: Any, **options: Any) -> Any:
        """Return `function(codes, **options)`, in tensors of their own."""
        tensors = {k: v for k, v in fields_of(codes).items() if v is not None}
        on_gpu = all(v.is_cuda for v in tensors.values())
        if not on_gpu or torch.is_grad_enabled() or options.get("rng") is not None:
            return self.function(codes, **options)
        key = (_shapes(tensors), _shapes(options))
        if key not in self._kept:
            if len(self._kept) >= self.most:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = self._record(codes, options)
        recording = self._kept[key]
        if recording is None:
            return self.function(codes, **options)
        for name, value in tensors.items():
            getattr(recording.codes, name).copy_(value)
        for name, value in options.items():
            if isinstance(value, Tensor):
                recording.options[name].copy_(value)
        recording.graph.replay()
        return replace(recording.layers, **{k: v.clone() for k, v in fields_of(recording.layers).items()})

    def _record(self, codes: Any, options: dict[str, Any]) -> Recording | None:
        """Return the function captured for codes of these shapes; None, with a log line, if it cannot be captured
        because it synchronises with the GPU."""
        with torch.inference_mode(False), torch.no_grad():
            codes = replace(codes, **{k: v.clone() for k, v in fields_of(codes).items() if v is not None})
            options = {k: v.clone() if isinstance(v, Tensor) else v for k, v in options.items()}
            try:
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):  # kernels are built and memory is found before the capture
                    for _ in range(3):
                        self.function(codes, **options)
                torch.cuda.current_stream().wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    layers = self.function(codes, **options)
            except RuntimeError as error:
                log.warning("pictures are not replayed as CUDA graphs: %s", str(error).splitlines()[0])
                return None
        return Recording(graph=graph, codes=codes, options=options, layers=layers)


def _shapes(values: dict[str, Any]) -> Hashable:
    """Return the key of a recording: tensors by shape and dtype, other values by themselves."""
    return tuple(
        (name, (tuple(v.shape), v.dtype, v.device) if isinstance(v, Tensor) else v) for name, v in values.items()
    )
