"""The quality benchmark's own arithmetic, without sampling."""

import numpy as np
import pytest
import torch

from benchmarks import quality
from tinyworld.captions import CATEGORIES, is_held_out, parse_caption
from tinyworld.scenes import make_scene


def test_held_out_prompts_are_held_out_balanced_and_fixed():
    prompts = quality.held_out_prompts(50)
    specs = [parse_caption(p) for p in prompts]
    assert all(is_held_out(spec) for spec in specs)
    assert [spec.category for spec in specs[:5]] == list(CATEGORIES)
    assert prompts == quality.held_out_prompts(50) and prompts != quality.held_out_prompts(50, seed=1)


def test_paired_bootstrap():
    sure = quality.paired_bootstrap(np.ones((40, 2)))
    assert sure == {"mean": 1.0, "low": 1.0, "high": 1.0}
    rng = np.random.default_rng(0)
    noise = rng.choice([-1, 0, 1], size=(400, 1))
    unsure = quality.paired_bootstrap(noise)
    assert unsure["low"] < unsure["mean"] < unsure["high"]
    # The interval of a mean: 1.96 standard errors each way.
    assert unsure["high"] - unsure["low"] == pytest.approx(2 * 1.96 * noise.std() / 20, rel=0.1)
    # Two equal seeds of a prompt are one observation, not two.
    assert quality.paired_bootstrap(np.repeat(noise, 2, axis=1)) == unsure


def test_finished_methods_are_not_made_twice(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"correct": [1, 0], "images": np.zeros((2, 4, 4, 3), np.uint8)}

    first, second = (quality.finished(tmp_path, "static:6", make) for _ in range(2))
    assert len(made) == 1
    assert first["correct"].tolist() == second["correct"].tolist() == [1, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--prompts", "nowhere.txt"], "`--prompts` must be a text file"),
        (["-n", "0"], "`n` must be at least 1"),
        (["--seeds", "0"], "`seeds` must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert quality.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_prompts_outside_the_grammar_are_named_before_anything_runs(tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\na dog\n")
    assert quality.main(["--prompts", str(file)]) == 2
    assert "a dog" in capsys.readouterr().err


def test_frechet_distance_is_small_for_the_same_distribution_and_grows_with_noise():
    real, same = (np.stack([make_scene(s + i, "test").image for i in range(150)]) for s in (0, 1000))
    noisy = np.random.default_rng(0).integers(0, 256, same.shape, dtype=np.uint8)
    real = torch.from_numpy(real).permute(0, 3, 1, 2)
    assert quality.frechet_distance(same, real) < quality.frechet_distance(noisy, real) / 3
