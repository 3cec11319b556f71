"""`DynamicGuidanceMixin`: what turns a diffusers pipeline class into one that takes `guidance=`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidance import Guidance

from .guide import guide

if TYPE_CHECKING:
    from .types import Pipeline
else:
    Pipeline = object


class DynamicGuidanceMixin(Pipeline):
    """Put before a diffusers pipeline class; everything that the class offers stays.

    ``pipe(..., guidance=...)`` takes what `guide` takes; without it the attribute `guidance` of the
    pipeline holds. The output gains ``guidance_trace``, a `GuidanceTrace`; so does the pipeline, for
    ``return_dict=False``. `evaluator_prompt` is what the evaluators read where only ``prompt_embeds`` are given.
    """

    guidance: Guidance | None = None

    def __call__(
        self,
        *args: Any,
        guidance: Guidance | None = None,
        evaluator_prompt: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        guidance = guidance or self.guidance
        if guidance is None:
            raise ValueError(
                "`guidance` is required: pass a GreedySearch or a Schedule to the call, or set it on the pipeline "
                "(`pipe.guidance = GreedySearch(evaluators)`)."
            )
        with guide(self, guidance, evaluator_prompt) as traces:
            output = super().__call__(*args, **kwargs)
        self.guidance_trace = traces[-1]
        if not isinstance(output, tuple):
            output.guidance_trace = self.guidance_trace
        return output

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes model_index.json under the stock class's name: what was guided once loads in diffusers as before."""
        super().save_config(save_directory, push_to_hub, **kwargs)
        stock = next(c.__name__ for c in type(self).__mro__ if c.__module__.startswith("diffusers."))
        index = Path(save_directory) / self.config_name
        index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": stock}, indent=2) + "\n")
