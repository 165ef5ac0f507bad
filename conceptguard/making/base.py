"""Which base model an artifact is made for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.paths import slug
from ..host import Host

if TYPE_CHECKING:
    from ..host import TextHost


def family_of(host: Host | TextHost) -> str:
    """The base family that an artifact of this model belongs to: the model's name, or its folder's."""
    name = getattr(host.target, "name", None) or getattr(host.target, "name_or_path", "") or "model"
    return slug(Path(str(name)).name) or "model"


def bases_of(host: Host | TextHost) -> Iterator[str]:
    """What artifacts that this model takes are made for, nearest first: its family, its architecture, its encoders'."""
    yield family_of(host)
    yield host.fingerprint()
    if isinstance(host, Host):
        yield host.encoder_fingerprint()


def weights_mark(host: Host) -> str:
    """A short mark of the very weights of the attention layers (a language model's: of all): another for a fine-tuned
    sibling.
    """
    weight = host.weights()
    names = [n for n in host.layers() if ".attentions." in n] or list(host.layers())
    sums = [float(weight(n).double().sum()) for n in names if weight(n).is_floating_point()]
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]
