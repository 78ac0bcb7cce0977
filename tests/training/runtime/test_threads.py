"""Threads of OpenMP sleep while they wait, in every command."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["training", "giraffe_hd", "mixnmatch", "demo"])
def test_waiting_is_decided_before_torch_is_imported(package):
    code = f"import sys, os, {package}; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, expected in (
        (environment, "False PASSIVE"),
        (environment | {"OMP_WAIT_POLICY": "ACTIVE"}, "False ACTIVE"),
    ):
        run = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == expected
