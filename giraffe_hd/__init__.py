"""GIRAFFE HD (Xue, Li, Singh, Lee, CVPR 2022): an object in a 3D box, a camera, a background, and their knobs."""

import training.runtime.threads  # noqa: F401 (before torch)
