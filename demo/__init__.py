"""The web page: `python -m demo`."""

import training.runtime.threads  # noqa: F401 (before torch)
