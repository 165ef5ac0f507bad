"""Hosts: what generates. One module per framework, and the only code that knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ..errors import SessionError

if TYPE_CHECKING:
    from ..generation import Encoded
    from ..lowrank import LayerIndex
    from ..session import Session


class Host(Protocol):
    """What a session and a method may ask of a host."""

    name: str
    target: Any

    def layers(self) -> LayerIndex:
        """Linear and convolution layers under canonical names."""

    def encode(self, texts: list[str]) -> Encoded:
        """Texts as the denoiser sees them."""

    def attach(self, session: Session) -> None:
        """Route the host's generation through the session. Raises SessionError when it already goes through one."""

    def detach(self) -> None:
        """Undo ``attach`` to the last reference."""


def host_for(target: Any) -> Host:
    """The host adapter for an object. Raises SessionError for what no adapter knows."""
    modules = {cls.__module__.split(".", 1)[0] for cls in type(target).__mro__}
    if "diffusers" in modules:
        from .diffusers import DiffusersHost

        return DiffusersHost(target)
    raise SessionError(
        f"cannot guard a {type(target).__module__}.{type(target).__qualname__}: give a diffusers pipeline"
    )
