"""What is asserted of a host: functions that raise AssertionError, run by the tests and by `benchmarks.hosts`, which
tells what they return."""

import copy

import torch
from host import Host

from guidance import Budget, Decision, GreedySearch, NoiseSearch, Static
from pipelines import guide

OWN, CHOSEN = 4.0, 7.5
SCALES = (2.0, OWN, 8.0)
UNGUIDED = {0.0, 1.0}  # the scale of a step that a host does not guide


class Watched:
    """An evaluator that keeps what it was shown, and likes latents that spread little."""

    needs_prompt, in_channels, calibration, video = False, None, None, True

    def __init__(self, space: str = "noisy") -> None:
        self.name = self.space = space
        self.shapes: set[tuple[int, ...]] = set()

    def __call__(self, candidates, context):
        if context.noise_level < 1:  # else it is only being tried
            self.shapes.add(tuple(candidates.shape))
        return -candidates.flatten(2).std(2)


def natural_contrast(candidates, context):
    """README's example, written for pictures."""
    return -(candidates.std(dim=(2, 3, 4)) - 1).abs()


class Leave:
    """Guidance that leaves everything to the pipeline."""

    def decide(self, step):
        return Decision(None, {})


def same(host: Host, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Bit for bit, or within rounding where that is all that `host` allows."""
    off = float((found.double() - expected.double()).abs().max())
    assert torch.equal(found, expected) if host.exact else off < 1e-4, f"off by {off:.2g}"


def is_chosen(host: Host) -> None:
    """With another scale of its own than the one that guidance chooses, the result is the stock pipeline's at the
    chosen one; and so is that at its own. A scale that changes is read anew at every step."""
    pipe = host.make()
    own, expected = host.run(pipe, OWN), host.run(pipe, CHOSEN)
    assert not torch.equal(own, expected), "the scale has no effect: nothing is tested"
    with guide(pipe, Leave()) as traces:
        same(host, host.run(pipe, OWN), own)
    scales = set(traces[0].scales.unique().tolist()) - UNGUIDED
    assert len(scales) > 1 if host.changes else scales == {OWN}, scales
    if not host.changes:
        for scale, stock in ((CHOSEN, expected), (OWN, own)):
            with guide(pipe, Static(scale)) as traces:
                same(host, host.run(pipe, OWN), stock)
            assert len(traces) == 1 and set(traces[0].scales.unique().tolist()) <= {scale} | UNGUIDED
    assert torch.equal(host.run(pipe, OWN), own), "something stayed behind"


class Exact:
    """Guidance that compares the candidates of every step with what the scheduler makes of each scale."""

    def __init__(self) -> None:
        self.off = 0.0

    def decide(self, step):
        candidates = step.candidates(SCALES, "noisy")
        alpha, sigma = step.next_level
        for k, scale in enumerate(SCALES):
            output = step.to_model_output(step.guided(step.full(scale)))
            arguments = step.step_kwargs | {"timestep": step.timestep, "sample": step.sample, "return_dict": False}
            states = torch.random.get_rng_state(), copy.deepcopy(arguments.get("generator"))
            scheduler = copy.deepcopy(step.scheduler)
            drawn = {"generator": states[1]} if states[1] is not None else {}
            following = scheduler.step(model_output=output, **arguments | drawn)[0]
            torch.random.set_rng_state(states[0])
            expected = step.unpack(following).float() / (alpha**2 + sigma**2) ** 0.5
            self.off = max(self.off, float((candidates[:, k] - expected).abs().max() / expected.abs().max()))
        return Decision(None, {})


def candidates_are_steps(host: Host) -> float:
    """What evaluators see of a scale is where the scheduler would go with it; returns by how much it is off."""
    pipe, exact = host.make(), Exact()
    with guide(pipe, exact):
        host.run(pipe, OWN)
    assert exact.off < 1e-3, f"off by {exact.off:.2g}"
    return exact.off


def searches(host: Host) -> bool:
    """A search over scales, of noise where the sampler draws some, and on a budget: they run, and evaluators see the
    layout that is documented. Returns whether there was noise to search."""
    pipe = host.make()
    watched = [Watched("noisy"), Watched("denoised"), natural_contrast]
    for wrap in (lambda search: search, Budget):
        with guide(pipe, wrap(GreedySearch(watched, SCALES))) as traces:
            host.run(pipe, OWN)
        assert set(traces[0].scales.unique().tolist()) <= {*SCALES, *UNGUIDED}
        assert all(step["total"].isfinite().all() for step in traces[0].steps if "total" in step)
    shapes = {shape[2:] for evaluator in watched[:2] for shape in evaluator.shapes}
    assert host.shape in shapes, shapes
    # A video may be made in stretches, lose frames on the way, or begin small.
    assert len({(len(shape), shape[0]) for shape in shapes}) == 1, shapes
    try:
        with guide(pipe, NoiseSearch(watched, noises=2)):
            host.run(pipe, OWN)
    except ValueError as error:
        assert "adds no noise at this step" in str(error), error
        return False
    return True


def is_refused(host: Host) -> str:
    """In words that are true, which it returns, before any denoising, and the stock pipeline is as before."""
    pipe, passes = host.make(), 0

    def count(module, args, output):
        nonlocal passes
        passes += 1

    expected = host.run(pipe, OWN)
    hooks = [m.register_forward_hook(count) for m in (getattr(pipe, n, None) for n in ("unet", "transformer")) if m]
    try:
        with guide(pipe, Static(CHOSEN)):
            host.run(pipe, OWN)
    except ValueError as error:
        assert host.refused in str(error), error
        words = str(error)
    else:
        raise AssertionError("was not refused")
    assert passes == 0, "refused only after denoising had begun"
    for hook in hooks:
        hook.remove()
    assert torch.equal(host.run(pipe, OWN), expected)
    return words


CHECKS = (is_chosen, candidates_are_steps, searches)
