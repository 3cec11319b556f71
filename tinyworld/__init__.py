"""The embedded default: a small world of shapes and signs whose truth is known, and models trained on it. It knows
pipelines and what is below them, not how its models were trained (`tinyworld.recipes` does), nor who shows them."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
