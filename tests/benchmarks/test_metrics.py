"""The quality benchmark's arithmetic, on numbers worked out by hand."""

import numpy as np
import pytest
import torch

from benchmarks import metrics

CATEGORIES = ("count", "text", "binding")


def test_paired_bootstrap():
    sure = metrics.paired_bootstrap(np.ones((40, 2)))
    assert sure == {"mean": 1.0, "low": 1.0, "high": 1.0}
    rng = np.random.default_rng(0)
    noise = rng.choice([-1, 0, 1], size=(400, 1))
    unsure = metrics.paired_bootstrap(noise)
    assert unsure["low"] < unsure["mean"] < unsure["high"]
    # The interval of a mean: 1.96 standard errors each way.
    assert unsure["high"] - unsure["low"] == pytest.approx(2 * 1.96 * noise.std() / 20, rel=0.1)
    # Two equal seeds of a prompt are one observation, not two.
    assert metrics.paired_bootstrap(np.repeat(noise, 2, axis=1)) == unsure


def test_win_rate():
    scores, other = np.array([[0.9, 0.2], [0.5, 0.5], [0.1, 0.7]]), np.array([[0.1, 0.3], [0.5, 0.5], [0.1, 0.1]])
    assert metrics.win_rate(scores, other)["mean"] == round((1 + 0 + 0.5 + 0.5 + 0.5 + 1) / 6, 4)
    assert metrics.win_rate(scores, other)["ties"] == 0.5
    decided = metrics.win_rate(scores, other)["decided"]
    assert decided["mean"] == round(2 / 3, 4) and decided["low"] <= decided["mean"] <= decided["high"]
    assert metrics.win_rate(other, other) == {"mean": 0.5, "low": 0.5, "high": 0.5, "ties": 1.0, "decided": None}


def test_by_category_and_the_best_of_each():
    categories = ["count", "count", "text", "text"]
    assert metrics.by_category(np.array([1, 0, 1, 1]), categories, CATEGORIES) == {"count": 0.5, "text": 1.0}
    correct = {"a": np.array([1, 1, 0, 0]), "b": np.array([0, 1, 0, 1])}
    best = metrics.best_per_category(correct, categories, CATEGORIES)
    assert best == {"accuracy": 0.75, "chosen": {"count": "a", "text": "b"}}


def test_per_step():
    scale = np.array([[1.0, 2.0], [3.0, 2.0], [8.0, 4.0]])
    found = metrics.per_step(scale, ["count", "count", "text"], CATEGORIES)
    assert found == {"count": {"mean": [2.0, 2.0], "std": [1.0, 0.0]}, "text": {"mean": [8.0, 4.0], "std": [0.0, 0.0]}}


@pytest.fixture(scope="module")
def features():
    return metrics.Features(metrics.real_images(150))


def test_frechet_distance_is_small_for_the_same_distribution_and_grows_with_noise(features):
    same = np.stack([metrics.make_scene(1000 + i, "test").image for i in range(150)])
    noisy = np.random.default_rng(0).integers(0, 256, same.shape, dtype=np.uint8)
    near, far = features.frechet_distance(same), features.frechet_distance(noisy)
    assert near < far / 3
    assert features.frechet_distance(same) == near, "the real pictures stay, those compared before do not"


def test_distances(features):
    images = metrics.real_images(4)
    assert np.isnan(features.distances(images, 1)).all()
    with torch.no_grad():
        f = features.classifier(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    between = lambda i, j: np.linalg.norm(f[i] - f[j])  # noqa: E731
    assert features.distances(images[[0, 0, 1, 2]], 2) == pytest.approx([0, between(1, 2)], abs=1e-3)
    three = np.mean([between(0, 1), between(0, 2), between(1, 2)])
    assert features.distances(images[:3], 3) == pytest.approx([three], abs=1e-3)


def test_diversity_where_right():
    """Of three prompts the first is right throughout by either method."""
    result = {"correct": np.array([1, 1, 1, 1, 0, 1]), "distance": np.array([1.0, 2.0, 3.0])}
    best = {"correct": np.array([1, 1, 0, 1, 1, 1]), "distance": np.array([4.0, 5.0, 6.0])}
    found = metrics.diversity_where_right(result, best, seeds=2)
    minus = {"mean": -3.0, "low": -3.0, "high": -3.0}
    assert found == {"mean": 1.0, "best_static": 4.0, "prompts": 1, "minus": minus}
    none = metrics.diversity_where_right(result | {"correct": np.zeros(6)}, best, seeds=2)
    assert none == {"mean": None, "best_static": None, "prompts": 0, "minus": None}


def test_hindsight():
    """Two methods, two prompts with two seeds each; the evaluator is right about the first and the last image."""
    correct = np.array([[1, 0, 0, 0], [0, 1, 0, 1]])
    scores = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    expected = {"judge": 0.75, "evaluator": 0.5, "other_seeds": 0.5, "other_seeds_overall": 1.0}
    assert metrics.hindsight(correct, scores, seeds=2) == expected
    assert metrics.hindsight(correct, scores, seeds=1)["other_seeds"] is None


def test_the_bootstrap_is_one_of_prompts():
    """As by resampling prompts and averaging each time."""
    rng = np.random.default_rng(3)
    difference = rng.integers(-1, 2, (40, 2)).astype(float)
    drawn = np.random.default_rng(0).integers(40, size=(500, 40))
    low, high = np.quantile(difference.mean(1)[drawn].mean(1), (0.025, 0.975))
    found = metrics.paired_bootstrap(difference, 500)
    assert found == {"mean": round(difference.mean(), 4), "low": round(low, 4), "high": round(high, 4)}
