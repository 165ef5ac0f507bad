"""MkDocs' hooks: pages and tables that are made of the code itself while the documentation is built.

A page asks for one with a comment, ``<!-- built: NAME -->`` or ``<!-- built: NAME argument -->``. Nothing of it is
written to docs/: it cannot be out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

from tools import built, commands, house, methods  # noqa: E402

BUILDERS: dict[str, Callable[..., str]] = {
    "checks": built.checks,
    "commands": commands.reference,
    "contracts": house.contracts,
    "errors": built.errors,
    "hooks": built.hooks,
    "house": house.drawing,
    "manifest": built.manifest,
    "method": methods.about,
    "methods": methods.table,
    "policy": built.policy,
    "protocol": built.protocol,
    "protocols": built.known_protocols,
    "rooms": house.table,
    "status": commands.status,
    "suite": built.suite,
    "variables": built.variables,
}
_MARK = re.compile(r"^<!-- built: ([\w-]+)(?: (\S+))? -->$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Every method has a page in the navigation, in the order of the table."""
    for section in config.nav:
        if isinstance(section, dict) and "Methods" in section:
            section["Methods"] = ["methods/index.md", *(f"methods/{name}.md" for name in methods.names())]
    return config


def on_files(files: Any, config: Any) -> Any:
    """A method without a page of its own in docs/methods gets one that says what its class says."""
    for name in methods.names():
        if files.get_file_from_path(f"methods/{name}.md") is None:
            text = f"# {name}\n\n<!-- built: method {name} -->\n"
            files.append(File.generated(config, f"methods/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts what a page asks for in its place."""
    return expand(markdown)


def expand(markdown: str) -> str:
    """Markdown with what it asks for in its place. Raises KeyError for what nobody builds."""
    return _MARK.sub(lambda found: BUILDERS[found[1]](*filter(None, [found[2]])), markdown)
