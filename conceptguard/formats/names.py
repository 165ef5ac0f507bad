"""Finding the layer that a file means: written with dots or underscores, with or without its component."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from conceptguard.errors import ArtifactError, BaseMismatch
from conceptguard.formats.ldm import from_ldm
from conceptguard.formats.original import Piece, from_original

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_DENOISERS = ("unet", "transformer")
# T5 is the third encoder of Stable Diffusion 3 and the second of FLUX; OpenCLIP is the second where there is another.
_T5, _CLIP_G = ("text_encoder_3", "text_encoder_2", "text_encoder"), ("text_encoder_2", "text_encoder")
# What stands before a flat name, or before a dotted one in the original's words, and which components it may mean: of
# text encoders the first one that there is.
_PREFIXES = {
    "lora_unet__": _DENOISERS,
    "lora_unet_": _DENOISERS,
    "lora_transformer_": ("transformer",),
    "lycoris_": _DENOISERS,
    "lora_te_": ("text_encoder",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
    "lora_te3_": _T5,
    "diffusion_model.": _DENOISERS,
    "text_encoders.clip_l.transformer.": ("text_encoder",),
    "text_encoders.clip_h.transformer.": ("text_encoder",),
    "text_encoders.clip_g.transformer.": _CLIP_G,
    "text_encoders.t5xxl.transformer.": _T5,
    "text_encoders.umt5xxl.transformer.": ("text_encoder",),
}
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_PEFT = "base_model.model."


class Names:
    """The layers of one base model. `find` turns a written name into the one canonical name it means, `pieces` into
    those it means.
    """

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
        self.layers_per_block = 1 + self._last(r"unet\.down_blocks\.0\.resnets\.(\d+)\.", 1)
        self.blocks = 1 + self._last(r"transformer\.transformer_blocks\.(\d+)\.", -1)
        self.known: dict[str, tuple[Piece, ...]] = {}

    def _last(self, pattern: str, otherwise: int) -> int:
        found = [re.match(pattern, name) for name in self.layers]
        return max((int(one[1]) for one in found if one), default=otherwise)

    def find(self, written: str) -> str:
        """The canonical name. Raises BaseMismatch when there is no such layer, ArtifactError when several fit, or when
        some of the layer's outputs are another layer's.
        """
        pieces = self.pieces(written)
        if len(pieces) > 1 or pieces[0].cut:
            raise ArtifactError(f"layer {written[:160]!r} is {len(pieces)} layers in this base model: write them apart")
        return pieces[0].layer

    def pieces(self, written: str) -> tuple[Piece, ...]:
        """The layers under their canonical names, with the outputs of each. Raises as `find` does."""
        pieces = self.known.get(written)
        if pieces is None:
            pieces = self.known[written] = self._find(written)
        return pieces

    def _find(self, written: str) -> tuple[Piece, ...]:
        prefix = next((start for start in _PREFIXES if written.startswith(start)), None)
        fitting = list(dict.fromkeys(self._prefixed(written, prefix) if prefix else self._dotted(written)))
        if len(fitting) == 1:
            return tuple(Piece(self.layers[layer], cut) for layer, cut in fitting[0])
        if fitting:
            shown = ", ".join(pieces[0].layer for pieces in fitting[:3])
            raise ArtifactError(
                f"layer {written[:160]!r} fits several of this model ({shown}): "
                "write the component (unet., text_encoder., ...) in the keys"
            )
        close = difflib.get_close_matches(written, self.layers, n=1, cutoff=0.7)
        near = f" (the nearest is {close[0]!r})" if close else ""
        raise BaseMismatch(
            f"layer {written[:160]!r} is not in this base model{near}: the file was made for another base, use that one"
        )

    def _prefixed(self, written: str, prefix: str) -> Iterator[tuple[Piece, ...]]:
        there = [component for component in _PREFIXES[prefix] if component in self.components]
        for component in there if _PREFIXES[prefix] == _DENOISERS else there[:1]:
            yield from self._flat(component, written.removeprefix(prefix).replace(".", "_"))

    def _flat(self, component: str, rest: str) -> Iterator[tuple[Piece, ...]]:
        """What a flat name may mean in one component."""
        spelled = [[Piece(rest)]]
        if component.startswith("text_encoder"):
            spelled += [[Piece(one)] for one in _text_model(rest, "_")]
        else:
            spelled += [[Piece(one)] for one in from_ldm(rest, self.layers_per_block)]
            spelled += [from_original(rest, self.blocks)]
        for pieces in spelled:
            found = [self.flat.get((component, one.layer), []) for one in pieces]
            if len(pieces) == 1:
                yield from ((Piece(name, pieces[0].cut),) for name in found[0])
            elif pieces and all(len(names) == 1 for names in found):
                yield tuple(Piece(names[0], one.cut) for names, one in zip(found, pieces, strict=True))

    def _dotted(self, written: str) -> Iterator[tuple[Piece, ...]]:
        written = written.removeprefix(_PEFT)
        component, _, rest = written.partition(".")
        named = component in COMPONENTS and component in self.components
        for home, inner in [(component, rest)] if named else [(one, written) for one in self.components]:
            inner = inner.removeprefix(_PEFT)
            whole = [name for one in _spelled(home, inner) if (name := f"{home}.{one}") in self.layers]
            yield from ((Piece(name),) for name in whole)
            if not whole:
                yield from self._flat(home, inner.replace(".", "_"))
        if not named and written in self.layers:
            yield (Piece(written),)


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

    def _find(self, written: str) -> tuple[Piece, ...]:
        name = written.removeprefix(_PEFT).removesuffix(".base_layer")
        if name.split(".", 1)[0] in COMPONENTS and "." in name:
            return (Piece(f"{name}.0" if name.endswith(".to_out") else name),)
        raise ArtifactError(f"layer {written[:160]!r} can be told only with the base model at hand: name it")


@lru_cache(maxsize=8)
def _names(layers: tuple[str, ...]) -> Names:
    return Names(layers)


def names_of(layers: Iterable[str] | None) -> Names:
    """A Names for these layers, remembered: a thousand artifacts for one model share the work. None:
    `Trusted`.
    """
    return Trusted() if layers is None else _names(tuple(layers))
