"""How a pipeline's own guidance is read from outside: its two predictions, its formula, and its scale at every step.

At the first step everything is tried that pipelines do (which half is conditional, a changed sign, a wider type, where
the scale is kept); what explains the pipeline's own prediction holds, and every later step is held to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch

from guidance.formula import Formula

from .formulas import FromConditional
from .hosts import Known

# Where pipelines keep the scale that they guide by, as local variables of their call or as attributes.
LOCALS = (
    "current_guidance_scale",
    "true_cfg_scale",
    "guidance_scale",
    "decoder_guidance_scale",
    "prior_guidance_scale",
)
ATTRIBUTES = ("guidance_scale", "_guidance_scale", "true_cfg_scale", "_true_cfg_scale")
FOREIGN = (
    "`pipe` does not guide by u + s (c - u) with these arguments (skip-layer or another guidance is on), so its scale "
    "cannot be replaced."
)

Source = tuple[str, str]  # "local", "attribute" or "guider", and a name


def tensor_of(output: Any) -> torch.Tensor:
    """What a denoiser predicts, from whatever it returned; rows that came as a list are stacked."""
    value = output[0] if isinstance(output, (tuple, list)) else getattr(output, "sample", output)
    return torch.stack(list(value)) if isinstance(value, (tuple, list)) else value


def split(outputs: list[torch.Tensor], batch: int) -> tuple[torch.Tensor, ...] | None:
    """The predictions of one step, raw: two in the usual order ``(uncond, cond)``, three in the pipeline's own; `None`
    where there was one alone.

    Raises:
        ValueError: there were more, or others.
    """
    rows = [len(output) for output in outputs]
    if rows == [batch]:
        return None
    if rows in ([2 * batch], [3 * batch]):
        return outputs[0].chunk(rows[0] // batch)
    if rows == [batch, batch]:
        return outputs[1], outputs[0]  # in two calls the conditional one comes first
    if rows == [batch] * 3:
        return tuple(outputs)
    raise ValueError(FOREIGN)


@dataclass(frozen=True)
class Reading:
    """How one pipeline guides.

    Attributes:
        swapped: whether the predictions come in the other order than usual.
        sign: -1 where the pipeline changes the sign of what its denoiser predicts.
        dtype: what predictions are cast to before they become one, `None` for nothing.
        formula: how they become one.
        sources: where the scale may be kept; all agreed so far.
        scale: the scale found, where it is kept nowhere.
    """

    formula: Formula
    swapped: bool = False
    sign: int = 1
    dtype: torch.dtype | None = None
    sources: tuple[Source, ...] = ()
    scale: float = 0.0

    def order(self, predictions: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """``(uncond, cond)`` as the scheduler would be given them."""
        pair = predictions[::-1] if self.swapped else predictions
        u, c = pair if self.dtype is None else (x.to(self.dtype) for x in pair)
        return (u, c) if self.sign > 0 else (-u, -c)

    def deviation(
        self, guided: torch.Tensor, predictions: tuple[torch.Tensor, torch.Tensor], scale: float
    ) -> torch.Tensor:
        """Whether the pipeline's own prediction `guided` is something else than ours: a bool on the device."""
        u, c = self.order(predictions)
        ours = self.formula(u, c, torch.full((len(u),), scale, device=u.device))
        eps = max(torch.finfo(x.dtype).eps for x in (u, guided))
        wide = torch.promote_types(u.dtype, torch.float32)
        u, direction = u.to(wide), scale * (c.to(wide) - u.to(wide))
        rounding = 8 * eps * (u.norm() + direction.norm()) + 1e-3 * direction.norm()
        return (guided.to(wide) - ours.to(wide)).norm() > rounding


def read(
    pipe: Any,
    known: Known,
    guided: torch.Tensor,
    predictions: tuple[torch.Tensor, torch.Tensor],
    formula: Formula,
    others: Sequence[Formula] = (),
) -> Reading:
    """Finds out how `pipe` made its own prediction `guided` of the two: by `formula` or one of the `others`.

    Raises:
        ValueError: by no rule that is known here, so that it cannot be replaced.
    """
    stated = stated_scales(pipe, known)
    if not all(x.isfinite().all() for x in (guided, *predictions)):
        # Nothing can be found out, and the denoiser is to blame, which is said later.
        return Reading(formula, sources=tuple(stated), scale=next(iter(stated.values()), 1.0))
    dtypes = [None] if guided.dtype == predictions[0].dtype else [None, guided.dtype]
    forms = [formula, *others, *([FromConditional()] if type(formula) is Formula else [])]
    found = None
    for sign, swapped, form, dtype in (
        (g, o, f, d) for g in (1, -1) for o in (False, True) for f in forms for d in dtypes
    ):
        reading = Reading(form, swapped, sign, dtype)
        for scale in dict.fromkeys(stated.values()):
            if not reading.deviation(guided, predictions, scale):
                sources = tuple(source for source, value in stated.items() if value == scale)
                reading = replace(reading, sources=sources, scale=scale)
                u, c = reading.order(predictions)
                exact = torch.equal(form(u, c, torch.full((len(u),), scale)).to(guided.dtype), guided)
                if exact:
                    return reading
                found = found or reading
    return found or fitted(guided, predictions, formula)


def fitted(guided: torch.Tensor, predictions: tuple[torch.Tensor, torch.Tensor], formula: Formula) -> Reading:
    """The reading whose scale is kept nowhere that is known, from the predictions alone.

    Raises:
        ValueError: there is none.
    """
    if type(formula) is Formula:
        for sign in (1, -1):
            u, c, g = (x.cpu().double().flatten() for x in (*predictions, sign * guided))
            direction, moved = c - u, g - u
            scale = float(moved @ direction / (direction @ direction)) if direction.any() else 1.0
            # Seen from the wrong end a scale s > 1 is 1 - s.
            scale, swapped = (1 - scale, True) if scale < 0 else (scale, False)
            scale = round(scale, 3 if torch.finfo(guided.dtype).eps < 1e-4 else 2)
            reading = Reading(formula, swapped, sign, scale=scale)
            if not reading.deviation(guided, predictions, scale):
                return reading
    raise ValueError(FOREIGN)


def stated_scales(pipe: Any, known: Known, sources: tuple[Source, ...] | None = None) -> dict[Source, float]:
    """What the sources say now; by default all there are."""
    holders = {"local": None, "attribute": pipe, "guider": known.get("guider")}
    every = [("local", name) for name in LOCALS] + [("attribute", name) for name in ATTRIBUTES]
    said = {}
    for kind, name in [*every, ("guider", "guidance_scale")] if sources is None else sources:
        value: Any = known.get(name) if kind == "local" else getattr(holders[kind], name, None)
        is_number = isinstance(value, Real) and not isinstance(value, bool)  # NumPy's, too
        if is_number or (isinstance(value, torch.Tensor) and value.numel() == 1):
            said[kind, name] = float(value)
    return said
