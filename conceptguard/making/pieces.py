"""What was read of each of several concepts, kept beside their artifact.

Reading prompts takes minutes where solving takes a second. Each piece depends on one concept alone: an interrupted
making is taken up with the next one, and a concept that is withdrawn takes nothing of the others with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from ..files.atomic import write_bytes
from ..runtime.encodings import PROBE
from ..version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from ..host import Host


class Pieces:
    """A folder of tensors by what they are about.

    inputs: everything else that all of them depend on, as plain data
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any]):
        self.folder, self._inputs = folder, {"version": __version__, **inputs}
        self._asked: set[str] = set()

    def get(self, about: Mapping[str, Any], read: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors about something; ``read`` is called where they are not there, or damaged, and they are kept."""
        said = json.dumps([self._inputs, about], sort_keys=True).encode()
        path = self.folder / f"{hashlib.sha256(said).hexdigest()[:32]}.piece"
        self._asked.add(path.name)
        try:
            return _parsed(path.read_bytes())
        except (OSError, ValueError, SafetensorError):
            data = save({name: tensor.detach().cpu().contiguous() for name, tensor in read().items()})
            write_bytes(path, hashlib.sha256(data).digest() + data)
            return load(data)

    def keep_asked(self) -> None:
        """Delete all that was not asked for: what was withdrawn, and what was made in another way."""
        for path in self.folder.glob("*.piece"):
            if path.name not in self._asked:
                path.unlink(missing_ok=True)


def _parsed(data: bytes) -> dict[str, Tensor]:
    """Raises ValueError where the content is not what was written."""
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise ValueError("damaged")
    return load(data[32:])


def reads(host: Host) -> str:
    """A mark of what a host's encoders say, to the last bit: another machine's pieces are not mixed with ours."""
    encoded = host.encode(["", PROBE])
    found = [encoded.embeds, *([] if encoded.pooled is None else [encoded.pooled])]
    mark = hashlib.sha256()
    for tensor in found:
        mark.update(tensor.detach().float().cpu().numpy().tobytes())
    return mark.hexdigest()[:16]
