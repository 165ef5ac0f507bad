"""A model as the command line names it: for pictures, or for text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConceptGuardError

if TYPE_CHECKING:
    from ..measuring.parts import Drawing


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
    suites = {"classes": "classifier", "matching": "graph", "object_names": "gan"}
    for part, suite in suites.items():
        if hasattr(loaded, part):
            raise ConceptGuardError(
                f"{model} is of the suite '{suite}', which nobody prompts: use "
                f"`conceptguard eval --suite {suite} --model {model}`"
            )


def is_text(loaded: Any) -> bool:
    """Whether this is a language model and its tokenizer."""
    from ..host import LanguageModel

    return isinstance(loaded, LanguageModel)


def drawing_under(model: str, device: str | None, dtype: str, **options: Any) -> Drawing:
    """The same, to draw under policies with."""
    from ..measuring.parts import Drawing

    return Drawing(drawing(model, device, dtype, **options))
