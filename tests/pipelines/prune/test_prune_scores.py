"""What the evaluators are given by the hosts, against attention weights and block outputs of the stock model."""

import functools

import prune_hosts as hosts
import pytest
import torch
from prune_runs import CACHE

from evaluators.token.attention import ClassTokenAttention, InstructionAttention, LastTokenAttention
from evaluators.token.base import Embeddings
from evaluators.token.raters import RaterAttention, text_raters
from evaluators.token.transition import TokenTransition
from guidance.tokens.pruning import TokenPruning
from pipelines.prune import attention as prune_attention
from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune

pytestmark = pytest.mark.usefixtures("inference")
build = functools.cache(hosts.build)
close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
HOST = pytest.mark.parametrize("name", hosts.HOSTS)


def decision(name, pruning, batch, attention="sdpa"):
    with prune(build(name, attention), pruning) as pruner:
        build(name, attention)(**batch)
    (layer,) = pruning.keep
    return pruner.last.visual, pruner.last.decisions[layer]


@HOST
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["instruction", "last", "last of next"])
def test_attention_is_that_of_the_model(name, side, kind, monkeypatch):
    monkeypatch.setattr(prune_attention, "CHUNK", 3)  # an instruction is a few chunks long
    batch = hosts.inputs(name, side=side)
    evaluator = {
        "instruction": InstructionAttention(),
        "last": LastTokenAttention(previous=True),
        "last of next": LastTokenAttention(previous=False),
    }[kind]
    visual, got = decision(name, TokenPruning([evaluator], {2: 0.5}), batch)
    attentions = build(name, "eager")(**batch, output_attentions=True).attentions
    weights = attentions[1 if kind == "last" else 2].mean(1)
    for i, count in enumerate(hosts.IMAGES):
        places = visual[i].nonzero().flatten()
        real = batch["attention_mask"][i].nonzero().flatten()
        if not count:
            assert not got.scores[evaluator.name][i].any()
            continue
        queries = real[real > places[-1]] if kind == "instruction" else real[-1:]
        close(got.scores[evaluator.name][i, : len(places)], weights[i][queries][:, places].mean(0))


@HOST
@pytest.mark.parametrize("side", ["left", "right"])
def test_raters_are_chosen_by_what_the_first_layer_was_given(name, side):
    """Also at a later pruning, where most visual tokens are gone."""
    batch, model, seen = hosts.inputs(name, side=side), build(name), []
    layer = hosts.language_model(model).layers[0]
    handle = layer.register_forward_pre_hook(
        lambda m, a, k: seen.append(a[0] if a else k["hidden_states"]), with_kwargs=True
    )
    with prune(model, TokenPruning([RaterAttention()], {2: 0.5, 4: 0.25})) as pruner:
        model(**batch)
    handle.remove()
    gone = hosts.gone(pruner.last, batch["input_ids"].shape[1])
    visual, eager = pruner.last.visual, build(name, "eager")
    attentions = [a.mean(1) for a in hosts.masked(eager, batch, {2: gone[2]}, output_attentions=True).attentions]
    for i, count in enumerate(hosts.IMAGES):
        real, places = batch["attention_mask"][i].nonzero().flatten(), visual[i].nonzero().flatten()
        if not count:
            assert not pruner.last.decisions[2].scores["raters"][i].any()
            continue
        words = real[real > places[-1]]
        ones = [torch.ones(1, len(x), dtype=torch.bool) for x in (places, words)]
        raters = words[text_raters(Embeddings(seen[0][i, places][None], ones[0], seen[0][i, words][None], ones[1]))[0]]
        assert 0 < len(raters) < len(words)
        for n, present in ((2, places), (4, pruner.last.kept[2][i].nonzero().flatten())):
            scores = pruner.last.decisions[n].scores["raters"][i, : len(present)]
            close(scores, attentions[n - 1][i][raters][:, present].mean(0))


@pytest.mark.parametrize("name", ["llava", "idefics3"])
def test_attention_after_an_earlier_pruning_and_with_a_past(name):
    """In a second turn, at layers whose caches are already pruned: every key that is left counts in the softmax."""
    model, turns = build(name), [hosts.collate(name, [hosts.row(name, 1, i)]) for i in (7, 8)]
    pruning = TokenPruning([LastTokenAttention(previous=True), InstructionAttention()], {2: 0.5, 4: 0.25})
    ids = torch.cat([t["input_ids"] for t in turns], 1)
    length, seen = ids.shape[1], turns[0]["input_ids"].shape[1]
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with prune(model, pruning) as pruner:
        cache = cache_of(model(**turns[0], use_cache=True))
        one = pruner.last
        model(**turns[1] | {"attention_mask": whole["attention_mask"]}, **{CACHE: cache})
        two = pruner.last
    pixels = torch.cat([t["pixel_values"] for t in turns], int(name == "idefics3"))
    first, second = hosts.gone(one, length), hosts.gone(two, length - seen)
    second = {n: torch.nn.functional.pad(g, (seen, 0)) for n, g in second.items()}
    places = seen + two.visual[0].nonzero().flatten()
    eager = build(name, "eager")
    for n in (2, 4):
        present = places if n == 2 else seen + two.kept[2][0].nonzero().flatten()
        # the layers before have dropped in both turns; the one about to run, only in the first
        gone = {m: first[m] | (second[m] if m < n else second.get(2, 0) if n == 4 else False) for m in (2, 4)}
        attentions = hosts.masked(eager, whole | {"pixel_values": pixels}, gone, output_attentions=True).attentions
        scores = two.decisions[n].scores
        close(scores["last_token"][0], attentions[n - 1].mean(1)[0, -1, present])
        text = slice(int(places[-1]) + 1, None)
        close(scores["instruction"][0], attentions[n].mean(1)[0, text, present].mean(0))


@HOST
def test_transition_is_that_of_the_blocks(name):
    batch, evaluator = hosts.inputs(name), TokenTransition((2, 3))
    visual, got = decision(name, TokenPruning([evaluator], {3: 0.5}), batch)
    model, seen = build(name), {}

    def keep(key, given):
        def hook(module, args, output):
            seen[key] = (args[0] if given else output).detach()

        return hook

    handles = []
    for n in (1, 2):  # other modules than the pruner's: the projections at the edges of the blocks
        layer = hosts.language_model(model).layers[n]
        for key, module, given in (
            ("ax", layer.self_attn.v_proj, True),
            ("ay", layer.self_attn.o_proj, False),
            ("mx", layer.mlp.up_proj, True),
            ("my", layer.mlp.down_proj, False),
        ):
            handles.append(module.register_forward_hook(keep((n, key), given)))
    model(**batch)
    for handle in handles:
        handle.remove()
    for i, count in enumerate(hosts.IMAGES):
        if not count:
            continue
        total, real = 0.0, batch["attention_mask"][i].bool()
        for n in (1, 2):
            for block in "am":
                x, y = seen[n, block + "x"][i, real], seen[n, block + "y"][i, real]
                turn = torch.exp(1 - torch.cosine_similarity(x, y, dim=-1))
                total = total + y.norm(dim=-1) / x.norm(dim=-1) * turn / turn.sum()  # over text and visual tokens
        total = total[visual[i][real]]
        close(got.scores["transition"][i, : len(total)], total)


def test_a_prompt_that_ends_with_the_image():
    """There is no instruction, so it has no say."""
    batch = hosts.inputs("llava", (1,))
    end = int(batch["input_ids"][0].eq(hosts.IMAGE).nonzero().max()) + 1
    _, got = decision(
        "llava",
        TokenPruning([InstructionAttention()], {2: 0.5}),
        batch | {k: v[:, :end] for k, v in hosts.only(batch).items()},
    )
    assert not got.scores["instruction"].any()
    kept = got.stays[0].nonzero().flatten() // 2
    assert kept.tolist() == list(range(8))  # nobody knows better, so evenly spaced


def test_transition_of_survivors_accumulates():
    """Two prunings give the second the sum over all layers since the first layer that counts."""
    model, batch = build("llava"), hosts.inputs("llava", (1, 2))
    with prune(model, TokenPruning([TokenTransition((1, 4))], {1: 0.5, 3: 0.25})) as pruner:
        model(**batch)
    first, second = (pruner.last.decisions[n] for n in (1, 3))
    for i in range(2):
        survivors = first.scores["transition"][i][first.stays[i]]
        assert (second.scores["transition"][i, : len(survivors)] > survivors).all()


def projected(layer, run):
    """What `layer` projected its keys to while `run` ran, ``(batch, length, dim)``."""
    caught = []
    handle = layer.self_attn.k_proj.register_forward_hook(lambda module, inputs, output: caught.append(output))
    run()
    handle.remove()
    return caught[0]


@HOST
def test_keys_are_those_of_the_layer_that_runs_next(name):
    model, batch, read = build(name), hosts.inputs(name), []

    def reader(tokens, context):
        read.append(context.keys())
        return tokens.mean(-1)

    visual, _ = decision(name, TokenPruning([reader], {2: 0.5}), batch)
    expected = projected(hosts.language_model(model).layers[2], lambda: model(**batch))
    for i in range(len(hosts.IMAGES)):
        places = visual[i].nonzero().flatten()
        close(read[0][i, : len(places)], expected[i, places])


def in_order(name, values):
    """Of each patch of each image or tile ``(tiles, 16, ...)``, as the language model has them; zero at newlines."""
    if name == "llava":
        return values.flatten(0, 1)
    rows = []  # base image; then 2 tiles of 4 x 4 side by side, with a newline after each row of 8
    for base, left, right in values.unflatten(0, (-1, 3)):
        lines = [tile.unflatten(0, (4, 4)) for tile in (left, right)]
        rows += [base, torch.cat([*lines, torch.zeros_like(lines[0][:, :1])], 1).flatten(0, 1)]
    return torch.cat(rows)


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_class_token_attention_is_that_of_the_encoder(name):
    batch = hosts.inputs(name)
    visual, got = decision(name, TokenPruning([ClassTokenAttention()], {0: 0.5}), batch)
    tower = build(name, "eager").model.vision_tower
    pixels = batch["pixel_values"].flatten(0, -4)
    attention = tower(pixels, output_attentions=True).attentions[-2].sum(1)[:, 0, 1:]
    scores = torch.cat([got.scores["class_token"][i, : int(visual[i].sum())] for i in range(3)])
    close(scores, in_order(name, attention))


def visionzip(attention, keys, features, dominant, contextual):
    """VisionZip's two choices for one image, written out after its authors' code: which patches stay, and what each
    contextual one becomes before the projector: itself plus the mean of those that are most similar to it."""
    best = attention.topk(dominant).indices.tolist()
    rest = [n for n in range(len(attention)) if n not in best]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    others = [n for n in rest if n not in targets]
    groups = {t: [] for t in targets}
    for n in others:
        groups[max(targets, key=lambda t, n=n: torch.cosine_similarity(keys[n], keys[t], dim=0).item())].append(n)
    become = {t: features[t] + (features[g].mean(0) if g else 0) for t, g in groups.items()}
    return best, become


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_visionzip_is_a_shorter_prompt(name):
    """What stays, what it takes up by similar keys of the encoder, and the language model run on just that."""
    model, batch = build(name), hosts.inputs(name, (1,))
    embeds, given = [], []
    handles = [
        hosts.language_model(model).layers[0].register_forward_pre_hook(lambda m, a: embeds.append(a[0])),
        model.model.multi_modal_projector.register_forward_pre_hook(lambda m, a: given.append(a[0])),
    ]
    tower = model.model.vision_tower
    keys = projected(tower.encoder.layers[-2], lambda: model(**batch))[:, 1:]
    for handle in handles:
        handle.remove()
    pixels = batch["pixel_values"].flatten(0, -4)
    attention = build(name, "eager").model.vision_tower(pixels, output_attentions=True).attentions[-2].sum(1)[:, 0, 1:]
    keys = keys.unflatten(-1, (tower.config.num_attention_heads, -1)).mean(2)
    flat = [in_order(name, values) for values in (attention, keys, given[0])]
    patches = flat[2].any(-1).nonzero().flatten()  # no newlines
    best, become = visionzip(*(values[patches] for values in flat), 11, 2)
    with prune(model, "visionzip", keep=13) as pruner:
        logits = model(**batch).logits[0]
    decision, visual = pruner.last.decisions[0], pruner.last.visual[0].nonzero().flatten()
    assert decision.stays[0].nonzero().flatten().tolist() == sorted(patches[[*best, *become]].tolist())
    assert decision.into[0].nonzero().flatten().tolist() == patches[list(become)].tolist()
    states = embeds[0][0].clone()
    for target, features in become.items():
        states[visual[patches[target]]] = model.model.multi_modal_projector(features[None])[0]
    left = torch.ones(len(states), dtype=torch.bool)
    left[visual[~decision.stays[0]]] = False
    short = hosts.language_model(model)(
        inputs_embeds=states[None, left], position_ids=left.nonzero().flatten()[None]
    ).last_hidden_state
    close(logits[left], model.lm_head(short)[0], rtol=1e-4, atol=1e-5)


def test_visionzip_refuses_other_encoders():
    with pytest.raises(ValueError, match="reads the class token of the vision encoder, which `model` idefics3"):
        prune(build("idefics3"), "visionzip")


def test_an_attention_that_gives_no_weights_and_takes_flat_masks():
    """The contract of FlashAttention: a 2-D padding mask or none, no weights, positions only where packed."""
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
    from transformers.modeling_utils import AttentionInterface

    def attend(module, query, key, value, attention_mask, scaling, **kwargs):
        positions = kwargs.get("position_ids")
        if attention_mask is not None:
            assert attention_mask.shape == (query.shape[0], key.shape[2])
        elif query.shape[0] == 1 and positions is not None:  # a gap would be taken for a second sequence
            assert (positions.diff(dim=-1) == 1).all()
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
        q, k = query.shape[2], key.shape[2]
        allowed = torch.ones(q, k, dtype=torch.bool).tril(k - q)[None, None]
        if attention_mask is not None:
            allowed = allowed & attention_mask[:, None, None]
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, allowed, scale=scaling)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register("weightless", attend)
    AttentionMaskInterface.register("weightless", flash_attention_mask)
    for rows in ((1,), hosts.IMAGES):
        batch, outputs = hosts.inputs("llava", rows), []
        for attention in ("sdpa", "weightless"):
            model = hosts.build("llava")
            model.model.language_model.config._attn_implementation = attention
            with prune(model, "transprune", keep={1: 0.75, 3: 0.25}):
                outputs.append(model.generate(**batch, max_new_tokens=4, do_sample=False))
        assert torch.equal(*outputs)
