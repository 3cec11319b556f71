"""The Playground's callbacks as plain functions, on a random stand-in for the embedded weights."""

import math
import re
import threading

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from demos.app.live import begin, cancel, errors_as_messages, live
from demos.app.playground import candidates, generate, said
from demos.app.side_by_side import Decoder, Result, run
from demos.generate import denoise
from guidance import Budget, GreedySearch, NoiseSearch, Static

PROMPT, SEED, STEPS, STATIC = "two red circles above a blue square", 4, 5, 3.0
SEARCH = ("1, 4, 9", 2, 1, 1.0, 0.25, 1.0)
NOISE = ("1, 4, 9", 2, 3, 1.0, 0.25, 1.0)


def pixels(image):
    return np.asarray(image).astype(int)


def finish(host, *inputs) -> Result:
    *_, last = generate(host, threading.Event(), *inputs)
    return last[-1]


def test_updates_come_as_it_samples(host):
    waiting, *steps, last = generate(host, threading.Event(), PROMPT, SEED, STEPS, STATIC, *SEARCH)
    assert "Waiting" in waiting[2] and waiting[-1] is None
    assert [re.search(r"Step (\d) of 5, dynamic (\S+), static 3", update[2])[1] for update in steps] == list("12345")
    assert all(isinstance(image, Image.Image) and image.size == (64, 64) for image in steps[0][:2])
    dynamic, static, line, why, figure, slider, html, result = last
    assert "Same prompt, same noise" in line
    assert (why.visible, slider.maximum) == (True, STEPS)
    assert list(figure.data[0].y) == result.trace.scales[:, 0].tolist()
    assert html == candidates(host, result, slider.value)
    assert abs(pixels(dynamic) - pixels(result.images[0])).max() == 0
    assert abs(pixels(static) - pixels(result.images[1])).max() == 0


@pytest.mark.parametrize("search", [SEARCH, NOISE], ids=["scale", "noise"])
def test_both_pictures_are_those_of_their_guidance_alone(host, search):
    result = finish(host, PROMPT, SEED, STEPS, STATIC, *search)
    static = Static(STATIC)
    object.__setattr__(static, "noises", search[2])  # from the same sampler
    for guidance, image in zip((host.search(*search), static), result.images, strict=True):
        (alone,), trace = denoise(host.pipe, guidance, [PROMPT], [SEED], STEPS)
        assert abs(pixels(alone) - pixels(image)).max() <= 2
        if isinstance(guidance, GreedySearch):
            assert trace.scales[:, 0].tolist() == result.trace.scales[:, 0].tolist()
    assert abs(pixels(result.images[0]) - pixels(result.images[1])).max() > 2


def test_side_by_side_where_the_scheduler_gets_no_generator(stock, monkeypatch):
    """SD3 passes it none: the static picture has draws of its own."""
    pipe = stock("sd3")
    stochastic = pipe.scheduler.from_config(pipe.scheduler.config, stochastic_sampling=True)
    monkeypatch.setattr(pipe, "scheduler", stochastic)

    def level(latents, context):
        return latents.mean(dim=(2, 3, 4))

    level.space = "noisy"
    torch.manual_seed(0)
    search = NoiseSearch([level], (2.0, STATIC), noises=6)
    result = run(pipe, search, PROMPT, SEED, 3, STATIC, Decoder(pipe), lambda progress: None)
    assert (
        len(result.images) == 2 and [step["noise_scores"]["level"].shape for step in result.trace.steps] == [(1, 6)] * 3
    )
    assert abs(pixels(result.images[0]) - pixels(result.images[1])).max() > 2


def test_candidates_are_what_evaluators_see(host):
    seen = []

    def spy(latents, context):
        seen.append(latents[:1].clone())
        return latents.mean(dim=(2, 3, 4))

    search = GreedySearch([spy], (1.0, 4.0, 9.0))
    result = run(host.pipe, search, PROMPT, SEED, 3, STATIC, host.decode, lambda progress: None)
    for step, expected in enumerate(seen[1:]):  # the first is the trial before sampling
        torch.testing.assert_close(result.denoised(step)[None], expected, atol=1e-4, rtol=1e-4)


def test_candidates_of_a_step(host):
    result = finish(host, PROMPT, SEED, STEPS, STATIC, *SEARCH)
    for step in range(1, STEPS + 1):
        html = candidates(host, result, step)
        figures = re.findall(r"<figure.*?</figure>", html)
        assert len(figures) == 3
        (marked,) = [figure for figure in figures if "<mark>" in figure]
        assert f"scale {result.trace.scales[step - 1, 0]:g}<" in marked
        assert ("kept" if step % 2 == 0 else "chosen") in marked  # searched at every second
        assert html.count("clip ") == html.count("combined ") == (0 if step % 2 == 0 else 3)
    assert candidates(host, None, 1) == ""
    for bad in (0, STEPS + 1, 1.5, "1", None):
        with pytest.raises(gr.Error, match="Step must be"):
            candidates(host, result, bad)


def test_cards_tell_scores_apart(host):
    """Of evaluators whose scores of one step are nearly alike."""

    def near(latents, context):
        return 39.9 + 1e-3 * torch.arange(latents.shape[1]).float().expand(latents.shape[:2])

    near.space = "noisy"
    result = run(host.pipe, GreedySearch([near], (1.0, 4.0, 9.0)), PROMPT, SEED, 2, STATIC, host.decode, lambda _: None)
    assert re.findall(r"near ([^<]+)<", candidates(host, result, 1)) == ["−0.002", "−0.001", "39.9"]
    assert [said([39.9, 39.901, None, 39.9], k, None) for k in range(4)] == ["39.9", "39.901", "—", "39.9"]
    assert [said([39.9, None], k, 1) for k in range(2)] == ["39.9", "—"]
    assert [said([0.5, 0.25, 0.5], k, 0) for k in range(3)] == ["0.5", "−0.25", "+0"]


def test_a_weight_of_zero_leaves_an_evaluator_out(host):
    result = finish(host, PROMPT, SEED, 2, STATIC, "1,4", 1, 1, 0, 2.0, 0)
    assert [set(step["scores"]) for step in result.trace.steps] == [{"discriminator"}] * 2


@pytest.mark.parametrize("draws, mark", [(1, "kept"), (3, "chosen")])
def test_a_single_candidate_is_not_searched(host, draws, mark):
    """But draws may be, with it."""
    result = finish(host, PROMPT, SEED, 2, STATIC, "6", 1, draws, 1.0, 1.0, 1.0)
    assert result.trace.scales[:, 0].tolist() == [6, 6]
    assert f"<mark>{mark}" in candidates(host, result, 1)


def test_draws_within_a_budget(host):
    """The sampler draws there, too."""
    _, trace = denoise(host.pipe, Budget(host.search(*NOISE)), [PROMPT], [SEED], 4)
    assert "noise" in trace.steps[0]


GOOD = [PROMPT, SEED, STEPS, STATIC, *SEARCH]
BAD = {
    "blank prompt": (0, "  ", "Prompt"),
    "no prompt": (0, None, "Prompt"),
    "long prompt": (0, "a" * 401, "Prompt"),
    "seed": (1, -1, "Seed"),
    "no seed": (1, None, "Seed"),
    "steps": (2, 0, "Steps"),
    "many steps": (2, 10**6, "Steps"),
    "half a step": (2, 2.5, "Steps"),
    "steps as text": (2, "5", "Steps"),
    "static": (3, math.nan, "Static scale"),
    "negative static": (3, -1, "Static scale"),
    "scales": (4, "1, many", "Candidate scales"),
    "no scales": (4, "", "Candidate scales"),
    "scales repeat": (4, "1, 1.0", "Candidate scales"),
    "many scales": (4, ",".join(map(str, range(17))), "Candidate scales"),
    "every": (5, 0, "Search every"),
    "no draws": (6, 0, "Draws of noise"),
    "many draws": (6, 17, "Draws of noise"),
    "weight": (7, 99, "Weight"),
    "infinite weight": (7, math.inf, "Weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_message_before_any_work(host, case):
    place, value, named = BAD[case]
    inputs = [value if i == place else good for i, good in enumerate(GOOD)]
    with host.lock, pytest.raises(gr.Error, match=named):  # with the lock taken, work would wait for ever
        next(generate(host, threading.Event(), *inputs))


def test_no_weight_at_all(host):
    with pytest.raises(gr.Error, match="Weights"):
        next(generate(host, threading.Event(), *GOOD[:7], 0, 0, 0))


def test_leaving_stops_the_work(host):
    updates = generate(host, threading.Event(), PROMPT, SEED, 100, STATIC, *SEARCH)
    next(updates), next(updates)
    updates.close()
    assert host.lock.acquire(timeout=60)
    assert "step" not in host.pipe.scheduler.__dict__  # nothing of `guide` is left
    host.lock.release()


def test_cancelling_is_the_last_word(host):
    stop = begin(None)
    updates = generate(host, stop, PROMPT, SEED, 100, STATIC, *SEARCH)
    next(updates), next(updates)
    cancel(stop)
    rest = [update[2] for update in updates]
    assert "Cancelled." in rest[-1] and len(rest) < 20
    with host.lock:  # free, and one who waits for it can be cancelled too
        stop = begin(stop)
        waiting = generate(host, stop, PROMPT, SEED, 5, STATIC, *SEARCH)
        next(waiting)
        again = begin(stop)  # generating anew cancels what was
        assert "Cancelled." in next(waiting)[2]
    assert not again.is_set()
    assert "Same prompt" in list(generate(host, again, PROMPT, SEED, 2, STATIC, *SEARCH))[-1][2]


def test_two_visitors_at_once(host):
    wanted = [(PROMPT, 4, 4, 2.0, *SEARCH), ("a yellow star", 5, 3, 8.0, "2,7", 1, 1, 0.5, 0.0, 0.5)]
    alone = [finish(host, *inputs) for inputs in wanted]
    together: dict[int, Result] = {}

    def visit(i):
        together[i] = finish(host, *wanted[i])

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, result in enumerate(alone):
        assert together[i].trace.to_dict() == result.trace.to_dict()
        assert all((pixels(a) == pixels(b)).all() for a, b in zip(together[i].images, result.images, strict=True))


def test_work_that_fails_is_a_message_and_frees_the_model():
    lock = threading.Lock()

    def work(report):
        report(1)
        raise RuntimeError("<b>secret</b> /srv/path")

    def listen():
        with errors_as_messages():
            yield from live(lock, threading.Event(), work)

    updates = listen()
    assert next(updates) == 1
    with pytest.raises(gr.Error) as error:
        next(updates)
    assert "RuntimeError" in error.value.message and "secret" not in error.value.message
    assert lock.acquire(timeout=60)


def test_messages_are_escaped():
    with pytest.raises(gr.Error) as error, errors_as_messages():
        raise ValueError("no <img src=x onerror=alert(1)>")
    assert error.value.message == "no &lt;img src=x onerror=alert(1)&gt;"
