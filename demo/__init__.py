"""The web page: `python -m demo`."""
