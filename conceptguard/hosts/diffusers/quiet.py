"""Loading without notes and bars of the frameworks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No notes about optional packages and no bars for a load that takes a second; errors still come through."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _no_bars():
                yield
        finally:
            logging.disable(before)


@contextmanager
def _no_bars() -> Iterator[None]:
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    shown = [library for library in (diffusers, transformers) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
