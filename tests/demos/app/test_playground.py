"""The Playground's callbacks as plain functions, on a random stand-in for the embedded weights."""

import re
import threading
from types import SimpleNamespace

import gradio as gr
import pytest
from app_inputs import PROMPT, SEED, STEPS, Visitor, inputs, is_kept, settings, shown
from PIL import Image

from demos.app import why
from demos.app.controls import NAMES
from demos.app.live import begin, cancel
from demos.app.runs import run
from demos.app.why import said
from guidance import GreedySearch


@pytest.fixture
def visitor(host):
    return Visitor(host)


def click(value):
    return gr.EventData(None, {"pick": value})


def test_updates_come_as_it_samples(visitor):
    first, *steps, last = visitor.generate(methods=("dynamic", "static"), steps=4)
    assert "Starting" in first["line"] and not first["why"].visible and first["seed"] == SEED
    told = [re.search(r"(Dynamic scale|Static), step (\d) of 4", update["line"]).groups() for update in steps]
    assert told == [(label, str(n)) for label in ("Dynamic scale", "Static") for n in range(1, 5)]
    assert steps[0]["stage"].count("<img") == 1 and steps[-1]["stage"].count("<img") == 2
    made = visitor.host.visits.made(visitor.secret, "playground")[-1].what
    dynamic, static = made.rows[0]
    assert list(last["figure"].data[0].y) == dynamic.trace.scales[:, 0].tolist()
    assert list(last["figure"].data[1].y) == static.trace.scales[:, 0].tolist()
    assert last["why"].visible and last["step"].maximum == 4 and "Same prompt, same noise" in last["line"]
    assert last["cards"] == visitor.does.candidates(visitor.secret, last["current"], "dynamic", last["step"].value)
    alts = re.findall(r'alt="([^"]*)"', last["stage"])
    assert alts == [f"{PROMPT}, by {label}, seed {SEED}" for label in ("Dynamic scale", "Static")]
    assert len(re.findall(r'download="[^"]+\.(?:png|json)"', last["stage"])) == 4


def test_several_pictures_and_both_explained(visitor):
    last, made = visitor.finish(methods=("noise", "dynamic"), pictures=2)
    assert last["explained"].visible and last["explained"].value == "noise"
    assert last["stage"].count("data-pick") == 2 and "draws of noise was taken" in last["cards"]
    other = shown(visitor.does.pick_row(visitor.secret, last["current"], click("1")))
    assert f"seed {SEED + 1}" in other["stage"] and other["current"] == (last["current"][0], 1)
    assert list(other["figure"].data[1].y) == made.rows[1][1].trace.scales[:, 0].tolist()
    figure, _, cards = visitor.does.explain(visitor.secret, other["current"], "dynamic")
    assert "draws of noise" not in cards and "of draws" not in str(figure) and "of draws" in str(other["figure"])
    assert visitor.does.reuse(visitor.secret, other["current"])[NAMES.index("seed")] == SEED + 1
    assert visitor.does.last_seed(visitor.secret, other["current"], 99) == SEED + 1
    assert visitor.does.last_seed(visitor.secret, None, 99) == 99
    for bad in ("2", "-1", "x", ""):
        assert all(map(is_kept, visitor.does.pick_row(visitor.secret, last["current"], click(bad))))


def test_what_was_made_before_comes_back(visitor, host):
    first, _ = visitor.finish(methods=("static",), steps=2)
    assert "history" not in first["history"] and not first["why"].visible
    second, _ = visitor.finish(methods=("dynamic",), steps=2, prompt="a <b>fox</b>")
    picks = re.findall(r'data-pick="([^"]+)" aria-pressed="(\w+)"', second["history"])
    assert picks == [(second["current"][0], "true"), (first["current"][0], "false")]
    assert "<b>fox" not in second["history"] + second["stage"]
    again = shown(visitor.does.pick_run(visitor.secret, click(first["current"][0])))
    assert again["current"] == first["current"] and PROMPT in again["stage"]
    assert visitor.does.reuse(visitor.secret, again["current"]) == inputs(host, methods=("static",), steps=2)
    stranger = host.visits.enter(None)
    for secret in (stranger, None):
        assert all(map(is_kept, visitor.does.pick_run(secret, click(first["current"][0]))))
        assert visitor.does.candidates(secret, second["current"], "dynamic", 1) == ""
    with pytest.raises(gr.Error, match="no picture"):
        visitor.does.reuse(stranger, second["current"])

    # and after the page was loaded again
    left = [True, *inputs(host, prompt="a pink heart", draws=5)]
    fresh, *rest = visitor.does.come(visitor.secret, left)
    values, view = rest[: len(left) - 1], shown(rest[len(left) - 1 :])
    assert fresh and values == left[1:] and view["current"] == second["current"]
    for odd in (
        None,
        [],
        [1, 2],
        [False, *inputs(host, steps="many")],
        {"a": 1},
        [False, *[{"x": []}] * (len(left) - 1)],
    ):
        fresh, *rest = visitor.does.come(stranger, odd)
        assert all(map(is_kept, (fresh, *rest)))


def test_a_new_seed_each_time(visitor):
    runs = [[*visitor.generate(fresh=True, methods=("static",), steps=2)] for _ in range(2)]
    seeds = [updates[0]["seed"] for updates in runs]
    assert seeds[0] != seeds[1]
    made = visitor.host.visits.made(visitor.secret, "playground")
    assert [kept.what.rows[0][0].seed for kept in made] == seeds


def test_settings_of_a_picture_that_is_dropped(visitor, host):
    visitor.finish(methods=("dynamic",), steps=2, negative="a fox")
    file = visitor.host.visits.made(visitor.secret, "playground")[-1]
    (png,) = file.folder.glob("*.png")
    assert visitor.does.dropped(png) == inputs(host, methods=("dynamic",), steps=2, negative="a fox")
    with pytest.raises(gr.Error, match="cannot be read"):
        visitor.does.dropped(file.folder / "nothing.png")


def test_advice(visitor, monkeypatch):
    assert "fox" in visitor.does.advise("a fox") and visitor.does.advise(PROMPT) == ""
    monkeypatch.setattr("demos.cut.lost", lambda pipe, prompts: {prompts[0]: "and more"})
    first, *_, last = visitor.generate(prompt="a fox", methods=("static",), steps=2)
    assert "never saw: fox" in first["advice"] and "left out: “and more”" in last["advice"]


def test_candidates_of_a_step(visitor):
    last, made = visitor.finish(methods=("dynamic", "static"), steps=4)
    scales = made.rows[0][0].trace.scales
    for step in range(1, 5):
        html = visitor.does.candidates(visitor.secret, last["current"], "dynamic", step)
        figures = re.findall(r"<figure.*?</figure>", html)
        assert len(figures) == 3
        (marked,) = [figure for figure in figures if "<mark>" in figure]
        assert f"scale {scales[step - 1, 0]:g}<" in marked
        assert ("kept" if step % 2 == 0 else "chosen") in marked  # searched at every second
        assert html.count("clip ") == html.count("combined ") == (0 if step % 2 == 0 else 3)
    for bad in (0, 5, 1.5, "1", None):
        with pytest.raises(gr.Error, match="Step must be"):
            visitor.does.candidates(visitor.secret, last["current"], "dynamic", bad)


def test_cards_tell_scores_apart(host):
    """Of evaluators whose scores of one step are nearly alike."""

    def near(latents, context):
        return 39.9 + 1e-3 * torch_arange(latents.shape[1]).expand(latents.shape[:2])

    from torch import arange as torch_arange

    near.space = "noisy"
    lone = SimpleNamespace(**{name: getattr(host, name) for name in ("pipe", "decode", "sampler", "takes", "judges")})
    lone.default = GreedySearch([near], (1.0, 4.0, 9.0))
    one = settings(host, methods=("dynamic",), steps=2, every=1, weights=(("near", 1.0),))
    picture = run(lone, one, lambda progress: None).rows[0][0]
    assert re.findall(r"near ([^<]+)<", why.candidates(host.decode, picture, 1)) == ["−0.002", "−0.001", "39.9"]
    assert [said([39.9, 39.901, None, 39.9], k, None) for k in range(4)] == ["39.9", "39.901", "—", "39.9"]
    assert [said([39.9, None], k, 1) for k in range(2)] == ["39.9", "—"]
    assert [said([0.5, 0.25, 0.5], k, 0) for k in range(3)] == ["0.5", "−0.25", "+0"]


def test_bad_input_is_a_message_before_any_work(visitor, host):
    with host.turns.turn(), pytest.raises(gr.Error, match="Steps"):  # work would wait for ever
        next(visitor.generate(steps=0))


def test_one_who_waits_is_told_how_long(visitor, host):
    visitor.finish(methods=("static",), steps=2)
    with host.turns.turn(cost=100):
        stop = begin(None)
        waiting = visitor.generate(stop, steps=2)
        next(waiting)
        assert re.search(r">1 before you, about \d+ s<", next(waiting)["line"])
        cancel(stop)
        assert "Cancelled." in list(waiting)[-1]["line"]


def test_cancelling_is_the_last_word_and_a_new_run_has_it(visitor, host):
    stop = begin(None)
    updates = visitor.generate(stop, steps=100)
    next(updates), next(updates)
    cancel(stop)
    rest = [update["line"] for update in updates]
    assert "Cancelled." in rest[-1] and len(rest) < 20
    again = begin(None)
    updates = visitor.generate(again, steps=100)
    next(updates), next(updates)
    stop = begin(again)  # generating anew: what was goes without a word
    assert not [update for update in updates if "Cancelled" in update["line"]]
    assert "Same prompt" in list(visitor.generate(stop, steps=2))[-1]["line"]


def test_leaving_stops_the_work(visitor, host):
    updates = visitor.generate(steps=100)
    next(updates), next(updates)
    updates.close()
    with host.turns.turn():
        assert "step" not in host.pipe.scheduler.__dict__  # nothing of `guide` is left


def test_two_visitors_at_once(host):
    wanted = [{"steps": 3}, {"prompt": "a yellow star", "seed": 5, "static": 8.0, "scales": (2.0, 7.0), "steps": 2}]
    alone = [Visitor(host).finish(**changed)[1] for changed in wanted]
    together = {}

    def visit(i):
        together[i] = Visitor(host).finish(**wanted[i])[1]

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, made in enumerate(alone):
        for one, other in zip(made.rows[0], together[i].rows[0], strict=True):
            assert one.trace.to_dict() == other.trace.to_dict()
            assert one.image.tobytes() == other.image.tobytes()
            assert isinstance(one.image, Image.Image) and STEPS
