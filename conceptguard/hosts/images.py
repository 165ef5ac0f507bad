"""Images without what drew them: a host for guards that look."""

from __future__ import annotations

from typing import Any

from ..host import Host


class Pictures:
    """What to attach a policy to whose guards shall look at images from anywhere, by ``session.check_image``."""


class ImagesHost(Host):
    """Host adapter for Pictures. A guard that needs a model raises SessionError."""

    about = ""  # of our own use: ComfyUI's Check Image
    name = denoiser_name = "images"

    @classmethod
    def takes(cls, target: Any) -> bool:
        """Pictures."""
        return isinstance(target, Pictures)

    def attach(self, session: Any) -> None:
        """Nothing to route."""

    def detach(self) -> None:
        """Nothing to undo."""
