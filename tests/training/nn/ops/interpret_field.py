"""Run the field's kernels in Triton's interpreter, on the CPU, and print how far they are from float64 as JSON.

TRITON_INTERPRET=1 python -m tests.training.nn.ops.interpret_field

A process of its own, because Triton reads that variable when it is imported; `test_field.py` starts it. Every
output begins as NaN, so that a place no kernel writes is seen. The interpreter's bfloat16 products are wrong: not here.
"""

import json

import torch

from tests.training.nn.ops.field_cases import CASES, FieldCase, differences, field_case, leaves_of, run
from training.nn.ops.field import field_composite, render_field, render_field_reference

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def main() -> None:
    """Print one JSON object: case -> output or gradient -> relative error."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # new tensors begin as NaN
    found: dict[str, object] = {}
    for name, options in CASES.items():
        case = field_case(**options)
        exact = run(render_field_reference, case, torch.float64)
        found[name] = differences(run(render_field, case), exact)
    case = field_case(**CASES["fast float32"])
    once, again = run(render_field, case), run(render_field, case)
    found["same twice"] = all(torch.equal(once[k], again[k]) for k in once)
    whole = torch.compile(render_field, fullgraph=True, backend="aot_eager")
    found["compiled"] = max(differences(run(whole, case), once).values())
    found["twice differentiated"] = twice(field_case("fast", n=1, rays=5, samples=2, width=16))
    case = field_case("paper", n=1, rays=3, samples=1, width=16)
    mlp = leaves_of(case.mlp)
    geometry, numbers = (*case.geometry, case.noise), (mlp.skip_after, list(case.encoding), list(case.density))
    tensors = (mlp.entry, mlp.hidden, mlp.skip, mlp.bias, mlp.sigma, mlp.sigma_bias)
    found["opcheck"] = torch.library.opcheck(field_composite, (*geometry, *tensors, *numbers), test_utils=CHECKS)
    print(json.dumps(found))


def twice(case: FieldCase) -> float:
    """Return how far the op's second derivatives are from those of float64."""
    seconds = []
    for render, dtype in ((render_field, torch.float32), (render_field_reference, torch.float64)):
        mlp = leaves_of(case.mlp, dtype)
        origin, direction, t, step = (x.to(dtype) for x in case.geometry)
        out = render(origin, direction, t, step, mlp, case.encoding, case.density)
        first = torch.autograd.grad(out.features.square().sum() + out.alpha.sum(), mlp.bias, create_graph=True)[0]
        seconds.append(torch.autograd.grad(first.square().sum(), mlp.hidden)[0])
    return differences({"hidden": seconds[0]}, {"hidden": seconds[1]})["hidden"]


if __name__ == "__main__":
    main()
