"""Data, training loop, checkpoints and metrics shared by all models."""

import training.runtime.threads  # noqa: F401 (before torch)
