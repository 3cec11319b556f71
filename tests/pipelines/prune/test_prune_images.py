"""Several images in a prompt: each keeps its share, and keeps what it would alone."""

import prune_hosts as hosts
import pytest
import torch
from prune_runs import HOST, build, close, generate

from evaluators.token.baselines import RandomTokens
from guidance.tokens.pruning import TokenPruning
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")
IMG = [hosts.IMAGE] * 16


def first_only(tokens, context):
    """Prefers whatever came first."""
    return -context.ordinal.float()


def per_image(trace, layer, row=0, size=16):
    """How many tokens of each image stayed, where each has `size`."""
    return trace.kept[layer][row][trace.visual[row]].view(-1, size).sum(1).tolist()


@HOST
def test_each_image_keeps_its_share(name):
    model, batch = build(name, "sdpa"), hosts.inputs(name, (1, 2, 0))
    with prune(model, TokenPruning([first_only], {1: 0.5, 3: 0.25})) as pruner:
        out = generate(model, batch)
    sizes = hosts.images(name, 1, torch.Generator())[1]
    for row, count in enumerate((1, 2)):
        assert per_image(pruner.last, 1, row, sizes) == [sizes // 2] * count
        assert per_image(pruner.last, 3, row, sizes) == [sizes // 4] * count
    length = out.sequences.shape[1]
    expected = hosts.masked_logits(model, hosts.extend(batch, out.sequences), hosts.gone(pruner.last, length))
    close(torch.stack(out.logits, 1), expected[:, batch["input_ids"].shape[1] - 1 : -1])


def test_a_number_of_tokens_is_divided():
    model, batch = build("llava", "sdpa"), hosts.inputs("llava", (3, 1))
    with prune(model, TokenPruning([first_only], {1: 7, 3: 2})) as pruner:
        model(**batch)
    assert per_image(pruner.last, 1) == [3, 2, 2] and per_image(pruner.last, 1, 1) == [7]
    assert per_image(pruner.last, 3) == [1, 1, 0] and per_image(pruner.last, 3, 1) == [2]


@pytest.mark.parametrize("given", ["pixels", "encoded", "generate"])
def test_images_side_by_side_are_told_apart_by_their_sizes(given):
    """There is no token between them."""
    model = build("llava", "sdpa")
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = [{"ids": [1, 5, *IMG, *IMG, 7, 8, 9], "count": 0}, {"ids": [1, *IMG, 6, 7], "count": 0}]
    batch = hosts.collate("llava", rows)
    with prune(model, TokenPruning([first_only], {1: 0.25})) as pruner:
        if given == "encoded":
            model(**batch, mm_encoder_outputs={"image": model.get_image_features(pixels)})
        elif given == "generate":
            generate(model, batch | {"pixel_values": pixels}, num_beams=2, output_logits=False)
        else:
            model(**batch, pixel_values=pixels)
    assert per_image(pruner.last, 1) == [4, 4]
    assert per_image(pruner.last, 1, -1) == [4]


def test_an_image_in_pieces_is_one_by_its_size():
    """As where a model ends each line of an image with a token of text."""
    model = build("llava", "sdpa")
    line = [hosts.IMAGE] * 4
    ids = [1, *line, 50, *line, 50, *line, 50, *line, 51, 7, 8]
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = hosts.collate("llava", [{"ids": ids, "count": 0}])
    with prune(model, TokenPruning([first_only], {1: 0.25})) as pruner:
        model(**batch, pixel_values=pixels)
        assert per_image(pruner.last, 1) == [4] and per_image(pruner.last, 1, size=4) == [4, 0, 0, 0]
        model(**batch)  # without pictures nobody knows better than that each piece is an image
        assert per_image(pruner.last, 1, size=4) == [1, 1, 1, 1]


@pytest.mark.parametrize("method", ["divprune", "uniform", "visionzip"])
def test_an_image_keeps_what_it_keeps_alone(method):
    """Where neither text nor other images count in a score."""
    model, pixels = build("llava", "sdpa"), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    text = [7, 8, 9]
    both = hosts.collate("llava", [{"ids": [1, *IMG, 5, *IMG, *text], "count": 0}]) | {"pixel_values": pixels}
    with prune(model, method, keep=0.4) as pruner:
        model(**both)
        together = pruner.last.decisions[0].stays[0].view(2, 16)
        for i in range(2):
            one = hosts.collate("llava", [{"ids": [1, *IMG, *text], "count": 0}]) | {"pixel_values": pixels[i : i + 1]}
            model(**one)
            assert torch.equal(pruner.last.decisions[0].stays[0], together[i])


def test_merging_stays_inside_an_image():
    """What the second image is does not change the tokens of the first, which comes before it."""
    model, states = build("llava", "sdpa"), []
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = hosts.collate("llava", [{"ids": [1, *IMG, 5, *IMG, 7, 8], "count": 0}])
    for pictures in ([0, 1], [0, 2]):
        with prune(model, TokenPruning([RandomTokens()], {1: 0.25}, merge=True)):
            out = model.model(**batch, pixel_values=pixels[pictures]).last_hidden_state[0]
        states.append(out)
    assert states[0][1:17].any()
    assert torch.equal(states[0][1:17], states[1][1:17]) and not torch.equal(states[0][18:], states[1][18:])


def test_images_and_videos_in_a_row():
    model, generator = build("qwen2_vl", "sdpa"), torch.Generator().manual_seed(0)
    ids = torch.tensor([[1, *IMG, 5, *[hosts.VIDEO] * 32, 6, *IMG, 7, 8]])
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == hosts.IMAGE).int() + (ids == hosts.VIDEO).int() * 2,
        "pixel_values": torch.randn(128, 96, generator=generator),
        "image_grid_thw": torch.tensor([[1, 8, 8]] * 2),
        "pixel_values_videos": torch.randn(128, 96, generator=generator),
        "video_grid_thw": torch.tensor([[2, 8, 8]]),
    }
    with prune(model, TokenPruning([first_only], {1: 0.5})) as pruner:
        model(**batch)
    assert per_image(pruner.last, 1) == [8, 16, 0, 8]
