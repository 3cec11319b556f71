"""The latent reward model, from the parts that LPO's code saves, against its formula on the features of whole UNets."""

import shutil

import pytest
import small_judges
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from tiny import SD_BETAS, tokenizer
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from evaluators import LRM, load_evaluator, load_evaluators
from evaluators.base import Context, score
from evaluators.latent.lrm import TIMESTEPS
from guidance.panel import Panel

PROMPTS = ["two red circles", "a blue star"]
both = pytest.mark.parametrize("kind", ["sd15", "sdxl"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("lrm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {kind: small_judges.save_lrm(root / f"lrm_{kind}", xl=kind == "sdxl") for kind in ("sd15", "sdxl")}


def latents(rows=2, count=3):
    return torch.randn(rows, count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def scores(evaluator, candidates, level=0.5, prompts=PROMPTS):
    return score(evaluator, candidates, Context(prompts, 500.0, level))


@torch.no_grad()
def published_score(folder, noisy, timestep, prompt):
    """Of one latent ``(4, H, W)``: a whole pass of the UNet with the prompt, and one without."""
    state = torch.load(folder / "state_dict.pt")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    xl, means, told = (folder / "text_encoder_2").is_dir(), [], []
    for text in (prompt, ""):
        ids = tokenizer()([text], padding="max_length", truncation=True, return_tensors="pt").input_ids
        first = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()(ids, output_hidden_states=True)
        states, pooled, added = first.last_hidden_state, first.pooler_output, None
        if xl:
            second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").eval()
            padded = ids.clone()
            padded[0, int((ids[0] == tokenizer().eos_token_id).nonzero()[0]) + 1 :] = 0
            second = second(padded, output_hidden_states=True)
            states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
            pooled = second.text_embeds
            added = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
        seen = {}
        last = [
            block.attentions[-1] if hasattr(block, "attentions") else block.resnets[-1] for block in unet.down_blocks
        ]
        for place, module in enumerate([*last, unet.mid_block]):

            def keep(module, arguments, result, place=place, seen=seen):
                seen[place] = (result[0] if isinstance(result, tuple) else result).mean((2, 3))

            module.register_forward_hook(keep)
        unet(noisy[None], timestep, states, added_cond_kwargs=added)
        means.append([seen[place] for place in sorted(seen)])
        told.append(pooled)
    (*down, middle), (*_, without) = means
    features = torch.cat([*down, without + 7.5 * (middle - without)], -1)
    seen = features @ state["visual_projection"]["weight"].T
    wanted = told[0] if xl else told[0] @ state["text_projection"]["weight"].T
    return state["logit_scale"].exp() * F.cosine_similarity(seen, wanted)[0]


@both
@pytest.mark.parametrize("timestep", [1, 451, 951])
def test_the_score_is_the_published_one(folders, kind, timestep):
    noisy, judge = latents(2, 1), LRM.from_pretrained(folders[kind])
    level = float((1 - DDPMScheduler(**SD_BETAS).alphas_cumprod[timestep]) ** 0.5)
    wanted = [published_score(folders[kind], x[0], timestep, p) for x, p in zip(noisy, PROMPTS, strict=True)]
    torch.testing.assert_close(scores(judge, noisy, level)[:, 0], torch.stack(wanted), atol=1e-4, rtol=1e-5)


def test_the_nearest_of_its_timesteps_is_told(folders, monkeypatch):
    judge, told = LRM.from_pretrained(folders["sd15"]), []
    features = judge.features
    monkeypatch.setattr(
        judge, "features", lambda x, timestep, *rest: (told.append(timestep), features(x, timestep, *rest))[1]
    )
    levels = (1 - DDPMScheduler(**SD_BETAS).alphas_cumprod).sqrt().tolist()
    for timestep, nearest in ((0, 1), (40, 51), (51, 51), (500, 501), (520, 501), (999, 951)):
        scores(judge, latents(), levels[timestep])
        assert told.pop() == nearest
    scores(judge, latents(), 1.0)
    scores(judge, latents(), 0.0)
    assert told == [TIMESTEPS[-1], TIMESTEPS[0]] == [951, 1]


@both
def test_a_latent_is_judged_alone_as_among_others(folders, kind):
    judge, noisy = LRM.from_pretrained(folders[kind]), latents()
    together = scores(judge, noisy)
    assert together.shape == (2, 3) and len(together.unique()) == 6
    for row in range(2):
        for at in range(3):
            alone = scores(judge, noisy[row : row + 1, at : at + 1], prompts=PROMPTS[row : row + 1])
            torch.testing.assert_close(alone[0, 0], together[row, at], atol=1e-4, rtol=1e-4)
    judge.chunk = 4
    torch.testing.assert_close(scores(judge, noisy), together, atol=1e-4, rtol=1e-4)
    half = scores(judge.to(torch.bfloat16), noisy)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, together, atol=0.1 * float(together.abs().max()), rtol=0)


def test_only_half_a_denoiser_is_kept_and_a_panel_takes_it(folders):
    (judge,) = load_evaluators([f"lrm={folders['sd15']}"])
    assert not len(judge.unet.up_blocks) and judge.unet.conv_out is None and not judge.training
    panel = Panel([judge])
    panel.check(latents()[:, 0], PROMPTS)
    with pytest.raises(ValueError, match="takes latents of 4 channels"):
        panel.check(torch.randn(2, 16, 8, 8), PROMPTS)


def test_what_is_wrong_is_said_in_a_line(folders, tmp_path, monkeypatch):
    def fails(told, kind, source=None):
        with pytest.raises(kind, match=told) as caught:
            load_evaluator("lrm", source or copy)
        assert "\n" not in str(caught.value) and "'lrm'" in str(caught.value)

    copy = shutil.copytree(folders["sd15"], tmp_path / "copy")
    data = (copy / "state_dict.pt").read_bytes()
    (copy / "state_dict.pt").write_bytes(data[: len(data) // 2])
    fails("broken or truncated", OSError)
    torch.save({"visual_projection": {"weight": torch.zeros(16, 9)}, "logit_scale": 1.0}, copy / "state_dict.pt")
    fails("there is no 'text_projection' in it", ValueError)
    state = {"text_projection": {"weight": torch.zeros(16, 16)}, "visual_projection": {"weight": torch.zeros(16, 9)}}
    torch.save(state | {"logit_scale": 1.0}, copy / "state_dict.pt")
    fails("reads 9 features, and its UNet makes 40", ValueError)
    shutil.rmtree(copy / "unet")
    fails("unet", OSError)
    (copy / "state_dict.pt").unlink()
    fails("there is no state_dict.pt", OSError)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fails("not in the cache and there is no network: download it first or give `lrm=FOLDER`", OSError, "some/thing")
    fails("not in the cache and there is no network", OSError, "casiatao/LRM/lrm_sdxl")
