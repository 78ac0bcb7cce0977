"""MixNMatch (Li, Singh, Ojha, Lee, CVPR 2020): background, pose, shape and texture, each from its own photo."""

import training.runtime.threads  # noqa: F401 (before torch)
