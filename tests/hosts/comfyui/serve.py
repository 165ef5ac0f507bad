"""Runs a core's main.py with the arguments given: ``serve.py FOLDER ...``."""

from __future__ import annotations

import asyncio
import gc
import runpy
import sys
from typing import Any

from core import define_operators

listen = asyncio.BaseEventLoop.create_server


async def begin(self: Any, *arguments: Any, **options: Any) -> Any:
    """All is imported when a server begins to listen: what is there by then is not looked through for garbage."""
    gc.freeze()
    gc.enable()
    return await listen(self, *arguments, **options)


gc.disable()
asyncio.BaseEventLoop.create_server = begin  # type: ignore[method-assign]
folder = sys.argv.pop(1)
define_operators()
sys.path[0] = folder
sys.argv[0] = f"{folder}/main.py"
del sys.modules["core"]
runpy.run_path(f"{folder}/main.py", run_name="__main__")
