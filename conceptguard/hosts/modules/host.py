"""The host for plain torch modules: classifiers, nets over graphs, a GAN's generator, whatever maps tensors to tensors.

Nobody prompts such a module, so that its guards are always open: they are folded into its weights, see
``runtime.folded``. Two hooks on the module let the session look before every call, and tell of it afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import BaseMismatch
from ...host import Host
from ...registry.fingerprint import check_base, fingerprint
from ...runtime.folded import places
from ...runtime.lowrank import LayerIndex
from ...runtime.once import once

if TYPE_CHECKING:
    from ...registry import Artifact


class ModuleHost(Host):
    """Host adapter for any ``torch.nn.Module`` that no other host takes, such as a classifier of timm."""

    about = "a torch module (a classifier, say)"
    generates = "tensors"
    rest = True

    @classmethod
    def takes(cls, target: Any) -> bool:
        """Any module but parts of a diffusers pipeline, which are guarded together."""
        modules = {base.__module__.split(".", 1)[0] for base in type(target).__mro__}
        return isinstance(target, nn.Module) and "diffusers" not in modules

    @classmethod
    def sole(cls, target: Any) -> Any:
        """The module, without what compiled it."""
        return getattr(target, "_orig_mod", target)

    def __init__(self, target: Any):
        super().__init__(target)
        self.model: nn.Module = getattr(target, "_orig_mod", target)
        self.name = f"module {type(self.model).__name__}"
        self._handles: list[Any] = []

    def attach(self, session: Any) -> None:
        """Have the session see every call of the module."""

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            session.before(module, _rows([*args, *kwargs.values()]))

        def after(module: nn.Module, args: Any, out: Any) -> None:
            session.after()

        self._handles = [
            self.target.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
            self.target.register_forward_hook(after),
        ]

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def layers(self) -> LayerIndex:
        """Linear and convolution layers under their names in the module, after ``model.``."""
        return once(self, "layers", lambda: LayerIndex({"model": self.model}))

    def part(self, name: str) -> Any:
        """A module within by its name, after ``model.``; the whole by "". Raises BaseMismatch where there is none."""
        try:
            return self.model.get_submodule(name.removeprefix("model."))
        except AttributeError:
            raise BaseMismatch(f"{self.name} has no part {name}: use an artifact made for this base model") from None

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Of the first parameter."""
        first = next(self.model.parameters(), torch.zeros(()))
        return first.device, first.dtype

    def fingerprint(self) -> str:
        """Same for a fine-tuned sibling, different for another architecture. Of layers; of a net that has none of those
        that terms go beside, as torch_geometric's, of all its tensors."""
        return once(self, "fingerprint", lambda: fingerprint(self.layers().shapes() or _sizes(self.model)))

    def check_base(self, artifact: Artifact) -> None:
        """Raises BaseMismatch when the artifact was made for another architecture."""
        check_base(artifact, self.fingerprint(), "module")


def _sizes(model: nn.Module) -> dict[str, tuple[int, int]]:
    found = {name: place.tensor for name, place in places(model).items()}
    return {name: (len(one) if one.ndim else 1, one.numel()) for name, one in found.items()}


def _rows(given: list[Any]) -> int:
    """How many inputs a call has: the length of the first tensor."""
    return next((len(one) for one in given if isinstance(one, Tensor) and one.ndim), 1)
