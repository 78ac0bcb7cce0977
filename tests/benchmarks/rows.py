"""What the benchmarks share: timing, floors and one JSON line a figure."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Peak(NamedTuple):
    """What a device can do at best: dense products per second and bytes per second."""

    bf16: float
    fp32: float
    """With TF32 where there is one, divided by the three products that make a float32 one of it."""
    memory: float


PEAKS = {
    "H200": Peak(790e12, 395e12 / 3, 4.3e12),
    "H100": Peak(790e12, 395e12 / 3, 3.0e12),
    "A100": Peak(312e12, 156e12 / 3, 1.9e12),
    "RTX 4090": Peak(165e12, 82e12 / 3, 1.0e12),
    "RTX 3090": Peak(71e12, 35e12, 0.93e12),
}
"""By a part of the device's name; for Hopper as a large product and a copy measure, else from the data sheets."""


def peak() -> Peak | None:
    """Return what the GPU can do, if it is known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((value for part, value in PEAKS.items() if part in name), None)


def floors(flops: float, moved: float, dtype: torch.dtype) -> dict[str, float]:
    """Return the least microseconds for `flops` operations and for `moved` bytes on this GPU, where it is known."""
    best = peak()
    if best is None:
        return {}
    rate = best.fp32 if dtype == torch.float32 else best.bf16
    return {"floor_us_flops": 1e6 * flops / rate, "floor_us_bytes": 1e6 * moved / best.memory}


def device_name(device: str) -> str:
    """Return what a row calls its device."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = model[0].partition(":")[2].strip() if model else platform.processor()
    return f"{name}, {torch.get_num_threads()} threads"


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def versions() -> dict[str, str]:
    """Return versions that timings depend on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        import triton
    except ImportError:
        return found
    return found | {"triton": triton.__version__}


class Time(NamedTuple):
    """Median times of one piece of work."""

    wall: float
    """Seconds until it was done."""
    cpu: float
    """Seconds that this process's threads computed: with one thread, `wall` on a machine with nothing else to do."""


def timed(*works: Callable[[], Any], device: str, repeats: int) -> list[Time]:
    """Return how long each work takes, done in turns after two rounds of warming up."""
    times: list[list[Time]] = [[] for _ in works]
    for i in range(repeats + 2):
        for found, work in zip(times, works, strict=True):
            if device == "cuda":
                torch.cuda.synchronize()
            start, cpu = time.perf_counter(), time.process_time()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            if i > 1:
                found.append(Time(time.perf_counter() - start, time.process_time() - cpu))
    return [Time(*(statistics.median(column) for column in zip(*found, strict=True))) for found in times]


def say(what: str, device: str, dtype: torch.dtype, batch: int, **figures: Any) -> None:
    """Print one line: what was measured, where, and the figures to four digits."""
    row = {"what": what, "device": device_name(device), "dtype": str(dtype).removeprefix("torch."), "batch": batch}
    figures = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps(row | figures | versions()), flush=True)


def graphed(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return a replay of `work` as a CUDA graph: what it costs without launching its kernels one by one."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
