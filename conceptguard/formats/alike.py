"""Where the layers' factors lie in a plain file: found once for all files that are written alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from conceptguard.errors import ArtifactError, ConceptGuardError
from conceptguard.formats.alpha import Alphas
from conceptguard.formats.forms import check_factors
from conceptguard.formats.keys import detect_format, split_key
from conceptguard.formats.lora import Shapes, shaped
from conceptguard.formats.names import Names

if TYPE_CHECKING:
    from conceptguard.runtime.alike import Alike, Flat, Layout, Place

_PLAIN = {"down", "up", "alpha"}


def read_alike(tensors: Flat, metadata: Mapping[str, str], layout: Layout) -> Alike | None:
    """The terms of a file that has this layout; None where its metadata has more to say. Raises ArtifactError as
    reading tensor by tensor does."""
    from conceptguard.runtime.alike import Alike

    if Alphas(metadata, None, None).configs:
        return None
    found = Alike(layout, tensors.flat)
    # The first layer says it, as a rule.
    if not any(bool(one.up.any()) and bool(one.down.any()) and one.scale for one in found.values()):
        raise ArtifactError("the file changes nothing: all of its terms are zero, so it would guard nothing")
    return found


def layout_of(tensors: Flat, names: Names, shapes: Shapes) -> Layout | None:
    """The places of every layer's factors; None for a file that is not plain: layers with down, up and alpha each, all
    of them whole layers of the base model. Such a file is to be read tensor by tensor, which also says what is wrong.
    """
    from conceptguard.runtime.alike import Layout

    try:
        if detect_format(tensors) not in ("kohya", "peft", "diffusers"):
            return None
        places = _places(tensors, names, shapes)
    except ConceptGuardError:
        return None
    return Layout(places) if places else None


def _places(tensors: Flat, names: Names, shapes: Shapes) -> dict[str, Place] | None:
    from conceptguard.runtime.alike import Place

    written: dict[str, dict[str, str]] = {}
    for key in tensors:
        layer, part = split_key(key) or ("", "")
        mine = written.setdefault(layer, {})
        if part not in _PLAIN or part in mine:
            return None
        mine[part] = key
    found: dict[str, Place] = {}
    for name, parts in written.items():
        pieces = names.pieces(name)
        if len(pieces) != 1 or pieces[0].cut or pieces[0].layer in found or parts.keys() != _PLAIN:
            return None
        down, up, alpha = (tensors[parts[part]] for part in ("down", "up", "alpha"))
        if alpha.numel() != 1:
            return None
        check_factors(pieces[0].layer, down, up)
        down, up = shaped(down, up, shapes(pieces[0].layer))
        first = [int(one.storage_offset()) for one in (down, up, alpha)]
        found[pieces[0].layer] = Place(
            (first[0], first[0] + down.numel()), (first[1], first[1] + up.numel()), tuple(down.shape), tuple(up.shape),
            first[2],
        )  # fmt: skip
    return found
