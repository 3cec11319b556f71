"""Hooks that hold in compiled models, too."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

COPIED_BY = ("__reduce_ex__", "_replicate_for_data_parallel")  # copy and pickle; DataParallel on several devices


def refuse_to_copy(*args: Any) -> Any:
    raise TypeError(
        "`model` is pruned and cannot be copied, pickled or replicated (DataParallel): do that before; prune the copy."
    )


class Hooks:
    """Hooks on modules, until removed.

    Code that `torch.compile` made of a module before does not ask for its hooks. So a hooked module gets a `forward` of
    its own, which compiled code does look for and then gives way, and runs as it is written. Once the hooks are removed
    the compiled code serves again.

    A copy of a hooked module would run the forward of the original, with its weights: copies are refused.
    """

    def __init__(self) -> None:
        self.handles: list[Any] = []
        self.forwards: dict[nn.Module, Any] = {}  # what a module had of its own, `None` where nothing

    def before(self, module: nn.Module, hook: Callable) -> None:
        """``hook(module, args, kwargs)`` runs before each forward, see `nn.Module.register_forward_pre_hook`."""
        self.uncompile(module)
        hook = torch.compiler.disable(hook)
        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after(self, module: nn.Module, hook: Callable, always: bool = False) -> None:
        """``hook(module, args, kwargs, output)`` runs after each forward, with `always` also after one that raises."""
        self.uncompile(module)
        hook = torch.compiler.disable(hook)
        self.handles.append(module.register_forward_hook(hook, with_kwargs=True, always_call=always))

    def uncompile(self, module: nn.Module) -> None:
        if module in self.forwards:
            return
        stock = module.forward
        self.forwards[module] = module.__dict__.get("forward")
        written = getattr(stock, "_torchdynamo_orig_callable", stock)
        module.__dict__["forward"] = torch.compiler.disable(written)
        module.__dict__.update(dict.fromkeys(COPIED_BY, refuse_to_copy))

    def remove(self) -> None:
        while self.handles:
            self.handles.pop().remove()
        while self.forwards:
            module, own = self.forwards.popitem()
            for name in ("forward", *COPIED_BY):
                module.__dict__.pop(name, None)
            if own is not None:
                module.__dict__["forward"] = own
