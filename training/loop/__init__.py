"""The training loop: `train` takes the steps of a `run`, and `monitor` logs its progress."""
