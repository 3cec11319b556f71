"""Trains the embedded vision-language model, a small genuine LLaVA, on questions about tinyworld scenes.

python -m training.train_lvlm --out runs/lvlm --minutes 60

Several questions share their image: the sequence is the image and then question after question, each of which attends
to the image and itself alone and counts its positions from the end of the image. Images come first and attention is
causal, so this gives exactly the losses of separate sequences at a fraction of the cost. The vision encoder learns
alone first, at a quarter of the cost of a step: answers about patches that show nothing yet teach nothing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from tinyworld import lvlm
from tinyworld.captions import COLORS, LETTERS, SHAPES
from tinyworld.features import TARGETS, targets
from tinyworld.questions import KINDS, Question, ask, quiz
from tinyworld.scenes import SIZE, Scene, _glyph, make_scene

from . import loop
from .data import to_pixels
from .processor import PATCH, build_processor

QUESTIONS = 8  # for each image
IGNORE = -100
# What a patch shows, see `patch_targets`: colour, shape, letter (0 for none), and whether an object's centre is in it.
PATCH_CLASSES = (1 + len(COLORS), 2 + len(SHAPES), 1 + len(LETTERS), 2)
VISION_WEIGHT = 0.3  # of the losses on the vision encoder alone
VISION = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
TEXT = {"hidden_size": 160, "intermediate_size": 384, "num_hidden_layers": 8, "num_attention_heads": 5}


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
        ),
        image_token_index=processor.image_token_id,
        image_seq_length=(SIZE // PATCH) ** 2,
        vision_feature_layer=-1,  # no other head needs the last layer, so its output is what is read
        **ids,
    )
    return LlavaForConditionalGeneration(config)


# ----------------------------------------------------------------------------------------------------------- batches


def pack(processor: LlavaProcessor, asked: Sequence[Sequence[Question]]) -> dict[str, torch.Tensor]:
    """Questions about n images, and their answers, as n sequences of the same length.

    Returns:
        ``input_ids``, ``position_ids`` and ``labels`` ``(n, length)``, the last `IGNORE` but at answers and what ends
        them; ``attention_mask`` ``(n, 1, length, length)`` bool, who attends to whom.
    """
    tokenizer, tokens = processor.tokenizer, (SIZE // PATCH) ** 2
    prefix = [tokenizer.bos_token_id] + [processor.image_token_id] * tokens
    rows = []
    for questions in asked:
        ids, labels = list(prefix), [IGNORE] * len(prefix)
        positions, segments = list(range(len(prefix))), [0] * len(prefix)
        for number, question in enumerate(questions, 1):
            text, reply = tokenizer([question.text, question.answer], add_special_tokens=False).input_ids
            reply = [*reply, tokenizer.eos_token_id]
            ids += text + reply
            labels += [IGNORE] * len(text) + reply
            positions += range(len(prefix), len(prefix) + len(text) + len(reply))
            segments += [number] * (len(text) + len(reply))
        rows.append((ids, positions, labels, segments))
    length = max(len(row[0]) for row in rows)
    fill = (tokenizer.pad_token_id, 0, IGNORE, -1)
    ids, positions, labels, segments = (
        torch.tensor([row[i] + [value] * (length - len(row[i])) for row in rows]) for i, value in enumerate(fill)
    )
    key, query = segments[:, None, :], segments[:, :, None]
    mask = ((key == 0) | (key == query) & (key > 0)) & torch.ones(length, length, dtype=torch.bool).tril()
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "attention_mask": mask[:, None]}


def letter_boxes(scene: Scene) -> list[tuple[str, int, int, int, int]]:
    """Each letter of the sign with its left, top, right and bottom in pixels; none where there is no sign."""
    if scene.spec.text is None:
        return []
    glyphs, gap = [_glyph(letter, 22) for letter in scene.spec.text], 3  # as `scenes` draws them
    width, height = sum(g.shape[1] for g in glyphs) + gap * (len(glyphs) - 1), max(g.shape[0] for g in glyphs)
    (sign,) = scene.objects
    left, top = round(sign.x - width / 2), round(sign.y - height / 2)
    boxes = []
    for letter, glyph in zip(scene.spec.text, glyphs, strict=True):
        boxes.append((letter, left, top, left + glyph.shape[1], top + glyph.shape[0]))
        left += glyph.shape[1] + gap
    return boxes


def patch_targets(scene: Scene) -> torch.Tensor:
    """What each patch shows, ``(patches, 4)`` of classes as in `PATCH_CLASSES`; `IGNORE` at the rim of an object."""
    y, x = np.mgrid[0:SIZE:PATCH, 0:SIZE:PATCH].reshape(2, -1) + (PATCH - 1) / 2
    found = np.zeros((len(x), 4), np.int64)
    boxes = letter_boxes(scene)
    for o in scene.objects:
        if o.shape == "sign":
            top, bottom = min(b[2] for b in boxes) - 4, max(b[4] for b in boxes) + 4
            inside = (abs(x - o.x) < o.radius) & (top <= y) & (y < bottom)
            rim = np.zeros_like(inside)
        else:
            distance = np.hypot(x - o.x, y - o.y) / o.radius
            inside, rim = distance < 0.8, (distance >= 0.8) & (distance < 1.1)
        shape = SHAPES.index(o.shape) + 1 if o.shape in SHAPES else len(SHAPES) + 1
        found[inside, :2] = COLORS.index(o.color) + 1, shape
        found[rim & (found[:, 0] == 0), :2] = IGNORE
        found[int(o.y) // PATCH * (SIZE // PATCH) + int(o.x) // PATCH, 3] = 1
    for letter, left, top, right, bottom in boxes:
        found[(left <= x) & (x < right) & (top <= y) & (y < bottom), 2] = LETTERS.index(letter) + 1
    return torch.from_numpy(found)


def batch_of(processor: LlavaProcessor, first: int, n: int, questions: int = QUESTIONS) -> dict[str, torch.Tensor]:
    """Scenes `first` … `first + n - 1` of the train split with `questions` questions each, as `Learner` takes them."""
    scenes = [make_scene(seed) for seed in range(first, first + n)]
    rngs = [np.random.default_rng((seed, 31)) for seed in range(first, first + n)]
    asked = [[ask(scene, rng) for _ in range(questions)] for scene, rng in zip(scenes, rngs, strict=True)]
    return (pack(processor, asked) if questions else {}) | {
        "pixel_values": to_pixels(np.stack([scene.image for scene in scenes])),
        "patches": torch.stack([patch_targets(scene) for scene in scenes]),
        "caption": torch.stack([targets(scene.spec) for scene in scenes]),
    }


# ---------------------------------------------------------------------------------------------------------- learning


class Learner(torch.nn.Module):
    """The model and two linear heads on its vision encoder, which are thrown away.

    Answers of a few bits teach a vision encoder slowly, so its patches are also asked what they show, and its class
    token what the caption tells: nothing else would train a class token, which some pruning methods read.
    """

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        width = model.config.vision_config.hidden_size
        self.patch_head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, sum(PATCH_CLASSES)))
        self.caption_head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, TARGETS))

    def forward(
        self, patches: torch.Tensor, caption: torch.Tensor, labels: torch.Tensor | None = None, **inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses of the answers and of the vision encoder, and the share of answer tokens that are right.

        Without `labels` only the vision encoder is run, and the others are 0."""
        if labels is None:
            states = self.model.model.vision_tower(**inputs).last_hidden_state.float()
            answers = right = states.new_zeros(())
        else:
            output = self.model(**inputs, use_cache=False)
            logits, labels = output.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            answers = F.cross_entropy(logits, labels, ignore_index=IGNORE)
            told = labels != IGNORE
            right = (logits[told].argmax(-1) == labels[told]).float().mean()
            states = output.image_outputs.last_hidden_state.float()
        shown = self.patch_head(states[:, 1:]).split(PATCH_CLASSES, -1)
        vision = sum(
            F.cross_entropy(part.flatten(0, 1), patches[..., i].flatten(), ignore_index=IGNORE)
            for i, part in enumerate(shown)
        )
        known = (caption >= 0).float()
        vision = vision + F.binary_cross_entropy_with_logits(
            self.caption_head(states[:, 0]), caption.clamp(min=0), weight=known
        )
        return answers, vision, right


def loss_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross entropy of the answer tokens, and `VISION_WEIGHT` times that of what the vision encoder shows."""
    device = next(model.parameters()).device
    answers, vision, right = model(**{name: tensor.to(device) for name, tensor in batch.items()})
    return answers + VISION_WEIGHT * vision, {"answer": answers.detach(), "vision": vision.detach(), "accuracy": right}


def exact_match(model: LlavaForConditionalGeneration, processor: LlavaProcessor, n: int, seed: int = 0) -> dict:
    """Share of `n` held-out questions that `generate` answers exactly, by kind and over all."""
    pairs = quiz(n, seed)
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
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    model, processor = lvlm.load(args.init) if args.init else (None, build_processor())
    model = model or build(processor)
    start = args.seed << 40
    report = loop.fit(
        args,
        Learner(model),
        lambda step: batch_of(
            processor,
            start + step * args.batch_size,
            args.batch_size,
            questions=QUESTIONS if step >= args.vision_steps else 0,
        ),
        loss_of,
    )
    report["questions"] = max(0, report["steps"] - args.vision_steps) * args.batch_size * QUESTIONS
    report["exact_match"] = exact_match(model, processor, args.test_questions)
    model.save_pretrained(args.out / "lvlm")
    processor.save_pretrained(args.out / "lvlm")
    loop.write_report(args.out, report)


if __name__ == "__main__":
    main()
