"""The embedded default: a small world of shapes and signs whose truth is known, and models trained on it."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
