"""Runs a core's main.py with the arguments given: ``serve.py FOLDER ...``."""

from __future__ import annotations

import runpy
import sys

from core import define_operators

folder = sys.argv.pop(1)
define_operators()
sys.path[0] = folder
sys.argv[0] = f"{folder}/main.py"
del sys.modules["core"]
runpy.run_path(f"{folder}/main.py", run_name="__main__")
