"""How many operations a pruned model starts: on a fast GPU, where a prompt alone is read, their launches take the time.

    online-guidance benchmark launches
    online-guidance benchmark launches --methods cdpruner divprune --json

Of LLaVA-1.5-7B's layers and tokens, at a small width, on which counts do not depend, in fp16 on a CPU; a third of the
visual tokens is left. Every operation counts that torch is told to do below autograd, but views and what has no
element, which start nothing; the matrix of all similarities is made whole, as on a GPU. A question is a number that is
read from a tensor, for which a GPU has to be done with all that it was told before.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from commands.parser import Parser
from evaluators.token import rows
from guidance import TOKEN_PRESETS
from pipelines.prune.cache import cache_of
from pipelines.prune.pruner import prune

from .provenance import commit
from .pruning import usable
from .pruning_shapes import SHAPES, build, inputs

SHAPE = "llava-1.5-7b"
NARROW = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
KEEP = 1 / 3


class Operations(TorchDispatchMode):
    """Counts what is done under it.

    Attributes:
        started: operations that are no views, nor of nothing.
        questions: numbers read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started = self.questions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.started += not func.is_view and not (isinstance(result, torch.Tensor) and not result.numel())
        self.questions += func is torch.ops.aten._local_scalar_dense.default
        return result


def narrow() -> Any:
    """A model of `SHAPE` whose operations are small."""
    numbers = SHAPES[SHAPE]
    parts = {"vision": numbers["vision"] | NARROW, "text": numbers["text"] | NARROW | {"num_key_value_heads": 2}}
    with patch.dict(SHAPES, {SHAPE: numbers | parts}):
        return build(SHAPE, "cpu").half()


def count(function: Callable[[], Any]) -> tuple[Any, Operations]:
    """What `function` returns, and what it did."""
    with torch.no_grad(), Operations() as operations:
        result = function()
    return result, operations


def costs(model: Any, batch: Any) -> dict[str, int]:
    """Of a prompt, and of one token written after it."""
    output, prefill = count(lambda: model(**batch, use_cache=True))
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
    grown = {"input_ids": batch["input_ids"][:, -1:], "attention_mask": mask, name: cache_of(output)}
    _, step = count(lambda: model(**grown))
    return {"prefill": prefill.started, "questions": prefill.questions, "decoding": step.started}


def measure(methods: list[str]) -> dict[str, Any]:
    """Everything that ``--json`` prints."""
    model = narrow()
    batch = inputs(model, 1)
    names, skipped = usable(model, batch, methods)
    whole, presets = costs(model, batch), {}
    with patch.object(rows, "whole_pays", lambda device, numbers: True):
        for name in names:
            with prune(model, name, keep=KEEP):
                counts = costs(model, batch)
            ratios = {f"{key}_ratio": round(counts[key] / whole[key], 3) for key in ("prefill", "decoding")}
            presets[name] = counts | ratios
    return {"shape": SHAPE, "whole": whole, "presets": presets, "skipped": skipped, "commit": commit()} | {
        module.__name__: module.__version__ for module in (torch, transformers)
    }


def main(argv: list[str] | None = None) -> None:
    parser = Parser("benchmark launches", __doc__)
    parser.add_argument("--methods", nargs="+", choices=tuple(TOKEN_PRESETS), help="presets to count; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args(argv)
    report = measure(args.methods or list(TOKEN_PRESETS))
    if args.json:
        print(json.dumps(report, indent=1))
        return
    for name, row in {"whole": report["whole"], **report["presets"]}.items():
        ratios = "".join(f" ({row[key]:.2f})" for key in ("prefill_ratio", "decoding_ratio") if key in row)
        print(f"{name:20}", *(f"{key} {row[key]:5} " for key in ("prefill", "decoding", "questions")), ratios)


if __name__ == "__main__":
    main()
