"""Pictures through a model's own processor, encoder and `generate`: classes whose images are in tiles."""

import functools

import prune_hosts
import pytest
import torch
import transformers
import vlm_hosts as hosts
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vlm_checks import close

from guidance.tokens.pruning import TokenPruning
from pipelines.prune.hosts import find_host
from pipelines.prune.pruner import prune

pytest.importorskip("transformers.models.granite_docling", reason="transformers before 5.24 has no GraniteDocling")
pytest.importorskip("transformers.models.step3p7", reason="transformers before 5.24 has no Step3p7")
pytestmark = pytest.mark.usefixtures("inference")
WORDS = ["what", "is", "on", "this", "page", "and", "how", "many", "tables", "has", "it"]
GRANITE = ["<image>", "<fake_token_around_image>", "<global-img>"]
GRANITE += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
STEP = ["<im_patch>", "<patch_start>", "<patch_end>", "<patch_newline>", "<im_start>", "<im_end>"]
NEW = 4


def tokenizer(special: list[str]) -> PreTrainedTokenizerFast:
    """Of words, and of what marks images; the first of `special` is a visual token."""
    vocab = {"<pad>": hosts.PAD, "<bos>": 1, special[0]: hosts.IMAGE}
    for word in WORDS + special[1:]:
        vocab[word] = len(vocab) + 1
    model = Tokenizer(models.WordLevel(vocab, "<pad>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", padding_side="left")
    made.add_special_tokens({"additional_special_tokens": special})
    return made


def granite_docling():
    config = hosts.shrink(transformers.GraniteDoclingConfig())
    config.vision_config.scale_factor, config.vision_config.deepstack_visual_indexes = 2, [0, 1]
    config.text_config.attention_multiplier = 0.4
    tiles = transformers.GraniteDoclingImageProcessor(size={"height": 16, "width": 16}, max_patches=4)
    processor = transformers.GraniteDoclingProcessor(tiles, tokenizer(GRANITE), image_seq_len=4)
    return transformers.GraniteDoclingForConditionalGeneration(config), processor


def step3p7():
    config = hosts.shrink(transformers.Step3p7Config(text_config=hosts.STEP))
    config.text_config.sliding_window, config.vision_config.image_size = 9, 64
    tiles = transformers.Step3p7ImageProcessor(size={"height": 64, "width": 64}, patch_size=32, vision_patch_size=4)
    return transformers.Step3p7ForConditionalGeneration(config), transformers.Step3p7Processor(tiles, tokenizer(STEP))


# A class, the sizes of an image in tiles and of one that is whole, and how many tokens each piece has that is pruned by
# itself: a tile, with text around it, in GraniteDocling, and in Step3p7, whose encoder gives it as one, the image.
CASES = {
    "granite_docling": (granite_docling, (64, 32), (16, 16), [4] * 3, [4]),
    "step3p7": (step3p7, (64, 32), (64, 64), [2 * 4 + 16], [16]),
}
CASE = pytest.mark.parametrize("name", CASES)


@functools.cache
def build(name):
    torch.manual_seed(0)
    model, processor = CASES[name][0]()
    model.generation_config.suppress_tokens = [hosts.IMAGE, hosts.EOS]
    return model.eval(), processor


def picture(size, seed):
    noise = torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.numpy())


def inputs(name, rows=(0, 1)):
    """What the processor makes of these rows: one image in tiles, and two images with text between them."""
    processor, (_, tiled, whole, *_) = build(name)[1], CASES[name]
    mark = processor.image_token
    every = [
        (f"on this {mark} what is how many", [picture(tiled, 0)]),
        (f"this {mark} and this {mark} what has it", [picture(whole, 1), picture(tiled, 2)]),
    ]
    texts, images = zip(*(every[row] for row in rows), strict=True)
    flat = [image for own in images for image in own]
    return dict(processor(text=list(texts), images=flat, padding=True, return_tensors="pt"))


def generate(model, batch, **kwargs):
    given = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    return model.generate(**batch, **given | kwargs)


@CASE
def test_keeping_all_is_the_plain_model(name):
    model, _ = build(name)
    plain, written = model(**inputs(name)).logits, generate(model, inputs(name))
    with prune(model, "transprune", keep={2: 1.0, 4: 1.0}):
        assert torch.equal(model(**inputs(name)).logits, plain)
        assert torch.equal(torch.stack(generate(model, inputs(name)).logits), torch.stack(written.logits))
    with prune(model, "fastv"):
        assert not torch.equal(model(**inputs(name)).logits, plain)
    assert torch.equal(model(**inputs(name)).logits, plain)


@CASE
@pytest.mark.parametrize(
    ("method", "keep"), [("transprune", {2: 0.75, 4: 0.25}), ("divprune", {0: 0.5}), ("cdpruner", {0: 0.5})]
)
def test_pruning_is_masking(name, method, keep):
    """Each piece keeps its share, and the dropped tokens might as well be there and attended to by nobody."""
    (model, _), (_, _, _, tiled, whole) = build(name), CASES[name]
    batch = inputs(name)
    with prune(model, method, keep=keep) as pruner:
        out = generate(model, inputs(name))
        assert torch.equal(generate(model, inputs(name), use_cache=False).sequences, out.sequences)
    for row, pieces in enumerate((tiled, whole + tiled)):
        for layer, share in keep.items():
            kept = pruner.last.kept[layer][row][pruner.last.visual[row]]
            assert [int(part.sum()) for part in kept.split(pieces)] == [round(n * share) for n in pieces]
    left, length = prune_hosts.gone(pruner.last, out.sequences.shape[1]), batch["input_ids"].shape[1]
    expected = prune_hosts.masked(
        model, prune_hosts.extend(batch, out.sequences), left, decoder=find_host(model, "")[1]
    )
    close(torch.stack(out.logits, 1), expected.logits[:, length - 1 : -1])


@CASE
@pytest.mark.parametrize("method", ["transprune", "fastv"])
def test_a_batch_is_its_samples(name, method):
    model, _ = build(name)
    with prune(model, method, keep=0.5):
        together = generate(model, inputs(name))
        for row in (0, 1):
            alone = generate(model, inputs(name, (row,)))
            close(torch.stack(together.logits, 1)[row], torch.stack(alone.logits, 1)[0])


def test_embeddings_are_what_the_first_layer_is_given():
    """Which GraniteDocling multiplies by 12: a softmax over dot products would not be the same without."""
    model, _ = build("granite_docling")
    told, given = [], []

    def look(tokens, context):
        told.append(context.embeddings())
        return context.ordinal.float()

    hook = model.model.text_model.layers[0].register_forward_pre_hook(lambda module, args: given.append(args[0]))
    with prune(model, TokenPruning([look], {2: 0.5})) as pruner:
        model(**inputs("granite_docling"))
    hook.remove()
    assert torch.equal(told[0].tokens[told[0].valid], given[0][pruner.last.visual])
