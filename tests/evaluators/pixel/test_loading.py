"""Judges by name: what a panel shares, and what is wrong with a checkpoint said in a line."""

import shutil

import open_clip
import pytest
import small_judges
import torch
from hub_cache import offline
from safetensors.torch import save_file
from small_judges import JUDGES, WIDTH, named

from evaluators import EVALUATORS, Aesthetic, OpenCLIPTower, load_evaluator, load_evaluators
from evaluators.base import Context, score
from guidance.panel import Panel

__all__ = ["offline"]
PROMPTS = ["two red circles", "a blue star"]
REGISTERED = [name for name in JUDGES if name != "siglip"]


@pytest.fixture
def counted(monkeypatch):
    """The numbers of pictures that open_clip's towers looked at, one for each pass."""
    passes, embed = [], OpenCLIPTower.embed
    monkeypatch.setattr(OpenCLIPTower, "embed", lambda self, x: (passes.append(len(x)), embed(self, x))[1])
    return passes


def ask(panel, pictures):
    return Panel(panel).ask(lambda space: pictures, lambda space: 0.5, PROMPTS, 500.0)[1]["scores"]


def test_a_panel_of_names_sources_and_objects(published):
    def darkness(candidates, context):
        return -candidates.mean((2, 3, 4))

    sources = {name: published[name] for name in REGISTERED}
    with named("ViT-H-14"):
        panel = load_evaluators([*(f"{name}={source}" for name, source in sources.items()), darkness])
        mapped = load_evaluators(sources)
    assert [e.name for e in panel[:-1]] == list(sources) == [e.name for e in mapped]
    assert [type(e) for e in panel[:-1]] == [EVALUATORS[name] for name in sources] == [type(e) for e in mapped]
    assert panel[-1] is darkness and not any(e.training for e in panel[:-1])
    scores = ask(panel, torch.rand(2, 3, 3, 40, 36))
    assert [*scores] == [*sources, "darkness"] and all(s.shape == (2, 3) for s in scores.values())


def test_judges_on_one_tower_look_once(published, counted):
    folder = published["aesthetic"]
    panel = load_evaluators([f"open_clip={folder}", f"aesthetic={folder}", f"aesthetic_v2={folder}"])
    counted.clear()
    assert len({id(e.tower) for e in panel}) == 1
    pictures = torch.rand(2, 3, 3, 40, 36)
    together = ask(panel, pictures)
    assert counted == [6]
    ask(panel, pictures + 0.1)
    assert counted == [6, 6]
    pictures.mul_(0.5)  # in place
    darker = ask(panel, pictures)
    assert counted == [6, 6, 6] and not torch.equal(darker["open_clip"], together["open_clip"])
    for e in panel:
        e.chunk = 4
    assert torch.allclose(ask(panel, pictures * 2)["aesthetic"], together["aesthetic"], atol=1e-5)
    assert counted[3:] == [4, 2]
    alone = {name: load_evaluator(name, folder) for name in ("open_clip", "aesthetic", "aesthetic_v2")}
    for name, judge in alone.items():
        torch.testing.assert_close(ask([judge], pictures)[name], darker[name], atol=1e-5, rtol=1e-5)


def test_a_tower_in_another_precision_or_with_gradients_looks_again(published, counted):
    judge = load_evaluator("open_clip", published["open_clip"])
    pictures = torch.rand(2, 3, 40, 36)
    with torch.no_grad():
        first = judge.judge(pictures, PROMPTS)
        judge.judge(pictures, PROMPTS)
        judge.to(torch.bfloat16).judge(pictures, PROMPTS)
    judge.float().judge(pictures, PROMPTS)
    judge.judge(pictures, PROMPTS)
    with torch.inference_mode():
        again = judge.judge(pictures.clone(), PROMPTS)
    assert counted == [2] * 5 and torch.allclose(first, again, atol=0.05 * float(first.abs().max()))


@pytest.mark.parametrize(
    "file, model",
    [
        ("sa_0_4_vit_b_32_linear.pth", "ViT-B-32"),
        ("sa_0_4_vit_b_16_linear.pth", "ViT-B-16"),
        ("sa_0_4_vit_l_14_linear.pth", "ViT-L-14"),
        ("aesthetics-predictor-v1-vit-base-patch32/pytorch_model.bin", "ViT-B-32"),
        ("aesthetics-predictor-v1-vit-base-patch16/pytorch_model.bin", "ViT-B-16"),
    ],
)
def test_the_tower_of_a_head_is_openais_of_its_size(tmp_path, file, model):
    width = 768 if "l_14" in file else 512
    path = small_judges.save_head(tmp_path / file, width, v2=False)
    folder = small_judges.save_open_clip(tmp_path / "tower", small_judges.CLIP | {"embed_dim": width})
    tower, asked = OpenCLIPTower.from_pretrained(folder), []
    judge = Aesthetic.from_pretrained(path.parent, load_tower=lambda s, **kwargs: (asked.append(s), tower)[1])
    assert asked == [f"{model}/openai"] and judge.tower is tower
    assert Aesthetic.from_pretrained(path, tower=tower).tower is tower
    assert Aesthetic.from_pretrained(path, tower=folder).tower.width == width


def test_heads_in_the_format_of_transformers(published, tmp_path, load):
    for name, prefix in (("aesthetic", "predictor."), ("aesthetic_v2", "")):
        state = torch.load(published[name] / JUDGES[name].FILES[0])
        tower = {
            "vision_model.embeddings.class_embedding": torch.zeros(8),
            "visual_projection.weight": torch.zeros(8, 8),
        }
        save_file(tower | {prefix + key: value for key, value in state.items()}, tmp_path / "model.safetensors")
        judge = JUDGES[name].from_pretrained(tmp_path, tower=load("open_clip").tower)
        assert all(map(torch.equal, judge.head.state_dict().values(), state.values()))


def test_openai_weights_want_their_own_activation(monkeypatch):
    made = {}
    monkeypatch.setattr(open_clip, "create_model", lambda model, **kwargs: made.update(model=model, **kwargs) or 1 / 0)
    for source, quick in (("ViT-B-32/openai", True), ("ViT-B/32/openai", True), ("ViT-B-32/laion2b_s34b_b79k", False)):
        with pytest.raises(ValueError):
            load_evaluator("open_clip", source)
        assert made["model"] == "ViT-B-32" and made["pretrained"] == source.rpartition("/")[2]
        assert made["force_quick_gelu"] is quick and made["weights_only"] and made["require_pretrained"]


def test_formats_of_open_clip(published, tmp_path):
    folder = small_judges.save_open_clip(tmp_path, weights="bin")
    pictures = torch.rand(1, 2, 3, 40, 36)
    context = Context(PROMPTS[:1], 500.0, 0.5)
    scores = [score(load_evaluator("open_clip", s), pictures, context) for s in (folder, f"local-dir:{folder}")]
    assert torch.equal(*scores) and not torch.equal(scores[0][0, 0], scores[0][0, 1])


# ------------------------------------------------------------------------------------------------------ what is wrong

WEIGHTS = {
    "open_clip": "open_clip_model.safetensors",
    "pickscore": "model.safetensors",
    "hpsv2": "HPS_v2_compressed.pt",
    "hpsv2.1": "HPS_v2.1_compressed.pt",
    "aesthetic": JUDGES["aesthetic"].FILES[0],
    "aesthetic_v2": JUDGES["aesthetic_v2"].FILES[0],
    "image_reward": "ImageReward.pt",
}
with_weights = pytest.mark.parametrize("name", WEIGHTS)


def fails(name, source, *, told, kind=(ValueError, OSError)):
    with named("ViT-H-14"), pytest.raises(kind, match=told) as caught:
        load_evaluators([f"{name}={source}"])
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600 and repr(name) in text, text
    return text


@pytest.fixture
def copy(published, tmp_path):
    def make(name):
        return shutil.copytree(published[name], tmp_path / f"copy of {name}")

    return make


@with_weights
def test_a_truncated_file(copy, name):
    folder = copy(name)
    data = (folder / WEIGHTS[name]).read_bytes()
    for share in (2, 10**9):
        (folder / WEIGHTS[name]).write_bytes(data[: len(data) // share])
        fails(name, folder, told="broken or truncated", kind=OSError)


@with_weights
def test_garbage(copy, name):
    folder = copy(name)
    (folder / WEIGHTS[name]).write_bytes(b"<html>not found</html>" * 100)
    fails(name, folder, told="broken or truncated", kind=OSError)


@pytest.mark.parametrize("name", [name for name in WEIGHTS if not WEIGHTS[name].endswith("safetensors")])
def test_a_pickle_is_refused_and_not_run(copy, name, tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    folder = copy(name)
    torch.save({"state_dict": {"a": Harm()}}, folder / WEIGHTS[name])
    fails(name, folder, told="refused", kind=ValueError)
    assert not (tmp_path / "harm").exists()
    fails(name, folder / WEIGHTS[name], told="refused|there is no", kind=(ValueError, OSError))


@with_weights
def test_another_models_weights(copy, published, name):
    folder = copy(name)
    other = {"blip.text_encoder.weight": torch.zeros(3, 3), "something.else": torch.zeros(2)}
    if WEIGHTS[name].endswith("safetensors"):
        save_file(other, folder / WEIGHTS[name])
    else:
        torch.save({"state_dict": other} if name.startswith("hps") else other, folder / WEIGHTS[name])
    fails(name, folder, told="weights|state_dict|BLIP", kind=ValueError)


@with_weights
def test_a_folder_of_another_format_or_none(name, tmp_path, offline):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    fails(name, tmp_path, told="there is no|it holds a model of type 'bert'|config file missing")
    fails(name, tmp_path / "nowhere/at/all", told="no file, folder or hub id|folder or hub id|Repo id|valid")


@with_weights
def test_a_hub_id_that_is_not_there_without_network(name, offline):
    told = f"'some/thing' is not in the cache and there is no network: download it first or give `{name}=FOLDER`"
    fails(name, "some/thing", told=told, kind=OSError)
    with pytest.raises(OSError, match="is not in the cache and there is no network") as caught:
        load_evaluator(name)
    assert "\n" not in str(caught.value)


def test_other_heads_are_refused(tmp_path, load):
    tower = load("open_clip").tower
    relu = {f"layers.{place}.weight": torch.zeros(4, 4) for place in (0, 3, 6, 9, 11)}  # ava+logos-l14-reluMSE.pth
    torch.save(relu, tmp_path / "ava+logos-l14-reluMSE.pth")
    with pytest.raises(ValueError, match="another model's weights"):
        JUDGES["aesthetic_v2"].from_pretrained(tmp_path / "ava+logos-l14-reluMSE.pth", tower=tower)
    file = small_judges.save_head(tmp_path / "sa_0_4_vit_l_14_linear.pth", WIDTH + 1, v2=False)
    with pytest.raises(ValueError, match=f"reads embeddings of {WIDTH + 1} numbers, and the tower makes {WIDTH}"):
        JUDGES["aesthetic"].from_pretrained(file, tower=tower)


def test_names_that_are_wrong():
    with pytest.raises(ValueError, match=r"'pikscore', which is unknown; there are .*pickscore"):
        load_evaluators(["pikscore"])
    with pytest.raises(ValueError, match="'clip', which belongs to one VAE: give clip=FOLDER"):
        load_evaluators(["clip"])
    with pytest.raises(ValueError, match="'vqa', which may be any of many: give vqa=FOLDER"):
        load_evaluators(["vqa"])
    with pytest.raises(ValueError, match="ViT-B-32 has no weights 'opnai'; there are openai"):
        load_evaluators(["open_clip=ViT-B-32/opnai"])
