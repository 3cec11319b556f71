"""Previews of latents, and how judges of pictures take part in a search."""

import pytest
import torch
from diffusers import AutoencoderTiny
from tiny import flow_vae, vae

from evaluators import FunctionEvaluator
from evaluators.pixel import PixelEvaluator, preview
from evaluators.pixel.base import centre_crop, normalise, resize
from evaluators.pixel.preview import TINY, decode, encode, family_of, make_preview
from guidance import Budget, GreedySearch, GuidedSampling, NoiseSearch, PlainScheduler
from pipelines import best_of, guide

PROMPT = ["two red circles", "a blue star"]


class Bright(PixelEvaluator):
    """Likes bright pictures; keeps what it was shown."""

    name, resolution, every = "bright", 8, 1

    def __init__(self, **window):
        super().__init__()
        self.shown = []
        self.__dict__ |= window

    def judge(self, images, prompts):
        self.shown.append((tuple(images.shape), float(images.min()), float(images.max()), prompts))
        return images.mean((1, 2, 3))


def call(pipe, **kwargs):
    options = {"num_inference_steps": 4, "height": 16, "width": 16, "output_type": "latent"} | kwargs
    return pipe(PROMPT, generator=torch.Generator().manual_seed(0), **options).images


@pytest.fixture(params=[vae, flow_vae], ids=["scaled", "shifted"])
def autoencoder(request):
    torch.manual_seed(0)
    return request.param()


def test_the_vae_decodes_what_pipelines_do(autoencoder):
    latents = torch.randn(2, 4, 8, 8)
    config = autoencoder.config
    with torch.no_grad():
        raw = autoencoder.decode(latents / config.scaling_factor + (config.shift_factor or 0.0)).sample
        torch.testing.assert_close(decode(autoencoder, latents), ((raw + 1) / 2).clamp(0, 1))
        pictures = torch.rand(2, 3, 16, 16)
        mode = autoencoder.encode(pictures * 2 - 1).latent_dist.mode()
        expected = (mode - (config.shift_factor or 0.0)) * config.scaling_factor
    torch.testing.assert_close(encode(autoencoder, pictures), expected, rtol=1e-4, atol=1e-5)


def test_the_linear_map_is_the_best_of_its_kind(autoencoder, monkeypatch):
    """On an encoder that is linear itself it is exact; it is fitted once a VAE."""
    mix = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))

    def linear_encode(vae, pictures):
        pooled = torch.nn.functional.avg_pool2d(pictures, 2)
        return torch.einsum("nchw,dc->ndhw", pooled, mix) + 0.3

    monkeypatch.setattr(preview, "encode", linear_encode)
    shown = make_preview(autoencoder, "linear")
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = torch.nn.functional.avg_pool2d(pictures, 2)
    torch.testing.assert_close(shown(linear_encode(None, pictures)), expected, rtol=1e-3, atol=1e-3)
    assert make_preview(autoencoder, "linear") is shown


def test_the_tiny_decoder_is_chosen_by_family(tmp_path, monkeypatch):
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    numbers = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    tiny = AutoencoderTiny(**blocks, **numbers, latent_channels=4)
    tiny.save_pretrained(tmp_path / "taesdxl")
    xl = vae(scaling_factor=0.13025)
    assert TINY[family_of(xl)] == "madebyollin/taesdxl"
    monkeypatch.setitem(TINY, family_of(xl), str(tmp_path / "taesdxl"))
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        expected = ((tiny.eval().decode(latents).sample + 1) / 2).clamp(0, 1)
    for kind in ("tiny", "auto"):
        torch.testing.assert_close(make_preview(xl, kind)(latents), expected)
    with torch.no_grad():
        half = ((tiny.decode(latents.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))).sample + 1) / 2).clamp(
            0, 1
        )
    torch.testing.assert_close(make_preview(xl, "half")(latents), half)
    assert make_preview(xl, "linear")(latents).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    "numbers, family",
    [
        ((4, 0.18215, None), "madebyollin/taesd"),
        ((16, 1.5305, 0.0609), "madebyollin/taesd3"),
        ((16, 0.3611, 0.1159), "madebyollin/taef1"),
    ],
)
def test_the_families(numbers, family):
    channels, scaling, shift = numbers
    assert TINY[family_of(vae(channels, scaling_factor=scaling, shift_factor=shift))] == family


def test_what_previews_refuse(autoencoder, monkeypatch):
    with pytest.raises(ValueError, match="`preview` must be one of auto, tiny, half, linear, vae"):
        make_preview(autoencoder, "taesd")
    with pytest.raises(ValueError, match="`preview` needs a VAE"):
        make_preview(None, "auto")
    if family_of(autoencoder) not in TINY:
        with pytest.raises(ValueError, match="no tiny decoder for AutoencoderKL"):
            make_preview(autoencoder, "tiny")
        with pytest.raises(ValueError, match="no tiny decoder for AutoencoderKL"):
            make_preview(autoencoder, "half")
    missing = vae(scaling_factor=0.13025)
    monkeypatch.setitem(TINY, family_of(missing), "owner/absent")
    with pytest.raises(OSError):
        make_preview(missing, "tiny")
    assert make_preview(missing, "auto")(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 8, 8), "the linear one instead"


@pytest.mark.parametrize("host", ["sd", "sd3", "flux"])
@pytest.mark.parametrize("kind", ["linear", "vae", "auto"])
def test_a_judge_of_pictures_chooses(stock, host, kind):
    judge = Bright()
    cfg = {"true_cfg_scale": 4.0, "negative_prompt": ["", ""]} if host == "flux" else {}
    with guide(stock(host), GreedySearch([judge], (2.0, 5.0, 8.0)), preview=kind) as traces:
        call(stock(host), **cfg)
    for step in traces[0].steps:
        best = step["scores"]["bright"].argmax(1)
        assert step["favourites"]["bright"].tolist() == best.tolist()
        assert step["scale"].tolist() == torch.tensor([2.0, 5.0, 8.0])[best].tolist()
    shown = judge.shown[1:]  # the first was a trial
    assert len(shown) == 4 and {shape for shape, *_ in shown} == {(6, 3, 8, 8)}
    assert all(0 <= low <= high <= 1 for _, low, high, _ in judge.shown)
    assert shown[0][3] == [PROMPT[0]] * 3 + [PROMPT[1]] * 3


def test_previews_are_decoded_once_for_all_judges_and_only_when_one_is_due(stock):
    decoded = []

    def shown(latents):
        decoded.append(len(latents))
        return latents[:, :3].sigmoid()

    first, second = Bright(every=2), Bright(every=4, start=0.2)
    second.name = "second"
    noisy = FunctionEvaluator(lambda c, context: -c.flatten(2).std(2), "noisy", "noisy")
    with guide(stock("sd"), GreedySearch([noisy, first, second], (2.0, 5.0)), preview=shown) as traces:
        call(stock("sd"), num_inference_steps=8)
    asked = [set(step["scores"]) for step in traces[0].steps]
    assert asked == [
        {"noisy", "bright"},
        {"noisy"},
        {"noisy", "bright", "second"},
        {"noisy"},
        {"noisy", "bright"},
        {"noisy"},
        {"noisy", "bright", "second"},
        {"noisy"},
    ]
    assert decoded == [4] * 4
    trace = traces[0].sample(1)
    assert trace.steps[2]["favourites"]["second"].shape == (1,) and len(trace.to_pandas()) == 8


def test_between_its_steps_a_lone_judge_holds_its_choice(stock):
    with guide(stock("sd"), Budget(GreedySearch([Bright(every=3)], (2.0, 5.0)))) as traces:
        call(stock("sd"), num_inference_steps=7)
    scales = traces[0].scales
    assert [("scores" in step) for step in traces[0].steps] == [True, False, False, True, False, False, True]
    assert torch.equal(scales[0], scales[1]) and torch.equal(scales[3], scales[5])


def test_draws_are_told_apart_by_evaluators_of_noisy_latents_alone(stock):
    with pytest.raises(ValueError, match="none that reads noisy latents"):
        NoiseSearch([Bright()])


def test_the_best_of_two_by_a_judge_of_pictures(stock):
    pipe, judge = stock("sd"), Bright()
    best = best_of(pipe, PROMPT, 2, [judge], num_inference_steps=2, height=16, width=16, output_type="latent")
    pictures = decode(pipe.vae, best.images)
    assert best.scores.shape == (2, 2) and best.chosen.tolist() == best.scores.argmax(1).tolist()
    every = call(pipe, num_inference_steps=2)
    assert pictures.shape[0] == 2 and every.shape[0] == 2


def test_a_loop_without_a_preview_is_told_before_its_first_step():
    plain = PlainScheduler(lambda v, t, x: x + v, [0], [(0.0, 1.0), (1.0, 0.0)], "flow_prediction")
    sampling = GuidedSampling(GreedySearch([Bright()], (2.0, 5.0)), plain, PROMPT)
    latents = torch.randn(2, 4, 8, 8)
    with pytest.raises(ValueError, match="evaluator 'bright' reads pixels: pass a `preview` of the latents"):
        sampling.step(latents, -latents, latents, 0, 4.0)
    sampling = GuidedSampling(GreedySearch([Bright()], (2.0, 5.0)), plain, PROMPT, preview=lambda x: x[:, :3].sigmoid())
    assert sampling.step(latents, -latents, latents, 0, 4.0).shape == latents.shape


def test_tools_of_judges():
    picture = torch.rand(2, 3, 20, 40)
    assert resize(picture, 10).shape == (2, 3, 10, 20) and centre_crop(resize(picture, 10), 10).shape == (2, 3, 10, 10)
    torch.testing.assert_close(normalise(picture, (0.5,) * 3, (0.25,) * 3), (picture - 0.5) / 0.25)
