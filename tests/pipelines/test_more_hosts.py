"""Hosts under conditions that pipelines are run in: half precision, offloading, caches, passes left out, errors."""

import gc
import inspect
import threading
import weakref

import diffusers
import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, CpuOffload, add_hook_to_module, remove_hook_from_module
from checks import CHOSEN, OWN, SCALES, UNGUIDED, Leave, Watched
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from hosts import HOSTS

from guidance import Budget, Decision, GreedySearch, Static
from pipelines import guide

USUAL = ("sd", "sdxl", "sd3", "flux", "qwen-image", "z-image", "wan-t2v", "lumina2")
usual = pytest.mark.parametrize("host", [HOSTS[name] for name in USUAL], ids=USUAL)
some = pytest.mark.parametrize("host", [HOSTS[name] for name in ("sd", "flux", "wan-t2v")], ids=("sd", "flux", "wan"))


def denoiser(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


def is_exact(host, pipe, **kwargs):
    """The scale that was chosen makes what the stock pipeline makes with it."""
    expected = host.run(pipe, CHOSEN, **kwargs)
    with guide(pipe, Static(CHOSEN)) as traces:
        found = host.run(pipe, OWN, **kwargs)
    assert torch.equal(found, expected)
    assert not torch.equal(found, host.run(pipe, OWN, **kwargs)), "the scale has no effect: nothing is tested"
    return traces[0]


# -------------------------------------------------------------------------------------------------------- precisions

HALF = (*USUAL, "ltx2", "ltx2-i2v", "prx-pixel", "kolors", "chroma", "hidream", "ltx", "cogvideox-dpm")


@pytest.mark.parametrize("name", HALF)
def test_half_precision(name):
    host = HOSTS[name]
    is_exact(host, host.make().to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n, h in HOSTS.items() if not h.refused])
def test_half_precision_of_every_host(name, dtype):
    host = HOSTS[name]
    pipe = host.make().to(dtype)
    try:
        host.run(pipe, OWN)
    except (RuntimeError, ValueError) as error:
        pytest.skip(f"the stock pipeline does not run: {error}")
    with guide(pipe, Leave()):
        left = host.run(pipe, OWN)
    assert torch.equal(left, host.run(pipe, OWN))
    if not host.changes:
        is_exact(host, pipe)


@usual
def test_modes_of_torch(host):
    pipe = host.make()
    with torch.inference_mode():
        is_exact(host, pipe)
        with guide(pipe, Budget(GreedySearch([Watched(), Watched("denoised")], SCALES))):
            host.run(pipe, OWN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        is_exact(host, pipe)


# ------------------------------------------------------------------------------------------------ passes left out


class Unguided:
    """Guidance that has some rows unguided from the second step on, with or without their unconditional passes."""

    def __init__(self, rows, leaves_out):
        self.rows, self.leaves_out = rows, leaves_out

    def decide(self, step):
        mask = torch.zeros(len(step.sample), dtype=torch.bool)
        mask[self.rows] = True
        scale = step.full(CHOSEN)
        if step.index > step.start_index:
            scale[mask] = step.formula.unguided
        return Decision(scale, {}, skip=mask if self.leaves_out else None)


def leaves_out(host, pipe, rows):
    """How many passes were run, of how many; and the latents are those of all passes but for rounding."""
    with guide(pipe, Unguided(rows, False)) as traces:
        expected = host.run(pipe, OWN)
    every = int(traces[0].nfe.sum())
    with guide(pipe, Unguided(rows, True)) as traces:
        found = host.run(pipe, OWN)
    off = float((found.double() - expected.double()).abs().max())
    assert off < 0.01, off  # Kandinsky 5 rounds to half precision within
    return int(traces[0].nfe.sum()), every


# Z-Image's rows come as a list of latents, of as many channels as there are rows; truncated, it makes one pass at some
# steps. HiDream has layers before rows, Qwen-Image 2.1 a cache of all rows.
ODD = ("z-image", "z-image-truncated", "hidream", "qwen-image-2.1", "flux", "lumina2-truncated")
EVERY = [
    pytest.param(name, id=name, marks=() if name in ODD else pytest.mark.slow)
    for name, host in HOSTS.items()
    if not host.refused
]
WHOLE = ("qwen-image-2.1", "qwen-image-2.1-edit", "glm-image")  # run every pass of which one row is needed


@pytest.mark.parametrize("name", EVERY)
def test_rows_left_out(name):
    host = HOSTS[name]
    pipe = host.make()
    for rows in (slice(0, 1), slice(-1, None), slice(None)):
        run, every = leaves_out(host, pipe, rows)
        assert run <= every
        if name in ODD:
            assert (run < every) == (name not in WHOLE or rows == slice(None))


PYRAMID = PyramidAttentionBroadcastConfig(
    spatial_attention_block_skip_range=2,
    spatial_attention_timestep_skip_range=(0, 1000),
    current_timestep_callback=lambda: 500,
)


@pytest.mark.parametrize("name, cache", [("wan-t2v", FirstBlockCacheConfig(threshold=0.2)), ("ltx", PYRAMID)])
def test_caches_remember_whole_passes(name, cache):
    host = HOSTS[name]
    pipe = host.make()
    plain = host.run(pipe, OWN)
    pipe.transformer.enable_cache(cache)
    try:
        cached = host.run(pipe, OWN)
    except ValueError as error:  # Wan's own call, in diffusers 0.40
        pytest.skip(f"the stock pipeline fails with this cache: {error}")
    assert not torch.equal(cached, plain), "the cache has no effect: nothing is tested"
    is_exact(host, pipe)
    assert leaves_out(host, pipe, slice(0, 1)) == (24, 24)


# ------------------------------------------------------------------------------------------- hooks and replaced parts

HOOKS = {
    "devices": lambda module: add_hook_to_module(module, AlignDevicesHook("cpu", io_same_device=True)),
    "model offload": lambda module: add_hook_to_module(module, CpuOffload("cpu")),
    "sequential offload": lambda module: cpu_offload(module, torch.device("cpu")),
    "group offload": lambda module: module.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    ),
    "layerwise casting": lambda module: module.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
@some
def test_hooks(host, hook):
    pipe = host.make()
    HOOKS[hook](denoiser(pipe))
    is_exact(host, pipe)
    run, every = leaves_out(host, pipe, slice(0, 1))
    assert run < every


@some
def test_hooks_that_come_and_go(host):
    """Within `guide`, and within a call."""
    pipe = host.make()
    expected = host.run(pipe, CHOSEN)

    def change(pipe, step, timestep, tensors):
        if step == 1:
            add_hook_to_module(denoiser(pipe), CpuOffload("cpu"))
        if step == 3:
            remove_hook_from_module(denoiser(pipe))
        return {}

    with guide(pipe, Static(CHOSEN)):
        add_hook_to_module(denoiser(pipe), CpuOffload("cpu"))
        found = [host.run(pipe, OWN)]
        remove_hook_from_module(denoiser(pipe))
        found += [host.run(pipe, OWN), host.run(pipe, OWN, callback_on_step_end=change)]
    found.append(host.run(pipe, CHOSEN))
    assert all(torch.equal(latents, expected) for latents in found)


@usual
def test_attention_slicing_and_parts_replaced_between_calls(host):
    pipe, other = host.make(), host.make()
    for part in (pipe, other):
        if hasattr(denoiser(part), "set_attention_slice"):
            part.enable_attention_slicing()
    with torch.no_grad():
        for parameter in denoiser(other).parameters():
            parameter.mul_(1.1)
    expected, before = host.run(other, CHOSEN), denoiser(pipe)
    with guide(pipe, Static(CHOSEN)):
        assert not torch.equal(host.run(pipe, OWN), expected)
        setattr(pipe, "unet" if hasattr(pipe, "unet") else "transformer", denoiser(other))
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        assert torch.equal(host.run(pipe, OWN), expected)
    assert all("_compiled_call_impl" not in module.__dict__ for module in (before, denoiser(pipe)))


# ------------------------------------------------------------------------------------------------------------- calls


@usual
def test_calls_in_a_row(host):
    """Other numbers of steps, prompts and pictures, generators, and embeddings; in another thread, too."""
    pipe = host.make()
    several = "num_videos_per_prompt" if host.output == "frames" else "num_images_per_prompt"
    alone = {"prompt": "a cat"} | ({"negative_prompt": ""} if "negative_prompt" in host.call() else {})
    calls = [{}, {"steps": 1}, {"steps": 3}, {several: 2}, alone, {}]
    single = [1, 2, 3, 4, 5, None]  # None: a generator for each

    def run(scale):
        generators = ({} if seed is None else {"generator": torch.Generator().manual_seed(seed)} for seed in single)
        return [host.run(pipe, scale, **kwargs | drawn) for kwargs, drawn in zip(calls, generators, strict=True)]

    expected, found = run(CHOSEN), []
    with guide(pipe, Static(CHOSEN)) as traces:
        thread = threading.Thread(target=lambda: found.extend(run(OWN)))
        thread.start()
        thread.join()
        found += run(OWN)
    assert all(torch.equal(latents, stock) for latents, stock in zip(found, [*expected, *expected], strict=True))
    assert [trace.scales.shape[1] for trace in traces] == 2 * [2, 2, 2, 4, 1, 2]
    assert [len(trace.prompt) for trace in traces] == 2 * [2, 2, 2, 4, 1, 2]


@pytest.mark.parametrize("number", [5, np.float32(5), np.float64(5), torch.tensor(5.0)], ids=lambda n: type(n).__name__)
@usual
def test_any_number_may_be_the_pipelines_scale(host, number):
    pipe = host.make()
    own, expected = host.run(pipe, number), host.run(pipe, CHOSEN)
    with guide(pipe, Leave()) as traces:
        assert torch.equal(host.run(pipe, number), own)
    assert set(traces[0].scales.unique().tolist()) <= {5.0} | UNGUIDED
    with guide(pipe, Static(CHOSEN)):
        assert torch.equal(host.run(pipe, number), expected)


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError, ValueError])
@usual
def test_after_an_error_the_next_call_is_whole(host, end):
    """In the denoiser, and in an evaluator."""
    pipe, passes = host.make(), []
    expected, own = host.run(pipe, CHOSEN), host.run(pipe, OWN)

    def fails(*args):
        passes.append(args)
        if len(passes) == 4:
            raise end("enough")

    def judges(candidates, context):
        if context.noise_level < 0.7:
            raise end("enough")
        return -candidates.flatten(2).std(2)

    with guide(pipe, Static(CHOSEN)):
        hook = denoiser(pipe).register_forward_hook(fails)
        with pytest.raises(end, match="enough"):
            host.run(pipe, OWN)
        hook.remove()
        assert torch.equal(host.run(pipe, OWN), expected)
    with pytest.raises(end, match="enough"), guide(pipe, GreedySearch([judges], SCALES)):
        host.run(pipe, OWN)
    assert torch.equal(host.run(pipe, OWN), own)


@usual
def test_nothing_is_kept(host):
    pipe = host.make()
    with guide(pipe, GreedySearch([Watched()], SCALES)) as traces:
        host.run(pipe, OWN)
    kept = [weakref.ref(part) for part in (pipe, denoiser(pipe), pipe.scheduler)]
    del pipe
    gc.collect()
    assert [part() for part in kept] == [None] * 3 and len(traces[0].steps) > 0


SECOND_ORDER = ("Heun", "KDPM2", "KDPM2Ancestral", "DPMSolverSinglestep", "PNDM", "DEISMultistep", "LMS", "TCD", "LCM")


@pytest.mark.parametrize("name", ["sd", "sd-img2img"])
@pytest.mark.parametrize("kind", SECOND_ORDER)
def test_schedulers(kind, name):
    host = HOSTS[name]
    pipe = host.make()
    names = (f"{kind}DiscreteScheduler", f"{kind}Scheduler")
    scheduler = next(getattr(diffusers, n) for n in names if hasattr(diffusers, n))
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    is_exact(host, pipe)
    run, every = leaves_out(host, pipe, slice(0, 1))
    assert run < every
    with guide(pipe, Budget(GreedySearch([Watched()], SCALES))) as traces:
        host.run(pipe, OWN)
    assert int(traces[0].nfe.sum()) <= every


@usual
def test_sigmas_of_ones_own(host):
    pipe = host.make()
    if "sigmas" not in inspect.signature(pipe.__call__).parameters or hasattr(pipe, "unet"):
        pytest.skip("it takes none from 1 to 0")
    trace = is_exact(host, pipe, sigmas=[1.0, 0.8, 0.3, 0.1], steps=4)
    assert len(trace.steps) == 4
