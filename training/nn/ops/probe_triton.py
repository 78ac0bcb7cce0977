"""The smallest kernel: if it runs, Triton has all it needs."""

from typing import no_type_check

import torch
import triton
import triton.language as tl


@triton.jit
@no_type_check
def probe_kernel(out, SIZE: tl.constexpr):  # noqa: D103 (see `probe`)
    tl.store(out + tl.arange(0, SIZE), 1.0)


def probe(device: torch.device) -> None:
    """Compile and run a kernel on `device`; raises whatever is in the way."""
    out = torch.zeros(16, device=device)
    with torch.cuda.device(device):
        probe_kernel[(1,)](out, SIZE=16)
    if float(out.sum()) != 16:
        raise RuntimeError("a kernel ran and wrote nothing")
