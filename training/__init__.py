"""Ground floor: data, training loop, checkpoints and metrics that every generator shares."""

import training.runtime.threads  # noqa: F401 (before torch)
