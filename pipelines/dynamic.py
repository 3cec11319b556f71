"""`DynamicGuidanceMixin`: what makes a diffusers pipeline class take `guidance=`, and the classes made so.

A class for another host is one name in `CLASSES`; it is made when it is asked for.
"""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import diffusers

from evaluators.pixel.preview import Preview
from guidance import Guidance, GuidanceTrace

from .guide import check, run_guided
from .run import Run

if TYPE_CHECKING:
    from .types import Pipeline
else:
    Pipeline = object

PREFIX = "DynamicGuidance"
TRUE_CFG_SCALE = 3.5
# The pipelines of diffusers that `pipelines` has a class of its own for.
CLASSES = (
    "AuraFlowPipeline",
    "ChromaPipeline",
    "CogVideoXPipeline",
    "CogView4Pipeline",
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
    "FluxKontextPipeline",
    "FluxPipeline",
    "HiDreamImagePipeline",
    "HunyuanDiTPipeline",
    "KolorsPipeline",
    "LTXPipeline",
    "Lumina2Pipeline",
    "PixArtAlphaPipeline",
    "PixArtSigmaPipeline",
    "QwenImageEditPipeline",
    "QwenImageImg2ImgPipeline",
    "QwenImageInpaintPipeline",
    "QwenImagePipeline",
    "SanaPipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
    "StableDiffusion3Pipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPipeline",
    "WanPipeline",
    "ZImagePipeline",
)


class DynamicGuidanceMixin(Pipeline):
    """Put before a diffusers pipeline class; everything that the class offers stays.

    ``pipe(..., guidance=...)`` takes what `guide` takes. Without it the attribute `guidance` of the pipeline holds, and
    without that the call is the stock one. The output gains ``guidance_trace``, a `GuidanceTrace`; so does the
    pipeline, for ``return_dict=False``: `None` where no step ran or nothing was guided. `evaluator_prompt` is what the
    evaluators read where only ``prompt_embeds`` are given; the attribute `preview` is that of `guide`.

    A pipeline that guides only by ``true_cfg_scale`` and a negative prompt (FLUX) gets both where they are not given.
    """

    guidance: Guidance | None = None
    guidance_trace: GuidanceTrace | None = None
    preview: str | Preview = "auto"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stock = next((c for c in cls.__mro__ if c.__module__.startswith("diffusers.")), None)
        if stock is None or any(hasattr(c.__dict__.get("__call__"), "__guided__") for c in cls.__mro__):
            return
        cls.__call__ = _guided(cls, stock.__call__)  # type: ignore[method-assign]  # mypy means `type.__call__`
        # By the stock name diffusers saves it, loads it, and finds its relatives.
        cls.__name__ = stock.__name__


def _guided(cls: type[Any], stock: Callable) -> Callable:
    """The ``__call__`` of `cls`, with the signature and the docstring of `stock` and two parameters more."""

    @functools.wraps(stock)
    def call(
        self: Any,
        *args: Any,
        guidance: Guidance | None = None,
        evaluator_prompt: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        self.guidance_trace = None
        chosen = self.guidance if guidance is None else guidance
        stock_call = super(cls, self).__call__
        if chosen is None:
            output = stock_call(*args, **kwargs)
        else:
            check(self, chosen)
            args, kwargs = with_true_cfg(stock_call, args, kwargs)
            traces: list[GuidanceTrace] = []
            run = Run(self, chosen, evaluator_prompt, traces, must=guidance is not None, preview=self.preview)
            output = run_guided(run, stock_call, args, kwargs)
            self.guidance_trace = traces[0] if traces else None
        if not isinstance(output, tuple):
            output.guidance_trace = self.guidance_trace
        return output

    call.__guided__ = True  # type: ignore[attr-defined]  # a subclass need not be made so again
    signature = inspect.signature(stock)
    ours = [
        inspect.Parameter("guidance", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Guidance | None),
        inspect.Parameter(
            "evaluator_prompt", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=list[str] | None
        ),
    ]
    stated = list(signature.parameters.values())
    rest = [p for p in stated if p.kind is inspect.Parameter.VAR_KEYWORD]
    first = [p for p in stated if p.kind is not inspect.Parameter.VAR_KEYWORD]
    # `inspect` reads this attribute; typeshed's functions have none.
    call.__signature__ = signature.replace(parameters=[*first, *ours, *rest])  # type: ignore[attr-defined]
    return call


def with_true_cfg(stock: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a call of `stock`, a bound method, with the negative prompt and the ``true_cfg_scale`` that such
    a pipeline takes to guide, where they are not given; one negative prompt serves all prompts. Others as they are; so
    are those of a pipeline without text encoders, which could not read a negative prompt."""
    parameters = inspect.signature(stock).parameters
    if not {"true_cfg_scale", "negative_prompt"} <= set(parameters):
        return args, kwargs
    given = inspect.signature(stock).bind(*args, **kwargs).arguments
    reads = all(part is not None for name, part in vars(stock.__self__).items() if name.startswith("tokenizer"))
    if given.get("negative_prompt_embeds") is None and not reads:
        return args, kwargs
    if given.get("negative_prompt_embeds") is None:
        negative = given.get("negative_prompt") or ""
        prompt = given.get("prompt") if given.get("prompt") is not None else given.get("prompt_embeds")
        if isinstance(negative, str) and prompt is not None and not isinstance(prompt, str):
            negative = [negative] * len(prompt)
        given["negative_prompt"] = negative
    if parameters["true_cfg_scale"].default <= 1:
        given.setdefault("true_cfg_scale", TRUE_CFG_SCALE)
    return (), dict(given) | given.pop("kwargs", {})


@functools.cache
def dynamic_class(name: str) -> type:
    """The class of a name in `CLASSES` after `PREFIX`.

    Raises:
        AttributeError: there is none.
    """
    stock = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or stock not in CLASSES:
        raise AttributeError(f"there is no pipeline class {name!r}")
    base = getattr(diffusers, stock)
    body = {"__doc__": f"`diffusers.{stock}` with `guidance=`.", "__module__": "pipelines", "__qualname__": name}
    return type(name, (DynamicGuidanceMixin, base), body)
