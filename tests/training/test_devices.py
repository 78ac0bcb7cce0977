"""Arithmetic that suits the machine."""

import pytest
import torch

from training.devices import autocast, has_bfloat16


@pytest.mark.parametrize(("instructions", "bf16"), [("DEFAULT", False), ("AVX2", False), ("AVX512", True)])
def test_a_cpu_without_bfloat16_computes_in_float32(monkeypatch, instructions, bf16):
    """Emulated bfloat16 trains at a tenth of the speed."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    x = torch.ones(2, 2)
    with autocast("cpu"):
        assert (x @ x).dtype == (torch.bfloat16 if bf16 else torch.float32)
    with autocast("cpu", bf16=False):
        assert (x @ x).dtype == torch.float32


def test_gpus_always_have_bfloat16(monkeypatch):
    """What the CPU lacks does not matter there."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert has_bfloat16("cuda")
    assert has_bfloat16(torch.device("cuda", 1))
