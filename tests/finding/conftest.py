"""Commands run in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_planted import planted

from conceptguard.measuring.samples import save_png


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planted pictures in folders of their classes."""
    root = tmp_path_factory.mktemp("pictures")
    it = planted().pictures
    for pixels, name, kind in zip(it.pixels, it.names, it.classes):
        save_png(pixels, root / kind / f"{name}.png")
    return root
