"""The training loop: `train` goes through steps of a `run`, `monitor` shows how it stands."""
