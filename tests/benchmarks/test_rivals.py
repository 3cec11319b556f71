"""Samplers of the rivals: at the neutral value of its knob each is a method that is known, on random weights."""

from dataclasses import replace

import pytest
import torch

import tinyworld
from benchmarks import embedded as embedded_model
from benchmarks import pictures, rivals
from benchmarks.provenance import weights_digest
from benchmarks.rivals import annealing
from benchmarks.rivals.epsilon_greedy import EpsilonGreedy, neighbour
from benchmarks.rivals.foresight import Foresight
from benchmarks.rivals.initial_noise import ZeroOrder
from benchmarks.rivals.model import Model
from benchmarks.rivals.rollover import Rollover
from evaluators.base import FunctionEvaluator
from guidance import CFGPlusPlus, GreedySearch, NoiseSearch, Static
from guidance.panel import Panel
from pipelines import guide

PROMPTS = ["a red circle", "two blue stars"]
STEPS = 4


def level(candidates, context):
    """Higher where the latents are."""
    return candidates.flatten(2).mean(2)


PANEL = Panel([FunctionEvaluator(level, "level", "noisy")])


@pytest.fixture
def pipe(embedded):
    pipe = embedded_model.load()
    pipe.guidance = None
    return pipe


def generators(first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(len(PROMPTS))]


@torch.no_grad()
def by(sampler, pipe, steps=STEPS):
    model = Model(pipe, PROMPTS, generators(), steps)
    return sampler(model).latents, model


def stock(pipe, guidance, **kwargs):
    with guide(pipe, guidance):
        return pipe(PROMPTS, num_inference_steps=STEPS, generator=generators(), output_type="latent", **kwargs).images


def test_foresight_without_iterations_is_cfg_plus_plus(pipe):
    plain, model = by(Foresight(0.6, 3.0, 0), pipe)
    torch.testing.assert_close(plain, stock(pipe, CFGPlusPlus(0.6)), rtol=1e-3, atol=1e-3)
    assert model.passes.tolist() == [2 * STEPS] * 2
    sought, model = by(Foresight(0.6, 3.0, 2), pipe)
    assert not torch.allclose(sought, plain, atol=1e-2)
    assert set(model.passes.tolist()) == {Foresight(0.6, 3.0, 2).passes(STEPS)} == {14}


@torch.no_grad()
def test_foresight_leaves_the_golden_path_alone(pipe):
    """Where both predictions are of one clean picture, an iteration leads back to where it began."""
    model, clean = Model(pipe, PROMPTS, generators(), STEPS), torch.randn(2, 4, 16, 16, generator=generators()[0])

    def velocity(latents, index):
        alpha, sigma = model.level(index, len(latents))
        return (alpha * latents - clean) / sigma

    model.predict = lambda latents, index: (velocity(latents, index),) * 2
    model.uncond = velocity
    latents = model.draw()
    torch.testing.assert_close(Foresight(0.6, 3.0, 1).calibrated(model, latents, 0, 2), latents, rtol=1e-3, atol=1e-3)
    assert Foresight(0.6, 3.0, 4).plan(40) == {0: 2, 5: 1, 15: 1} and sum(Foresight(1, 3, 5).plan(17).values()) == 5


def test_epsilon_greedy_with_new_draws_alone_is_the_noise_search(pipe):
    found, model = by(EpsilonGreedy(PANEL, 3.0, 1.0, 0.15, rounds=1, candidates=3), pipe)
    search = NoiseSearch(list(PANEL.evaluators.values()), [3.0], noises=3)
    torch.testing.assert_close(found, stock(pipe, search, eta=1.0), rtol=1e-3, atol=1e-3)
    assert model.passes.tolist() == [2 * STEPS] * 2
    near, _ = by(EpsilonGreedy(PANEL, 3.0, 0.0, 0.3, rounds=2, candidates=3), pipe)
    assert not torch.allclose(near, found, atol=1e-2)


def test_a_neighbour_is_noise():
    one, other = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    for radius in (0.15, 0.7):
        near = neighbour(one, other, radius)
        assert near.std() == pytest.approx(1, abs=0.02)
        assert (near * one).mean() == pytest.approx((1 - radius**2) ** 0.5, abs=0.02)
    assert torch.equal(neighbour(one, other, 1.0), other)


def test_rollover_without_a_budget_is_ancestral_sampling(pipe):
    plain, model = by(Rollover(PANEL, 3.0, 1, 1), pipe)
    torch.testing.assert_close(plain, stock(pipe, Static(3.0), eta=1.0), rtol=1e-3, atol=1e-3)
    assert model.passes.tolist() == [2 * STEPS] * 2


def test_rollover_rolls_over(pipe):
    """Rows go on at their own pace, every one with the same passes, and a better prediction is never lost."""
    rival = Rollover(PANEL, 3.0, 3, 2)
    seen, look = [], Rollover.look

    def watch(self, model, latents, index):
        seen.append(torch.as_tensor(index).expand(len(latents)).clone())
        return look(self, model, latents, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rollover, "look", watch)
        _, model = by(rival, pipe)
    assert set(model.passes.tolist()) == {rival.passes(STEPS)} == {2 * (2 + 9)}
    at = torch.stack(seen[2:])
    assert (at.diff(dim=0) >= 0).all() and at[0].tolist() == [1, 1] and at[-1].tolist() == [3, 3]
    times = [[int((at[:, row] == i).sum()) for i in (1, 2, 3)] for row in range(2)]
    assert all(a <= 3 and a + b <= 6 and sum((a, b, c)) == 9 for a, b, c in times)


def test_zero_order_with_new_draws_is_best_of(pipe):
    pipe.guidance = GreedySearch(list(PANEL.evaluators.values()), [2.0, 3.0])
    rows = [(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    best = pictures.make(pipe, rivals.Method(Static(3.0), 2, True, STEPS), rows)
    method = rivals.Method(sampler=ZeroOrder(PANEL, 3.0, 1.0, 1, 1), steps=STEPS)
    found = pictures.make(pipe, method, rows)
    assert abs(best["images"].astype(int) - found["images"]).max() <= 1
    assert best["nfe"].tolist() == found["nfe"].tolist() == [method.passes] * 2 == [16, 16]
    with_near = pictures.make(pipe, replace(method, sampler=ZeroOrder(PANEL, 3.0, 0.3, 2, 1)), rows)
    assert with_near["nfe"].tolist() == [24, 24]


def test_annealing_at_one_strength_is_cfg_plus_plus(pipe):
    network = annealing.Strength()
    for parameter in network.head[-1].parameters():
        torch.nn.init.zeros_(parameter)
    network.head[-1].bias.data.fill_(-0.4)
    found = stock(pipe, annealing.Annealing(network, 0.5))
    torch.testing.assert_close(found, stock(pipe, CFGPlusPlus(0.6)), rtol=1e-3, atol=1e-3)


def test_annealing_is_trained(pipe, tmp_path, monkeypatch):
    """Training moves the network and not the model, is the same twice, and is refused for other weights."""
    before = [p.clone() for p in pipe.unet.parameters()]
    one, other = (annealing.train(pipe, updates=2, batch=2, steps=STEPS) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, pipe.unet.parameters(), strict=True))
    torch.manual_seed(0)
    assert not torch.equal(annealing.Strength().head[0].weight, one.head[0].weight), "it learned"
    monkeypatch.setattr(annealing, "FILE", tmp_path / "annealing.safetensors")
    assert annealing.trained("mine") is None
    annealing.save_file(one.state_dict(), annealing.FILE, {"weights": "mine"})
    assert annealing.trained("other") is None
    loaded = annealing.trained("mine")
    assert torch.equal(loaded.head[0].weight, one.head[0].weight) and loaded.typical == one.typical
    sampled = [stock(pipe, annealing.Annealing(loaded, balance)) for balance in (0.0, 1.0)]
    assert not torch.equal(*sampled)


def test_annealing_is_of_the_weights_that_ship():
    """Where it is of others, the family is silently not compared."""
    assert annealing.trained(weights_digest(tinyworld.WEIGHTS / "text_to_image")) is not None


@torch.no_grad()
def test_the_losses_of_annealing(pipe):
    """The error of the guided noise is least where the model knows the noise; no guidance leaves both apart."""
    model = Model(pipe, PROMPTS, generators(), STEPS)
    clean = torch.randn(2, 4, 16, 16, generator=generators()[0])
    index = torch.tensor([1, 2])

    def known(latents, index, rows=None):
        alpha, sigma = model.level(index, len(latents))
        uncond = (alpha * latents - clean) / sigma
        return uncond + 0.5, uncond

    model.predict = known
    network = lambda value: lambda timestep, norm, balance: torch.full_like(norm, value)  # noqa: E731
    errors = [annealing.losses(model, network(v), clean, index, index, generators()[0])[0] for v in (0.0, 1.0)]
    alpha, _ = (x.flatten() for x in model.level(index, 2))
    torch.testing.assert_close(errors[0], torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(errors[1], (0.5 * alpha) ** 2, rtol=1e-2, atol=1e-4)


def test_embeddings_are_noised_more_where_there_is_more_noise():
    text, noise = torch.randn(2, 2, 7, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(annealing.noised(text, torch.zeros(2), noise), text, atol=1e-4)
    some, most = (annealing.noised(text, torch.full((2,), t), noise) for t in (0.9, 0.9999))
    assert (some - text).norm() < (most - text).norm()
    assert most.std((1, 2)).tolist() == pytest.approx(text.std((1, 2)).tolist(), rel=1e-3)
