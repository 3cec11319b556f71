"""The embedded specialists: `training.specialist` on scenes of tinyworld.

    python -m tinyworld.recipes.specialist counting --clip runs/clip/clip --cache runs/latents \\
        --test-cache runs/latents_test --out runs/counting
"""

from collections.abc import Callable

import numpy as np

from training import specialist

from ..captions import is_held_out, parse_caption


def seen_in_training(spoil: Callable) -> Callable:
    """`spoil`, but for the captions of the held-out split: they must not be known as always wrong."""

    def spoil_within(prompt: str, rng: np.random.Generator) -> str:
        for _ in range(20):
            wrong = spoil(prompt, rng)
            try:
                if not is_held_out(parse_caption(wrong)):
                    break
            except ValueError:  # no caption of tinyworld
                break
        return wrong

    return spoil_within


if __name__ == "__main__":
    specialist.main(within=seen_in_training)
