"""Ground floor: data, training loop, checkpoints and metrics that every generator shares."""
