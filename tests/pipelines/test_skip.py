"""Unconditional passes that guidance leaves out are really not made, and the other rows notice nothing."""

from functools import partial

import diffusers
import pytest
import torch
from test_hosts import PROMPTS, UncondFirst, text_to_image

from guidance import Budget, Decision, GreedySearch, Interval, Static
from pipelines import DynamicGuidanceStableDiffusionPipeline, best_of, guide
from pipelines.patch import patch, take_rows

SCALE = 6.0
# Of three rows, those without the pass at each step: single ones, all, none, and all of it again.
PLAN = [(), (1,), (0, 2), (0, 1, 2), (), (2,)]
STEPS = len(PLAN)
THREE = [*PROMPTS, "three green squares"]


class Skip:
    """Leaves out the passes of a plan and goes on with the last direction."""

    def __init__(self, plan=PLAN):
        self.plan = plan

    def decide(self, step):
        skip = torch.zeros(len(step.sample), dtype=torch.bool)
        if step.index + 1 < step.num_steps:
            skip[list(self.plan[step.index + 1])] = True
        return Decision(step.full(SCALE), {}, skip=skip)


class Reference:
    """The same, of passes that were all made."""

    def __init__(self, plan=PLAN):
        self.plan = plan

    def decide(self, step):
        direction = step.pred_cond - step.pred_uncond
        if step.index:
            for row in self.plan[step.index]:
                direction[row] = self.last[row]
        self.last = direction
        return Decision(step.full(SCALE), {}, step.pred_cond + (SCALE - 1) * direction)


class Counted:
    """``with Counted(pipe) as rows:`` the rows that reach the denoiser's first layer, call by call."""

    def __init__(self, pipe):
        denoiser = getattr(pipe, "unet", None) or pipe.transformer
        names = ("conv_in", "x_embedder", "pos_embed")
        self.layer = next(
            getattr(denoiser, n) for n in names if isinstance(getattr(denoiser, n, None), torch.nn.Module)
        )

    def __enter__(self):
        rows = []
        self.hook = self.layer.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
        return rows

    def __exit__(self, *exception):
        self.hook.remove()


def expected_rows(layout, plan=PLAN, batch=3):
    per_step = [batch - len(rows) for rows in plan]
    if layout == "batched":
        return [batch + uncond for uncond in per_step]
    pairs = [(batch, uncond) if layout == "cond first" else (uncond, batch) for uncond in per_step]
    return [n for pair in pairs for n in pair if n]


def images(case, pipe, **kwargs):
    return case(pipe, prompt=THREE, **kwargs).images


def hosts(stock):
    """Every layout: name to a call and its layout."""
    call = {"num_inference_steps": STEPS, "output_type": "latent", "height": 16, "width": 16}
    for host in ("sd", "sdxl", "sd3", "flux"):
        case = text_to_image(host)
        negative = {"negative_prompt": [""] * 3} if host == "flux" else {}
        run = partial(images, case, **call, **negative)
        yield host, case.stock(stock), run, "cond first" if host == "flux" else "batched"
    case = text_to_image("flux")
    case.name = "FluxImg2ImgPipeline"
    options = call | {"image": torch.zeros(3, 3, 16, 16), "strength": 1.0, "negative_prompt": [""] * 3}
    yield "flux, nameless", case.stock(stock), partial(images, case, **options), "cond first"
    parts = stock("sd").components
    pipe = UncondFirst(parts["unet"], type(parts["scheduler"]).from_config(parts["scheduler"].config))
    yield "uncond first", pipe, lambda pipe: pipe(THREE, 3.0, STEPS), "uncond first"


def test_every_layout(stock):
    for name, pipe, run, layout in hosts(stock):
        with guide(pipe, Reference()):
            expected = run(pipe)
        with guide(pipe, Skip()) as traces, Counted(pipe) as rows:
            found = run(pipe)
            forward = [m for m in (getattr(pipe, "unet", None), getattr(pipe, "transformer", None)) if m]
            assert "forward" not in forward[0].__dict__, "after the last step it is the denoiser's own again"
        assert rows == expected_rows(layout), name
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
        nfe = [[1 if row in rows else 2 for row in range(3)] for rows in PLAN]
        assert [step["nfe"].tolist() for step in traces[0].steps] == nfe, name
        assert traces[0].nfe.tolist() == torch.tensor(nfe).sum(0).tolist()


@pytest.mark.parametrize("host", ["sd", "flux"])
def test_no_skipping_is_bit_identical(host, stock):
    case = text_to_image(host)
    pipe = case.stock(stock)
    with guide(pipe, Static(SCALE)):
        expected = case(pipe).images
    for guidance in (Skip([()] * 4), Budget(Static(SCALE), tolerance=0.0)):
        with guide(pipe, guidance) as traces:
            found = case(pipe).images
        assert (found == expected).all() and traces[0].nfe.tolist() == [8, 8]


def test_randomness_is_that_of_the_whole_run(stock):
    """A stochastic sampler with a generator for each row; a second call finds nothing of the first."""
    case = text_to_image("sd")
    pipe = case.stock(stock)

    def run(guidance, times=1):
        with guide(pipe, guidance):
            for _ in range(times):
                generators = [torch.Generator().manual_seed(i) for i in range(3)]
                options = {"eta": 1.0, "num_inference_steps": STEPS, "generator": generators}
                images = case(pipe, prompt=THREE, output_type="latent", **options).images
        return images, [g.get_state() for g in generators]

    (expected, states), (found, found_states) = run(Reference()), run(Skip(), 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(states, found_states, strict=True))
    once, _ = run(Skip())
    assert torch.equal(once, found)


@pytest.mark.parametrize("scheduler", [diffusers.DPMSolverMultistepScheduler, diffusers.HeunDiscreteScheduler])
def test_schedulers_with_a_history(scheduler, stock):
    case = text_to_image("sd")
    pipe = case.stock(stock, scheduler=scheduler.from_config(stock("sd").scheduler.config))
    plan = PLAN * 2  # second-order schedulers step twice
    steps = {"num_inference_steps": 6, "output_type": "latent"}
    with guide(pipe, Reference(plan)):
        expected = case(pipe, prompt=THREE, **steps).images
    with guide(pipe, Skip(plan)):
        found = case(pipe, prompt=THREE, **steps).images
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_argument_as_long_as_the_batch_is_not_taken_for_one_of_its_rows(stock):
    """16 images of FLUX, of 16 tokens each."""
    case = text_to_image("flux")
    pipe, prompts = case.stock(stock), ["a star"] * 16
    plan = [(), tuple(range(0, 16, 2))]
    options = {"prompt": prompts, "negative_prompt": [""] * 16, "num_inference_steps": 2, "output_type": "latent"}
    with guide(pipe, Reference(plan)):
        expected = case(pipe, **options).images
    with guide(pipe, Skip(plan)):
        found = case(pipe, **options).images
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_after_an_error_the_denoiser_is_whole(stock):
    case = text_to_image("sd")
    pipe = case.stock(stock)

    def stop(pipe, index, timestep, tensors):
        assert "_compiled_call_impl" in pipe.unet.__dict__
        raise KeyboardInterrupt

    with guide(pipe, Skip([(), (0,), (), ()])):
        with pytest.raises(KeyboardInterrupt):
            case(pipe, callback_on_step_end=stop)
        with Counted(pipe) as rows:
            case(pipe)
        assert rows == [4, 3, 4, 4]
        with pytest.raises(KeyboardInterrupt):
            case(pipe, callback_on_step_end=stop)
    assert "_compiled_call_impl" not in pipe.unet.__dict__


def test_interval_runs_one_pass_where_its_scale_is_1(stock):
    case = text_to_image("sd")
    pipe = case.stock(stock)
    with guide(pipe, Interval(SCALE, 0.4, 0.7)) as traces, Counted(pipe) as rows:
        found = case(pipe, num_inference_steps=6, output_type="latent").images
    assert rows == [4, 2, 4, 4, 2, 2] and traces[0].nfe.tolist() == [9, 9]
    assert traces[0].scales[:, 0].tolist() == [1, 1, SCALE, SCALE, 1, 1]
    scales = iter(traces[0].scales[:, 0].tolist())

    class Whole:
        def decide(self, step):
            return step.full(next(scales)), {}

    with guide(pipe, Whole()):
        expected = case(pipe, num_inference_steps=6, output_type="latent").images
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_search_goes_on_along_the_last_direction(stock):
    seen = []

    def loudest(candidates, context):
        seen.append(candidates[:, -1] - candidates[:, 0])
        return candidates.flatten(2).std(2)

    case = text_to_image("sd")
    pipe = case.stock(stock)
    with guide(pipe, Budget(GreedySearch([loudest], (2.0, 6.0)), tolerance=1e9, recheck=2)) as traces:
        case(pipe)
    assert [step["nfe"].tolist() for step in traces[0].steps] == [[2, 2], [1, 1], [2, 2], [1, 1]]
    ways = [way.flatten(1) for way in seen[1:]]  # the first was the check
    for a, b in ((0, 1), (2, 3)):
        assert torch.cosine_similarity(ways[a], ways[b]).min() > 1 - 1e-5
    assert torch.cosine_similarity(ways[1], ways[2]).max() < 1 - 1e-4


def test_best_of_counts_what_was_run(stock, folder):
    pipe = DynamicGuidanceStableDiffusionPipeline.from_pretrained(folder("sd"))
    pipe.set_progress_bar_config(disable=True)

    def brightness(candidates, context):
        return candidates.flatten(2).mean(2)

    budget = Budget(GreedySearch([brightness], (2.0, 6.0)), tolerance=1e9, recheck=None)
    options = {"num_inference_steps": 4, "output_type": "np"}
    assert best_of(pipe, PROMPTS, 3, [brightness], guidance=budget, **options).nfe == 3 * (2 + 3)
    with guide(stock("sd"), budget):
        assert best_of(stock("sd"), PROMPTS, 3, [brightness], **options).nfe == 3 * (2 + 3)
    assert best_of(stock("sd"), PROMPTS, 3, [brightness], **options).nfe == 3 * 2 * 4


def test_patches_come_off_in_any_order():
    class Model:
        def forward(self, x):
            return x

    def patched():
        model = Model()
        undo = [patch(model, "forward", lambda stock, x, by=by: stock(x) + by) for by in (1, 10, 100)]
        assert model.forward(0) == 111
        return model, undo

    for order in ([2, 1, 0], [0, 1, 2], [1, 2, 0], [1, 0, 2]):
        model, undo = patched()
        for i in order:
            undo[i]()
        assert "forward" not in model.__dict__ and model.forward(0) == 0, order
    model, undo = patched()
    model.forward = replaced = lambda x: -x
    for i in (2, 1, 0):
        undo[i]()
    assert model.forward is replaced, "what others put there stays"


def test_an_error_inside_best_of_leaves_no_count_behind(stock):
    case = text_to_image("sd")
    pipe, calls = case.stock(stock), []

    def fails_late(candidates, context):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return candidates.flatten(2).mean(2)

    options = {"num_inference_steps": 6, "height": 16, "width": 16}
    with guide(pipe, Budget(GreedySearch([fails_late], (2.0, 6.0)), tolerance=1e9)), pytest.raises(KeyboardInterrupt):
        best_of(pipe, PROMPTS, 2, [fails_late], **options)
    assert "forward" not in pipe.unet.__dict__


def test_take_rows():
    keep, rows = torch.tensor([0, 2]), torch.arange(3)
    shared = torch.zeros(3, 3)
    value = {"a": rows, "ids": [rows, torch.tensor(5.0)], "img_ids": shared, "shapes": [[1], [2], [3]], "flag": True}
    found = take_rows(value, 3, keep)
    assert found["a"].tolist() == [0, 2] and found["ids"][0].tolist() == [0, 2] and found["ids"][1] == 5.0
    assert found["img_ids"] is shared and found["shapes"] == [[1], [3]] and found["flag"] is True
