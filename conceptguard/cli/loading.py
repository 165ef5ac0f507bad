"""A model as the command line names it: for pictures, or for text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ConceptGuardError

if TYPE_CHECKING:
    from ..policy import Policy


def drawing(model: str, device: str | None, dtype: str = "fp32", **options: Any) -> Any:
    """A diffusers pipeline on its device, without bars of its own. Raises ConceptGuardError for a language model."""
    pipe = either(model, device, dtype, **options)
    _demand_prompted(pipe, model)
    if is_text(pipe):
        raise ConceptGuardError(
            f"{model} is a language model, which says and does not draw: use "
            f"`conceptguard say --model {model} --policy POLICY --prompt TEXT`"
        )
    return pipe


def speaking(model: str, device: str | None, dtype: str = "fp32", **options: Any) -> Any:
    """A language model and its tokenizer. Raises ConceptGuardError for a model that draws."""
    pair = either(model, device, dtype, **options)
    _demand_prompted(pair, model)
    if not is_text(pair):
        raise ConceptGuardError(
            f"{model} draws pictures and says nothing: use "
            f"`conceptguard generate --model {model} --policy POLICY --prompt TEXT`"
        )
    return pair


def either(model: str, device: str | None, dtype: str = "fp32", **options: Any) -> Any:
    """Whichever of the two it is."""
    from ..hosts.load import load_model
    from .devices import pick_device, pick_dtype

    place, kind = pick_device(device), pick_dtype(dtype)
    loaded = load_model(model, torch_dtype=kind, **options).to(place)
    if hasattr(loaded, "set_progress_bar_config"):
        loaded.set_progress_bar_config(disable=True)
    return loaded


def _demand_prompted(loaded: Any, model: str) -> None:
    if hasattr(loaded, "classes"):
        raise ConceptGuardError(
            f"{model} is a classifier, which nobody prompts: use `conceptguard eval --suite classifier --model {model}`"
        )


def is_text(loaded: Any) -> bool:
    """Whether this is a language model and its tokenizer."""
    from ..host import LanguageModel

    return isinstance(loaded, LanguageModel)


class Drawing:
    """A pipeline that draws now under one policy, now under another or none: attached once for all in a row."""

    def __init__(self, pipe: Any):
        self.pipe, self.device = pipe, str(pipe.device)
        self._policy: Policy | None = None
        self._session: Any = None

    def under(self, policy: Policy | None) -> Any:
        """The session; None where there is no policy. Raises what attaching raises."""
        from ..sessions.attach import attach

        if policy != self._policy:
            self.close()
            if policy is not None:
                self._session = attach(self.pipe, policy)
            self._policy = policy
        return self._session

    def close(self) -> None:
        """Detach."""
        if self._session is not None:
            self._session.detach()
        self._policy = self._session = None


@contextmanager
def drawing_under(model: str, device: str | None, dtype: str, **options: Any) -> Iterator[Drawing]:
    """The model, without a guard afterwards."""
    own = Drawing(drawing(model, device, dtype, **options))
    try:
        yield own
    finally:
        own.close()
