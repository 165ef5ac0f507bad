"""Finding the layer that a file means: written with dots or underscores, with or without its component."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache

from conceptguard.errors import ArtifactError, BaseMismatch
from conceptguard.formats.ldm import from_ldm

_KOHYA = {
    "lora_unet_": ("unet", "transformer"),
    "lora_transformer_": ("transformer",),
    "lora_te_": ("text_encoder",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
    "lora_te3_": ("text_encoder_3",),
}
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


class Names:
    """The layers of one base model. `find` turns a written name into the one canonical name it means."""

    def __init__(self, layers: Iterable[str]) -> None:
        # Beside a peft adapter the index has the wrapped layer and the one inside: the wrapper is meant.
        self.layers: dict[str, str] = {}
        for name in sorted(layers, key=lambda one: one.endswith(".base_layer")):
            self.layers.setdefault(name.removesuffix(".base_layer"), name)
        self.components = tuple(dict.fromkeys(name.split(".", 1)[0] for name in self.layers))
        self.flat: dict[tuple[str, str], list[str]] = {}
        for name in self.layers:
            component, _, rest = name.partition(".")
            self.flat.setdefault((component, rest.replace(".", "_")), []).append(name)
        found = [re.match(r"unet\.down_blocks\.0\.resnets\.(\d+)\.", name) for name in self.layers]
        self.layers_per_block = 1 + max((int(one[1]) for one in found if one), default=1)
        self.known: dict[str, str] = {}

    def find(self, written: str) -> str:
        """The canonical name. Raises BaseMismatch when there is no such layer, ArtifactError when several
        fit.
        """
        name = self.known.get(written)
        if name is None:
            name = self.known[written] = self._find(written)
        return name

    def _find(self, written: str) -> str:
        fitting = self._flat(written) if written.startswith(tuple(_KOHYA)) else self._dotted(written)
        fitting = list(dict.fromkeys(fitting))
        if len(fitting) == 1:
            return self.layers[fitting[0]]
        if fitting:
            raise ArtifactError(
                f"layer {written[:160]!r} fits several of this model ({', '.join(fitting[:3])}): "
                "write the component (unet., text_encoder., ...) in the keys"
            )
        close = difflib.get_close_matches(written, self.layers, n=1, cutoff=0.7)
        near = f" (the nearest is {close[0]!r})" if close else ""
        raise BaseMismatch(
            f"layer {written[:160]!r} is not in this base model{near}: the file was made for another base, use that one"
        )

    def _flat(self, written: str) -> list[str]:
        prefix = next(start for start in _KOHYA if written.startswith(start))
        rest = written.removeprefix(prefix)
        spelled = [rest, *from_ldm(rest, self.layers_per_block)]
        if prefix.startswith("lora_te"):
            spelled += _text_model(rest, "_")
        return [name for component in _KOHYA[prefix] for one in spelled for name in self.flat.get((component, one), [])]

    def _dotted(self, written: str) -> list[str]:
        written = written.removeprefix("base_model.model.")
        component, _, rest = written.partition(".")
        if component in COMPONENTS and component in self.components:
            return [name for one in _spelled(component, rest) if (name := f"{component}.{one}") in self.layers]
        found = []
        for component in self.components:
            found += [name for one in _spelled(component, written) if (name := f"{component}.{one}") in self.layers]
        return found + ([written] if written in self.layers else [])


def _spelled(component: str, rest: str) -> list[str]:
    spelled = [rest]
    stem, _, leaf = rest.rpartition(".")
    if leaf == "to_out":
        spelled.append(f"{rest}.0")
    if component.startswith("text_encoder"):
        if leaf in _OLD_TEXT:
            spelled.append(f"{stem}.{_OLD_TEXT[leaf]}")
        spelled += [other for one in list(spelled) for other in _text_model(one, ".")]
    return spelled


def _text_model(rest: str, dot: str) -> list[str]:
    # transformers 5 dropped the inner `text_model` of CLIPTextModel; files from before have it, and the other
    # way round.
    inner = f"text_model{dot}"
    return [rest.removeprefix(inner)] if rest.startswith(inner) else [inner + rest]


class Trusted(Names):
    """Without a model at hand: names with dots and a component are taken as they are, others are refused."""

    def __init__(self) -> None:
        super().__init__(())

    def _find(self, written: str) -> str:
        name = written.removeprefix("base_model.model.").removesuffix(".base_layer")
        if name.split(".", 1)[0] in COMPONENTS and "." in name:
            return f"{name}.0" if name.endswith(".to_out") else name
        raise ArtifactError(f"layer {written[:160]!r} can be told only with the base model at hand: name it")


@lru_cache(maxsize=8)
def _names(layers: tuple[str, ...]) -> Names:
    return Names(layers)


def names_of(layers: Iterable[str] | None) -> Names:
    """A Names for these layers, remembered: a thousand artifacts for one model share the work. None:
    `Trusted`.
    """
    return Trusted() if layers is None else _names(tuple(layers))
