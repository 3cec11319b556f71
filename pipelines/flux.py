"""FLUX.1 with true classifier-free guidance (two denoiser calls per step)."""

from diffusers import FluxImg2ImgPipeline, FluxInpaintPipeline, FluxPipeline

from .dynamic import DynamicGuidanceMixin


class _TrueCFG(DynamicGuidanceMixin):
    """FLUX runs its unconditional pass only with a negative prompt and ``true_cfg_scale > 1``: here both have defaults,
    and one negative prompt serves all prompts.

    `guidance_scale` stays what it is in FLUX, the distilled guidance embedding.
    """

    def __call__(self, *args, **kwargs):
        if len(args) < 3 and kwargs.get("negative_prompt_embeds") is None:
            negative = kwargs.get("negative_prompt") or ""
            prompt = args[0] if args else kwargs.get("prompt")
            prompt = kwargs.get("prompt_embeds") if prompt is None else prompt
            several = isinstance(negative, str) and prompt is not None and not isinstance(prompt, str)
            kwargs["negative_prompt"] = [negative] * len(prompt) if several else negative
        if len(args) < 5:
            kwargs.setdefault("true_cfg_scale", 3.5)
        return super().__call__(*args, **kwargs)


class DynamicGuidanceFluxPipeline(_TrueCFG, FluxPipeline):
    """Text to image."""


class DynamicGuidanceFluxImg2ImgPipeline(_TrueCFG, FluxImg2ImgPipeline):
    """Image to image."""


class DynamicGuidanceFluxInpaintPipeline(_TrueCFG, FluxInpaintPipeline):
    """Inpainting."""
