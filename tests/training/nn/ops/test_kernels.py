"""Kernels of the fused op: in the interpreter, compiled ahead of time, on a GPU."""

import json
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.places import ROOT
from tests.training.nn.ops.field_cases import CASES, FAMILIES, differences, field_case, run
from training.nn import ops
from training.nn.ops.field import (
    Density,
    Encoding,
    render_field,
    render_field_reference,
)


@pytest.fixture(scope="module")
def interpreted() -> dict:
    """Run all kernel cases in Triton's interpreter, once."""
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.nn.ops.interpret_field"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_kernels_match_the_reference_in_the_interpreter(interpreted, name):
    limit = 1e-2 if "float16" in name else 1e-4
    for output, error in interpreted[name].items():
        assert error < limit, output


def test_kernels_give_the_same_twice(interpreted):
    assert interpreted["same twice"]


def test_compiling_makes_one_node_of_it(interpreted):
    assert interpreted["compiled"] < 1e-6


def test_op_can_be_differentiated_twice(interpreted):
    assert interpreted["twice differentiated"] < 1e-4


def test_op_keeps_the_rules_of_torch_library(interpreted):
    assert set(interpreted["opcheck"].values()) == {"SUCCESS"}


NETWORKS = {
    "published object": ((60, 8, 128), 5, Encoding(10, extent=2.0), Density(box=1.1), False),
    "fast object": ((27, 3, 64), 0, *FAMILIES["fast"], True),
}
"""(encoded, layers, width), skip, encoding, density, whether each image has weights of its own."""

SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227}
"""KB that a program may have, by compute capability (CUDA C++ Programming Guide, table of technical specifications)."""


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("network", "dtype"), [("published object", torch.bfloat16), ("fast object", torch.float32)], ids=["bf16", "fp32"]
)
def test_kernels_compile_ahead_of_time(network, dtype, backward, capability):
    triton = pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    if ops.interpreting():
        pytest.skip("the interpreter is on: nothing is compiled")
    made = compiled(triton, network, dtype, backward, capability)
    assert len(made.asm["cubin"]) > 1000
    assert made.metadata.shared <= SHARED_MEMORY[capability] * 1024


def compiled(triton, network: str, dtype: torch.dtype, backward: bool, capability: int):
    """Return a kernel compiled for a GPU that need not be here."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from training.nn.ops import field_triton

    sizes, skip_after, encoding, density, own = NETWORKS[network]
    cut = field_triton.launch(
        sizes, skip_after, list(encoding), list(density), dtype=dtype, noise=True, own_weights=own, programs=10_000,
    )  # fmt: skip
    kernel = field_triton.backward_kernel if backward else field_triton.forward_kernel
    low = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}[dtype]
    signature = {}
    for name in kernel.arg_names:
        if name in cut.constants:
            signature[name] = "constexpr"
        elif name.startswith("n_"):
            signature[name] = "i32"
        elif name in ("extent", "amplitude", "log2_damping", "gain", "slope", "radius", "box"):
            signature[name] = "fp32"
        else:
            signature[name] = low if name in ("entry", "hidden", "skip", "kept") else "*fp32"
    place = {name: (i,) for i, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        kernel, signature,
        constexprs={place[k]: v for k, v in cut.constants.items()},
        attrs={place[k]: [["tt.divisibility", 16]] for k, v in signature.items() if v.startswith("*")},
    )  # fmt: skip
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=cut.options)


@pytest.fixture
def fresh_probe():
    ops._triton_works.cache_clear()
    yield
    ops._triton_works.cache_clear()


def test_the_cpu_needs_no_kernels_and_says_nothing(fresh_probe, caplog):
    with caplog.at_level(logging.DEBUG):
        case = field_case("fast")
        render_field(*case.geometry, case.mlp, case.encoding, case.density)
    assert not caplog.records


@pytest.mark.parametrize("trouble", ["no compiler", "no triton", "old GPU"])
def test_a_gpu_without_kernels_is_told_once(fresh_probe, caplog, monkeypatch, trouble):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    old = trouble == "old GPU"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if old else (9, 0))
    if trouble == "no triton":
        monkeypatch.setattr(ops.importlib.util, "find_spec", lambda name: None)

    def fail(device):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setitem(sys.modules, "training.nn.ops.probe_triton", SimpleNamespace(probe=fail))
    words = {"no compiler": "C compiler", "no triton": "pip install triton", "old GPU": "NVIDIA GPU of 2020"}[trouble]
    with caplog.at_level(logging.INFO):
        assert not ops.triton_works("cuda", 0)
        assert not ops.triton_works("cuda", 0)
    (record,) = caplog.records
    assert words in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
class TestOnGpu:
    @pytest.mark.parametrize("width", [64, 128])
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)])
    @pytest.mark.parametrize(("n", "rays", "samples"), [(1, 1, 1), (3, 127, 5), (2, 1000, 13)])
    def test_kernels_are_near_float64(self, family, width, dtype, limit, n, rays, samples):
        """Gradients too, as far as rounding lets them: where it turns a ReLU off, they jump, in PyTorch as here."""
        seed = int(torch.randint(2**31, ()))
        case = field_case(
            family, n=n, rays=rays, samples=samples, width=width, dtype=dtype, noise=True, seed=seed
        ).to(torch.device("cuda"))  # fmt: skip
        if not ops.triton_works("cuda", torch.cuda.current_device()):
            pytest.skip("Triton cannot build kernels here; the log says why")
        torch.use_deterministic_algorithms(True)  # new tensors begin as NaN
        try:
            ours, again = run(render_field, case), run(render_field, case)
        finally:
            torch.use_deterministic_algorithms(False)
        exact = run(render_field_reference, case, torch.float64)
        found, eager = differences(ours, exact), differences(run(render_field_reference, case), exact)
        for name, error in found.items():
            slack = 2 * eager[name] + (1.0 if rays == 1 else limit) if name.startswith("d ") else 0.0
            assert error < limit + slack, (seed, name, error, eager[name])
        assert all(torch.equal(ours[k], again[k]) for k in ours)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_float32_gradients_are_near_float64(self, family):
        """With few octaves no ReLU is so near its corner that rounding decides."""
        case = field_case(family, n=2, rays=100, samples=5, width=64, octaves=2, noise=True).to(torch.device("cuda"))
        found = differences(run(render_field, case), run(render_field_reference, case, torch.float64))
        assert max(found.values()) < 1e-4, found

    @pytest.mark.parametrize("name", CASES)
    def test_small_cases(self, name):
        case = field_case(**CASES[name]).to(torch.device("cuda"))
        found = differences(run(render_field, case), run(render_field_reference, case, torch.float64))
        assert max(found.values()) < (1e-2 if "float16" in name else 1e-4), found

    def test_a_cuda_graph_replays_it(self):
        case = field_case("fast", rays=100, width=64).to(torch.device("cuda"))
        rest = (case.mlp, case.encoding, case.density)
        wanted = render_field(*case.geometry, *rest)  # compiles and probes, which a capture must not
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = render_field(*case.geometry, *rest)
        out.features.zero_()
        graph.replay()
        assert torch.equal(out.features, wanted.features)

    def test_compiling_keeps_it_whole(self):
        case = field_case("fast", rays=100, width=64).to(torch.device("cuda"))
        rest = (case.mlp, case.encoding, case.density)
        out = torch.compile(render_field, fullgraph=True)(*case.geometry, *rest)
        torch.testing.assert_close(out.features, render_field(*case.geometry, *rest).features)
