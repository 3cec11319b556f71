"""Reward, text rendering and counting: heads on the features of one latent CLIP."""

import pytest
import torch

from evaluators import (
    Context,
    LatentCounting,
    LatentReward,
    LatentTextRendering,
    load_evaluator,
    load_evaluators,
    score,
)
from evaluators.latent.counting import NUMBER
from evaluators.latent.text import quoted

CLASSES = {"reward": LatentReward, "text": LatentTextRendering, "counting": LatentCounting}
ASKING = {
    "reward": ("a red circle", "two blue stars"),
    "text": ('a red sign saying "CAB"', 'a blue sign saying "HAT"'),
    "counting": ("two red circles", "five blue stars"),
}
every = pytest.mark.parametrize("name", list(CLASSES))


@pytest.fixture
def make(clip):
    def make(name, of=None):
        of = of or clip()
        torch.manual_seed(2)
        sizes = {"reward": {"text_dim": 8}, "text": {"dim": 8}, "counting": {"text_dim": 8, "dim": 8}}
        return CLASSES[name](features=16 * 16, **sizes[name]).eval().read(of)

    return make


def candidates(batch=2, count=3):
    return torch.randn(batch, count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def scores(evaluator, prompt, latents=None, noise_level=0.5):
    return score(evaluator, candidates() if latents is None else latents, Context(prompt, 0.0, noise_level))


@every
def test_scores_depend_on_latents_noise_and_prompt(make, name):
    head = make(name)
    found = scores(head, ASKING[name])
    assert found.shape == (2, 3) and len(found.unique()) == 6
    assert not torch.allclose(found, scores(head, ASKING[name], noise_level=0.2))
    assert not torch.allclose(found, scores(head, ASKING[name][::-1]))
    assert (head.space, head.in_channels, head.needs_prompt) == ("noisy", 4, True)


def test_a_reward_begins_as_its_clip(make, clip):
    of = clip()
    reward = LatentReward(features=16 * 16, text_dim=8).begin_as(of)
    torch.testing.assert_close(scores(reward, ASKING["reward"]), scores(of, ASKING["reward"]))
    assert not torch.allclose(scores(make("reward", of), ASKING["reward"]), scores(of, ASKING["reward"]))


@pytest.mark.parametrize("name", ["text", "counting"])
def test_a_specialist_is_silent_where_it_is_not_asked(make, name):
    head, calls = make(name), []
    head.clip.trunk.patch.register_forward_hook(lambda *_: calls.append(1))
    asked, not_asked = ASKING[name][0], "a red circle on a dark background"
    found = scores(head, (asked, not_asked))
    assert found[0].unique().numel() == 3 and torch.equal(found[1], torch.zeros(3))
    torch.testing.assert_close(found[0], scores(head, ASKING[name])[0])
    assert len(calls) == 2
    assert torch.equal(scores(head, (not_asked,) * 2), torch.zeros(2, 3))
    assert len(calls) == 2, "nobody asked, nothing ran"


def test_who_is_asked():
    assert all(map(NUMBER.search, ("Three cats", "3 cats", "a cat and ten dogs", "10 dogs")))
    assert not any(map(NUMBER.search, ("a cat", "one cat", "someone threw stones", "the year 1234", "often")))
    assert quoted('a sign saying "CAB"') == quoted("“CAB” in neon") == quoted("a sign, 'CAB'") == "CAB"
    assert quoted("the fox's den and the cat's cradle") is None and quoted("a sign") is None
    assert quoted('"A B" over "C"') == "A B"


def test_spelling_tells_letters_and_their_places_apart(make):
    head = make("text")
    with torch.no_grad():
        words = head.spell(["CAB", "CBA", "CA", "cab", "é", "", "CABINETS", "CABINETSHIP"])
    different = torch.cdist(words, words) > 1e-4
    same = {(0, 3), (6, 7)}
    for i in range(8):
        for j in range(i):
            assert bool(different[i, j]) == ((j, i) not in same), (i, j)


def test_clip_looks_once_for_all_its_heads(make, clip):
    shared, calls = clip(), []
    shared.trunk.patch.register_forward_hook(lambda *_: calls.append(1))
    panel = [shared, *(make(name, shared) for name in CLASSES)]
    prompt = ('three red signs saying "CAB"', 'two blue signs saying "HAT"')
    latents = candidates()
    first = [scores(e, prompt, latents) for e in panel]
    assert len(calls) == 1
    again = [scores(e, prompt, latents) for e in panel]
    assert len(calls) == 1 and all(map(torch.equal, first, again))
    moved = latents + 1
    other = [scores(e, prompt, moved) for e in panel]
    assert len(calls) == 2 and not any(map(torch.equal, first, other))
    scores(shared, prompt, latents, noise_level=0.1)
    assert len(calls) == 3
    alone = [scores(e, prompt) for e in [clip(), *(make(name) for name in CLASSES)]]
    assert all(map(torch.equal, first, alone))


@every
def test_saved_without_clip_and_loaded_beside_it(make, name, tmp_path):
    head = make(name)
    head.save_pretrained(tmp_path / name)
    head.clip.save_pretrained(tmp_path / "clip")
    assert not any("clip" in key for key in head.state_dict())
    expected = scores(head, ASKING[name])
    loaded = load_evaluator(name, tmp_path / name)
    assert type(loaded) is CLASSES[name] and not loaded.training
    assert torch.equal(scores(loaded, ASKING[name]), expected)
    panel = load_evaluators({name: tmp_path / name, "clip": tmp_path / "clip"})
    assert [e.name for e in panel] == [name, "clip"] and panel[0].clip is panel[1]


def test_heads_without_clip_share_the_one_beside_them(make, clip, tmp_path):
    clip().save_pretrained(tmp_path / "clip")
    for name in CLASSES:
        make(name).save_pretrained(tmp_path / name)
    panel = load_evaluators({name: tmp_path / name for name in CLASSES})
    assert [e.name for e in panel] == list(CLASSES) and len({id(e.clip) for e in panel}) == 1


@every
def test_another_clip_is_refused(make, clip, name, tmp_path):
    head = make(name)
    head.save_pretrained(tmp_path / name)
    half = clip().half()
    assert CLASSES[name].from_pretrained(tmp_path / name, clip=half).clip is half
    other = clip()
    torch.nn.init.normal_(other.trunk.patch.weight)
    with pytest.raises(ValueError, match=f"'{name}' was trained on another latent CLIP"):
        load_evaluator(name, tmp_path / name, other)


@every
def test_half_precision(make, name):
    head = make(name)
    expected = scores(head, ASKING[name])
    head.clip.to(torch.bfloat16)
    found = scores(head.to(torch.bfloat16), ASKING[name])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1 * expected.abs().max().item())
