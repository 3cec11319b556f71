"""Trains the embedded vision-language model, a small genuine LLaVA, on questions about tinyworld scenes.

python -m tinyworld.recipes.lvlm --out runs/lvlm --minutes 60

Several questions share their image: the sequence is the image and then question after question, each of which attends
to the image and itself alone and counts its positions from the end of the image. Images come first and attention is
causal, so this gives exactly the losses of separate sequences at a fraction of the cost. The vision encoder and the
projector learn alone first, at a quarter of the cost of a step: answers about patches that show nothing yet teach
nothing. They are told what each patch shows in words, and learn to point at the embeddings of these words, so that
what the decoder reads is in its own language. Half of the pictures are clutter, in which few of the tokens matter to a
question: a model that knows only large objects can answer from any part of them.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from training import loop
from training.vae import to_pixels

from .. import lvlm
from ..captions import COLORS
from ..clutter import make_clutter
from ..features import TARGETS, targets
from ..questions import KINDS, Question, ask, kinds_of, quiz
from ..scenes import SIZE, Scene, make_scene
from .lessons import IGNORE, VIEW, Lens, patch_targets, word_targets
from .processor import PATCH, build_processor

QUESTIONS = 12  # for each image
TOKENS = (SIZE // PATCH) ** 2  # of an image
CLUTTER = 0.5  # of the pictures
# In the others. Where there are two kinds of object, a question has to be read before it can be answered.
CATEGORY_SHARES = {"binding": 0.1, "count": 0.2, "two_kind": 0.25, "relation": 0.25, "text": 0.2}
# 1 for the others and in clutter: fewer scenes, or more to learn.
KIND_WEIGHTS = {"relation": 3.0, "text": 4.0, "yes_no": 2.0}
# Some pictures are shown without colours and not asked about them, so that shapes are learned apart from colours:
# combinations of the two that are held out would look like neither.
GRAY, LUMA = 0.25, np.array([0.299, 0.587, 0.114], np.float32)
LESSON_WEIGHT = 0.3  # of the losses beside that of the answers
VISION = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT = {
    "hidden_size": 160,
    "intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 5,
    "initializer_range": 160**-0.5,
}


def build(processor: LlavaProcessor, vision: dict = VISION, text: dict = TEXT) -> LlavaForConditionalGeneration:
    """256 visual tokens, 8 decoder layers and 3.1 M parameters."""
    tokenizer = processor.tokenizer
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, image_size=SIZE, patch_size=PATCH),
        text_config=LlamaConfig(
            **text,
            **ids,
            num_key_value_heads=text["num_attention_heads"],
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            tie_word_embeddings=True,  # patches are taught to look like words, so one that is copied is an answer
        ),
        image_token_index=processor.image_token_id,
        image_seq_length=TOKENS,
        tie_word_embeddings=True,
        vision_feature_layer=-1,  # no other head needs the last layer, so its output is what is read
        **ids,
    )
    return LlavaForConditionalGeneration(config)


# ----------------------------------------------------------------------------------------------------------- batches


def pack(
    processor: LlavaProcessor, scenes: Sequence[Scene], asked: Sequence[Sequence[Question]]
) -> dict[str, torch.Tensor]:
    """Questions about n scenes, and their answers, as n sequences of the same length.

    Returns:
        ``input_ids``, ``position_ids`` and ``labels`` ``(n, length)``, the last `IGNORE` but at answers and what ends
        them; ``words`` ``(n, length, len(VIEW))``, what nouns refer to; ``attention_mask`` ``(n, 1, length, length)``
        bool, who attends to whom.
    """
    tokenizer = processor.tokenizer
    prefix = [tokenizer.bos_token_id] + [processor.image_token_id] * TOKENS
    rows, words = [], []
    for scene, questions in zip(scenes, asked, strict=True):
        ids, labels = list(prefix), [IGNORE] * len(prefix)
        referred = [torch.full((len(prefix), len(VIEW)), IGNORE)]
        positions, segments = list(range(len(prefix))), [0] * len(prefix)
        for number, question in enumerate(questions, 1):
            text, reply = tokenizer([question.text, question.answer], add_special_tokens=False).input_ids
            reply = [*reply, tokenizer.eos_token_id]
            ids += text + reply
            labels += [IGNORE] * len(text) + reply
            positions += range(len(prefix), len(prefix) + len(text) + len(reply))
            segments += [number] * (len(text) + len(reply))
            referred += [word_targets(scene, tokenizer.convert_ids_to_tokens(text))]
            referred += [torch.full((len(reply), len(VIEW)), IGNORE)]
        words.append(torch.cat(referred))
        rows.append((ids, positions, labels, segments))
    length = max(len(row[0]) for row in rows)
    fill = (tokenizer.pad_token_id, 0, IGNORE, -1)
    ids, positions, labels, segments = (
        torch.tensor([row[i] + [value] * (length - len(row[i])) for row in rows]) for i, value in enumerate(fill)
    )
    key, query = segments[:, None, :], segments[:, :, None]
    mask = ((key == 0) | (key == query) & (key > 0)) & torch.ones(length, length, dtype=torch.bool).tril()
    words = torch.nn.utils.rnn.pad_sequence(words, batch_first=True, padding_value=IGNORE)
    return {
        "input_ids": ids,
        "position_ids": positions,
        "labels": labels,
        "words": words,
        "attention_mask": mask[:, None],
    }


def questions_about(scene: Scene, n: int, rng: np.random.Generator, gray: bool = False) -> list[Question]:
    """`n` questions about `scene`, the kinds as often as `KIND_WEIGHTS` says; about a `gray` one none with a colour."""
    kinds, clutter = kinds_of(scene), len(scene.spec.groups) > 2
    weights = np.array([1.0 if clutter else KIND_WEIGHTS.get(kind, 1.0) for kind in kinds])
    asked: list[Question] = []
    while len(asked) < n:  # ends: anything can be counted, and words be read, without their colours
        question = ask(scene, rng, kinds[rng.choice(len(kinds), p=weights / weights.sum())])
        if not gray or not {"color", *COLORS} & {*question.text.rstrip("?").split(), question.answer}:
            asked.append(question)
    return asked


def batch_of(processor: LlavaProcessor, first: int, n: int, questions: int = QUESTIONS) -> dict[str, torch.Tensor]:
    """Pictures `first` … `first + n - 1` of the train split with `questions` questions each, for `Learner`."""
    rngs = [np.random.default_rng((seed, 31)) for seed in range(first, first + n)]
    scenes = []
    for seed, rng in enumerate(rngs, first):
        category = str(rng.choice(list(CATEGORY_SHARES), p=list(CATEGORY_SHARES.values())))
        scenes.append(make_clutter(seed) if rng.random() < CLUTTER else make_scene(seed, category=category))
    gray = np.array([rng.random() < GRAY for rng in rngs])
    images = np.stack([scene.image for scene in scenes])
    images[gray] = (images[gray] @ LUMA)[..., None].round().astype(np.uint8)
    patches = torch.stack([patch_targets(scene) for scene in scenes])
    caption = torch.stack([targets(scene.spec) for scene in scenes])
    caption[gray, : len(COLORS)] = -1  # unknown
    batch = {"pixel_values": to_pixels(images), "patches": patches, "caption": caption}
    if questions:
        batch |= pack(processor, scenes, [questions_about(scenes[i], questions, rngs[i], gray[i]) for i in range(n)])
    for name in {"patches", "words"} & set(batch):
        color = batch[name][gray, :, 0]
        batch[name][gray, :, 0] = torch.where(color > 0, IGNORE, color)
    return batch


# ---------------------------------------------------------------------------------------------------------- learning


class Learner(torch.nn.Module):
    """The model and what it is asked beside the questions, which is thrown away.

    Answers of a few bits teach slowly. So each patch is asked what it shows: where the projector puts it is compared
    with the embeddings of the words in `VIEW`. Each noun of a question is asked, half way through the decoder, what it
    refers to: without this, looking up what the question names is not learned in hours. And the class token is asked
    what the caption tells: nothing else would train a class token, which some pruning methods read.
    """

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        super().__init__()
        self.model = model
        width = model.config.vision_config.hidden_size
        self.caption_head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, TARGETS))
        self.patch_lens = Lens(processor.tokenizer, none_weight=0.3)  # most patches show nothing
        self.word_lens = Lens(processor.tokenizer)

    def matrices(self) -> list[torch.nn.Parameter]:
        """The weights of the model that `loop.fit` trains with Muon: all matrices but embeddings."""
        return [
            module.weight
            for module in self.model.modules()
            if isinstance(module, torch.nn.Linear) and module is not self.model.lm_head
        ]

    def forward(
        self,
        pixel_values: torch.Tensor,
        patches: torch.Tensor,
        caption: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        words: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses of the answers, of what nouns refer to and of the vision encoder, and the share of answer tokens that
        are right. Without `input_ids` only vision encoder and projector are run, and the others are left out."""
        inner = self.model.model
        embeddings = self.model.get_input_embeddings().weight
        states = inner.vision_tower(pixel_values=pixel_values).last_hidden_state
        features = inner.multi_modal_projector(states[:, 1:])
        told = F.binary_cross_entropy_with_logits(
            self.caption_head(states[:, 0].float()), caption.clamp(min=0), weight=(caption >= 0).float()
        )
        vision = told + self.patch_lens(features.flatten(0, 1), embeddings, patches.flatten(0, 1))
        if input_ids is None:
            return {"vision": vision}
        decoder, spoken = inner.language_model, slice(1 + TOKENS, None)
        text = F.embedding(torch.cat([input_ids[:, :1], input_ids[:, spoken]], 1), embeddings)
        hidden = torch.cat([text[:, :1], features.to(text.dtype), text[:, 1:]], 1)
        rotary = decoder.rotary_emb(hidden, position_ids)
        for depth, layer in enumerate(decoder.layers, 1):
            hidden = layer(hidden, attention_mask=attention_mask, position_ids=position_ids, position_embeddings=rotary)
            if depth == len(decoder.layers) // 2:
                words, half_way = words[:, spoken].flatten(0, 1), hidden[:, spoken].flatten(0, 1)
                nouns = (words != IGNORE).any(-1)
                referred = self.word_lens(half_way[nouns], embeddings, words[nouns])
        labels = labels[:, spoken]
        answers = labels != IGNORE
        logits = self.model.lm_head(decoder.norm(hidden[:, spoken.start - 1 : -1][answers])).float()
        labels = labels[answers]
        right = (logits.argmax(-1) == labels).float().mean()
        return {"answer": F.cross_entropy(logits, labels), "words": referred, "vision": vision, "accuracy": right}


def loss_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross entropy of the answer tokens, and `LESSON_WEIGHT` times that of what is taught beside them."""
    device = next(model.parameters()).device
    found = model(**{name: tensor.to(device) for name, tensor in batch.items()})
    loss = LESSON_WEIGHT * (found["vision"] + found.get("words", 0.0)) + found.get("answer", 0.0)
    return loss, {name: value.detach() for name, value in found.items()}


def exact_match(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, n: int, seed: int = 0, clutter: bool = False
) -> dict[str, float]:
    """Share of `n` held-out questions, about scenes or about `clutter`, that `generate` answers exactly, by kind and
    over all."""
    pairs = quiz(n, seed, clutter=clutter)
    images, texts = [Image.fromarray(scene.image) for scene, _ in pairs], [question.text for _, question in pairs]
    given = lvlm.answer(model, processor, images, texts)
    right = np.array([text == question.answer for text, (_, question) in zip(given, pairs, strict=True)])
    kinds = np.array([question.kind for _, question in pairs])
    by_kind = {kind: round(float(right[kinds == kind].mean()), 4) for kind in KINDS if kind in kinds}
    return by_kind | {"all": round(float(right.mean()), 4)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    loop.add_arguments(parser, batch_size=16, lr=1e-3, minutes=60)
    parser.add_argument("--init", type=Path, help="folder of a model to train further")
    parser.add_argument(
        "--vision-steps", type=int, default=2000, help="first, on the vision encoder alone; 0 with --init"
    )
    parser.add_argument("--test-questions", type=int, default=1200, help="held-out questions that the report is on")
    parser.add_argument("--compile-layers", action="store_true", help="compile the layers: an eighth faster on a CPU")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    model, processor = lvlm.load(args.init) if args.init else (None, build_processor())
    model = model or build(processor)
    learner = Learner(model, processor)
    if args.compile_layers:
        for layer in (*model.model.vision_tower.encoder.layers, *model.model.language_model.layers):
            layer.compile(dynamic=True)
    start = args.seed << 40

    def make_batch(step: int) -> dict[str, torch.Tensor]:
        return batch_of(
            processor,
            start + step * args.batch_size,
            args.batch_size,
            questions=QUESTIONS if step >= args.vision_steps else 0,
        )

    report = loop.fit(args, learner, make_batch, loss_of, matrices=learner.matrices())
    report["questions"] = max(0, report["steps"] - args.vision_steps) * args.batch_size * QUESTIONS
    if args.init:
        before = args.init.parent / "report.json"
        report["init"] = json.loads(before.read_text()) if before.is_file() else str(args.init)
    for name, clutter in (("exact_match", False), ("exact_match_in_clutter", True)):
        report[name] = exact_match(model, processor, args.test_questions, clutter=clutter)
    model.save_pretrained(args.out / "lvlm")
    processor.save_pretrained(args.out / "lvlm")
    loop.write_report(args.out, report)


if __name__ == "__main__":
    main()
