"""Images without what drew them: a host for guards that look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..encodings import Known
from ..errors import SessionError
from ..lowrank import LayerIndex

if TYPE_CHECKING:
    from ..registry import Artifact
    from ..session import Session


class Pictures:
    """What to attach a policy to whose guards shall look at images from anywhere, by ``session.check_image``."""


class ImagesHost:
    """Host adapter for Pictures. A guard that needs a model raises SessionError."""

    name = denoiser_name = "images"

    def __init__(self, target: Pictures):
        self.target = target

    def layers(self) -> LayerIndex:
        """None."""
        return LayerIndex({})

    def known(self) -> Known:
        """Nothing."""
        return Known()

    def device_dtype(self) -> tuple[torch.device, torch.dtype]:
        """Images come as floats on the CPU."""
        return torch.device("cpu"), torch.float32

    def check_base(self, artifact: Artifact) -> None:
        """Whatever drew them."""

    def compiled(self) -> bool:
        """No model, none compiled."""
        return False

    def read(self, texts: list[str]) -> Any:
        """Raises SessionError: nothing here reads."""
        raise SessionError("a guard asked for a text encoder, and there are images only: attach it to what draws them")

    def attach(self, session: Session) -> None:
        """Nothing to route."""

    def detach(self) -> None:
        """Nothing to undo."""
