"""What guidance must know of a diffusers scheduler: its noise levels, its x0, and a step that leaves no trace."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard

import torch

# A step of these is affine in the model output (a test per scheduler): prev(u + s (c - u)) = prev(u) + s (prev(c) -
# prev(u)), so two steps give every candidate. Clipping and thresholding break it; anything else is stepped per scale.
AFFINE = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


class Scheduler(Protocol):
    """What guidance needs of a diffusers scheduler, whose own base class declares none of it; see `check_supported`."""

    timesteps: torch.Tensor

    @property
    def config(self) -> Mapping[str, Any]: ...

    def step(self, *args: Any, **kwargs: Any) -> Any: ...


def is_affine(scheduler: Scheduler) -> bool:
    """Whether candidates may be formed from two evaluations."""
    if hasattr(scheduler, "affine"):  # `PlainScheduler`
        return scheduler.affine
    clips = scheduler.config.get("clip_sample", False) or scheduler.config.get("thresholding", False)
    return type(scheduler).__name__ in AFFINE and not clips


def _is_flow(scheduler: Scheduler) -> bool:
    if "prediction_type" in scheduler.config:
        return scheduler.config["prediction_type"] == "flow_prediction"
    return hasattr(scheduler, "sigmas") and not hasattr(scheduler, "alphas_cumprod") and not _is_consistency(scheduler)


class _ConsistencyScheduler(Scheduler, Protocol):
    def get_scalings_for_boundary_condition(self, sigma: float) -> tuple[float, float]: ...


def _is_consistency(scheduler: Scheduler) -> TypeGuard[_ConsistencyScheduler]:
    """Whether its model returns the clean latents, but for a boundary condition (CMStochasticIterativeScheduler)."""
    return hasattr(scheduler, "get_scalings_for_boundary_condition")


def check_supported(scheduler: Any) -> None:
    """Raises ValueError where the noise levels of `scheduler` are unknown to `noise_schedule`."""
    known = any(hasattr(scheduler, name) for name in ("sigmas", "alphas_cumprod", "noise_schedule"))
    known = known and hasattr(scheduler, "step")
    if not known or not hasattr(scheduler, "timesteps"):
        raise ValueError(
            f"`scheduler` {type(scheduler).__name__} is not supported: a scheduler must have `timesteps` and `sigmas` "
            "or `alphas_cumprod`, which say how much noise there is, as most of diffusers' do (DDIMScheduler, "
            "FlowMatchEulerDiscreteScheduler, ...)."
        )


def noise_schedule(scheduler: Scheduler) -> list[tuple[float, float]]:
    """``(alpha, sigma)`` with ``latents = alpha · x0 + sigma · noise``, before each step and after the last.

    Call it after ``set_timesteps``; the list is one longer than ``scheduler.timesteps``.
    """
    if hasattr(scheduler, "noise_schedule"):  # `PlainScheduler`
        return scheduler.noise_schedule
    sigmas, timesteps = getattr(scheduler, "sigmas", None), torch.as_tensor(scheduler.timesteps).cpu()
    if sigmas is not None:
        sigmas = _where_it_stands(scheduler, torch.as_tensor(sigmas).cpu().double().clone())
        sigmas = sigmas[: len(timesteps) + 1]
        if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):  # the multistep solvers, flow sigmas included
            levels = (scheduler._sigma_to_alpha_sigma_t(sigma) for sigma in sigmas)
            return [(float(alpha), float(sigma)) for alpha, sigma in levels]
        if _is_flow(scheduler):
            pairs = [(1 - sigma, sigma) for sigma in sigmas.tolist()]
            return [(alpha, sigma) for sigma, alpha in pairs] if _is_inverted(scheduler) else pairs
        return [(1.0, sigma) for sigma in sigmas.tolist()]  # k-diffusion convention
    assert hasattr(scheduler, "alphas_cumprod"), "`check_supported` lets no scheduler without pass"
    kept = scheduler.alphas_cumprod.double().cpu()[timesteps.long()].tolist()
    kept = [*kept, _last_alpha_cumprod(scheduler)]
    if hasattr(scheduler, "initial_alpha_cumprod"):  # DDIM inverted: a timestep says where its step leads
        first = int(timesteps[0]) - scheduler.config["num_train_timesteps"] // len(timesteps)
        start = scheduler.alphas_cumprod[first] if first >= 0 else scheduler.initial_alpha_cumprod
        kept = [float(start), *kept[:-1]]
    return [(a**0.5, max(0.0, 1 - a) ** 0.5) for a in kept]


def _last_alpha_cumprod(scheduler: Any) -> float:
    """``alpha²`` of the latents after the last step."""
    name = type(scheduler).__name__
    if name == "LCMScheduler":  # ends with its clean prediction
        return 1.0
    if name == "TCDScheduler":  # steps to timestep 0
        return float(scheduler.alphas_cumprod[0])
    return float(getattr(scheduler, "final_alpha_cumprod", 1.0))


def _is_inverted(scheduler: Scheduler) -> bool:
    """Whether its sigmas are shares of the picture (Mochi)."""
    return bool(scheduler.config.get("invert_sigmas", False))


def _leads_to_x0(scheduler: Scheduler) -> bool:
    """Whether its velocity is ``x0 - noise`` (Mochi, MiniMax H3), not the other way round."""
    return _is_inverted(scheduler) or type(scheduler).__name__ == "MiniMaxH3Scheduler"


def _where_it_stands(scheduler: Scheduler, sigmas: torch.Tensor) -> torch.Tensor:
    """The sigma of the latents at each step. Some of second order stand between two sigmas at every other one."""
    if type(scheduler).__name__ == "KDPM2DiscreteScheduler":  # the ancestral one stands at the next sigma, as Heun's
        middle = torch.as_tensor(scheduler.sigmas_interpol).cpu().double()  # type: ignore[attr-defined]
        sigmas[1:-1:2] = middle[1:][: len(sigmas) - 2 : 2]
    elif type(scheduler).__name__ == "DPMSolverSDEScheduler":
        sigmas[1:-1:2] = (sigmas[:-2:2] * sigmas[1:-1:2]).sqrt()  # half way in log sigma
    return sigmas


def denoised(
    scheduler: Scheduler, prediction: torch.Tensor, sample: torch.Tensor, level: tuple[float, float]
) -> torch.Tensor:
    """The x0 prediction that `prediction` implies for the latents `sample` at ``level = (alpha, sigma)``."""
    alpha, sigma = level
    if hasattr(scheduler, "precondition_outputs"):  # EDM
        return scheduler.precondition_outputs(sample, prediction, sigma)
    if _is_consistency(scheduler):
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition(sigma)
        return c_out * prediction + c_skip * sample
    if _is_flow(scheduler):
        return sample + sigma * prediction if _leads_to_x0(scheduler) else sample - sigma * prediction
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return (sample - sigma * prediction) / alpha
    if kind == "v_prediction":
        norm = (alpha**2 + sigma**2) ** 0.5
        return alpha / norm**2 * sample - sigma / norm * prediction
    return prediction  # "sample"


def reorder(scheduler: Scheduler, output: Any, rows: torch.Tensor, shape: torch.Size) -> Any:
    """Lets row i of a batch go on from row ``rows[i]``, in the scheduler's history and in what its step returned.

    Args:
        output: of ``scheduler.step``, tuple or object.
        rows: ``(batch,)`` integers.
        shape: of the latents; every tensor of this shape, alone or in a list, is taken to be per row.

    Returns:
        `output` with its rows taken.
    """

    def taken(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value[rows] if value.shape == shape else value
        return type(value)(taken(v) for v in value) if isinstance(value, (list, tuple)) else value

    for key, value in scheduler.__dict__.items():
        if isinstance(value, (list, torch.Tensor)):
            scheduler.__dict__[key] = taken(value)
    if isinstance(output, dict):  # diffusers' outputs are both dict and dataclass
        return type(output)(**{key: taken(value) for key, value in output.items()})
    return taken(output)


@contextmanager
def _randomness_untouched(generator: Any, device: torch.device) -> Iterator[None]:
    """Restores every random state that a scheduler's step may draw from: some ignore the generator they are given."""
    generators = generator if isinstance(generator, list) else [] if generator is None else [generator]
    states = [g.get_state() for g in generators]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)


def probe(
    scheduler: Scheduler,
    prediction: torch.Tensor,
    timestep: torch.Tensor,
    sample: torch.Tensor,
    step_kwargs: dict[str, Any],
) -> torch.Tensor:
    """The next latents that ``scheduler.step`` would return, with neither it nor any generator changed.

    The step runs on a copy that is shallow but for the history: lists, and tensors shaped as the latents (PNDM adds
    into one). Every call draws the same noise.
    """
    arguments = step_kwargs | {"model_output": prediction, "timestep": timestep, "sample": sample, "return_dict": False}
    with _randomness_untouched(step_kwargs.get("generator"), sample.device):
        return _twin(scheduler, sample.shape).step(**arguments)[0]


def probe_draws(
    scheduler: Scheduler,
    prediction: torch.Tensor,
    timestep: torch.Tensor,
    sample: torch.Tensor,
    step_kwargs: dict[str, Any],
    draws: Sequence[list[torch.Generator]],
) -> torch.Tensor:
    """What `probe` returns with the generators of each of `draws`, one for each row: ``(draws, batch, ...)``. It is one
    step of the scheduler, on as many copies of the latents, but where it was told or keeps something for each row."""
    told = any(isinstance(value, torch.Tensor) and value.ndim for value in (timestep, *step_kwargs.values()))
    if told or getattr(scheduler, "noise_sampler", None) is not None:  # a Brownian tree of all rows
        alone = (step_kwargs | {"generator": draw} for draw in draws)
        return torch.stack([probe(scheduler, prediction, timestep, sample, kwargs) for kwargs in alone])

    every = [generator for draw in draws for generator in draw]
    arguments = step_kwargs | {"generator": every, "timestep": timestep, "return_dict": False}
    arguments |= {"model_output": _copies(prediction, len(draws)), "sample": _copies(sample, len(draws))}
    with _randomness_untouched(every, sample.device):
        latents = _twin(scheduler, sample.shape, len(draws)).step(**arguments)[0]
    return latents.unflatten(0, (len(draws), -1))


def _copies(tensor: torch.Tensor, times: int) -> torch.Tensor:
    """So many copies of its rows, one after the other."""
    return tensor.repeat(times, *[1] * (tensor.ndim - 1))


def _twin(scheduler: Scheduler, shape: torch.Size, times: int = 1) -> Scheduler:
    """A copy of `scheduler` that shares no history with it, for `times` as many rows as the latents of `shape` have."""

    def is_history(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.shape == shape

    twin = copy.copy(scheduler)
    for key, value in scheduler.__dict__.items():
        if isinstance(value, list):  # whose items are replaced, not added into
            twin.__dict__[key] = [_copies(v, times) if times > 1 and is_history(v) else v for v in value]
        elif is_history(value):
            twin.__dict__[key] = _copies(value, times)
    twin.__dict__.pop("step", None)  # `OnlineGuider` replaces that of the instance
    return twin
