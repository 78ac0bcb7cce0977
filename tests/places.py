"""Where the project's files are, for tests."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "checkpoints"
CLOTHING = ROOT / "training" / "data" / "clothing"
"""The photos of garments that come with the project."""
