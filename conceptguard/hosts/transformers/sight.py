"""How a language model sees: pictures as its processor hands them on, and what it makes of them inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ...errors import BaseMismatch, SessionError
from ...generation.images import as_bytes

# What stands between a picture tower and the text model, by family: LLaVA, Idefics, BLIP-2, Qwen-VL, Gemma.
_PROJECTORS = ("multi_modal_projector", "connector", "language_projection", "merger", "embed_vision")
TOWERS = ("vision_tower", "vision_model", "visual")  # a picture tower's name in its model
_BATCH = 128  # pictures that are looked at together


def image_token(model: Any) -> int | None:
    """The id that stands for a picture in a model's prompts; None where none does."""
    found = getattr(model.config, "image_token_id", getattr(model.config, "image_token_index", None))
    return None if found is None else int(found)


class Sight:
    """See ``protocols.Sight``. Raises SessionError for a model that reads text alone, or came without its processor.

    part: a module by its name, after ``model.``; asked: entered around every call of the model
    """

    def __init__(
        self, model: Any, reader: Any, part: Callable[[str], Any], asked: Callable[[], AbstractContextManager[None]]
    ):  # fmt: skip
        kind = type(model).__name__
        if not hasattr(reader, "image_processor"):
            raise SessionError(f"{kind}: nothing here reads pictures: give a pair (model, processor) that does")
        token = image_token(model)
        if token is None or not hasattr(model, "get_image_features"):
            raise SessionError(
                f"a {kind} has no tokens in its prompts that stand for a picture: give a LLaVA-type model, whose "
                "picture tower is joined to the text by a projector"
            )
        self.image = token
        self._model, self._reader, self._part, self._asked = model, reader, part, asked

    @property
    def projector(self) -> str:
        """The module that gives the text model what it sees, by its name. Raises BaseMismatch."""
        found = [name for name, _ in self._model.named_modules() if name.rsplit(".", 1)[-1] in _PROJECTORS]
        if not found:
            raise BaseMismatch(
                f"a {type(self._model).__name__} has none of {', '.join(_PROJECTORS)}: name the layer that is meant"
            )
        return f"model.{min(found, key=len)}"

    @property
    def decoder(self) -> str:
        """The text model, by its name."""
        decoder = self._model.get_decoder()
        return "model." + next(name for name, module in self._model.named_modules() if module is decoder)

    def read(self, prompts: Sequence[str], pictures: Tensor | None) -> dict[str, Tensor]:
        """What the model is given for prompts, and pictures [n, 3, h, w] in [0, 1] for the places in them, in order."""
        shown = {} if pictures is None else {"images": list(as_bytes(pictures))}
        more = {} if pictures is None else {"input_data_format": "channels_last"}
        found = self._reader(text=list(prompts), **shown, padding=True, return_tensors="pt", **more)
        device, dtype = self._model.device, self._model.dtype
        return {name: one.to(device, dtype if one.is_floating_point() else None) for name, one in found.items()
                if isinstance(one, Tensor)}  # fmt: skip

    def pixels(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, h, w] in [0, 1] as the model is given them."""
        given = self._reader.image_processor(
            list(as_bytes(pictures)), return_tensors="pt", input_data_format="channels_last"
        )
        found: Tensor = given["pixel_values"]
        return found.to(self._model.device, self._model.dtype)

    @torch.no_grad()
    def states(self, pictures: Tensor, layer: str) -> Tensor:
        """What a layer gives for pictures, [n, tokens, width], float32. Raises BaseMismatch where it is not there, or
        has nothing to do with pictures."""
        given: list[Tensor] = []

        def written(module: Any, args: Any, out: Any) -> None:
            given.append((out[0] if isinstance(out, tuple) else out).float())

        handle = self._part(layer).register_forward_hook(written)
        try:
            for some in pictures.split(_BATCH):
                with self._asked():
                    self._model.get_image_features(pixel_values=self.pixels(some))
        finally:
            handle.remove()
        found = torch.cat(given) if given else torch.zeros(0)
        if found.ndim != 3 or len(found) != len(pictures):
            raise BaseMismatch(
                f"layer {layer} gives no states of each picture: name one of the picture tower, or the projector"
            )
        return found
