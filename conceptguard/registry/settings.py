"""What of the registry's places a user settles: by variables of the environment, or in a file for all sessions.

A variable counts before the file. The file is `settings.yaml` in the user's configuration folder; CONCEPTGUARD_SETTINGS
names another one.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from conceptguard.errors import RegistryError, meant

# By key of the file: the variable, and what both mean.
MEANINGS = {
    "registries": (
        "CONCEPTGUARD_REGISTRIES",
        "further registries, folders or addresses, asked after the shipped one and your own, separated as in PATH",
    ),
    "home": (
        "CONCEPTGUARD_HOME",
        "where your own registry is: what `make`, `import`, `add` write to, and models by name",
    ),
    "cache": ("CONCEPTGUARD_CACHE", "where fetched files are kept, by their hash"),
    "offline": (
        "CONCEPTGUARD_OFFLINE",
        "set to anything, no index is asked for anew; what was fetched before works on",
    ),
}
_KINDS: dict[str, tuple[type, str]] = {
    "registries": (list, "a list of folders and addresses"),
    "home": (str, "a folder"),
    "cache": (str, "a folder"),
    "offline": (bool, "true or false"),
}
_MAX_SETTINGS = 64 * 1024


def settings_file() -> Path:
    """Where the file is, whether or not there is one."""
    named = os.environ.get("CONCEPTGUARD_SETTINGS")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_config_dir("conceptguard")) / "settings.yaml"


def folder_named(key: str) -> Path | None:
    """The folder that the user chose for `home` or `cache`. Raises RegistryError for a file that is no good."""
    named = os.environ.get(MEANINGS[key][0])
    if named:
        return Path(named).expanduser()
    told = _file().get(key)
    return Path(_beside(told)) if told else None


def offline() -> str:
    """Who said that nobody is to be asked; empty where nobody did."""
    variable = MEANINGS["offline"][0]
    if variable in os.environ:
        return f"{variable} is set" if os.environ[variable] else ""
    return f"`offline` in {settings_file()}" if _file().get("offline") else ""


def registries() -> list[str]:
    """Further registries, in order: those of the variable or, where it is not set, those of the file."""
    variable = MEANINGS["registries"][0]
    if variable in os.environ:
        return _split(os.environ[variable])
    return [_beside(one) for one in _file().get("registries", [])]


def _beside(place: str) -> str:
    """A folder that the file names is meant from where the file is; an address is one."""
    return place if "://" in place else str(settings_file().parent / Path(place).expanduser())


def _split(text: str) -> list[str]:
    """Split at `os.pathsep`; the colon of `https://` and of a port is no separator."""
    parts: list[str] = []
    for part in text.split(os.pathsep):
        follows = part.startswith("//") or (parts and "://" in parts[-1] and part.split("/")[0].isdigit())
        if follows and parts:
            parts[-1] += os.pathsep + part
        else:
            parts.append(part)
    return [part for part in parts if part]


def _file() -> dict[str, Any]:
    path = settings_file()
    try:
        stat = path.stat()
    except OSError:
        if os.environ.get("CONCEPTGUARD_SETTINGS"):
            raise RegistryError(
                f"{path}: cannot be read, and CONCEPTGUARD_SETTINGS names it: write it, or unset that"
            ) from None
        return {}
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> dict[str, Any]:
    from conceptguard.files.yaml import read_yaml

    fields, lines = read_yaml(path, max_bytes=_MAX_SETTINGS, error=RegistryError)
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise RegistryError(f"{path}: settings are a mapping, e.g. `registries: [https://example.org/registry]`")
    for key, value in fields.items():
        where = f"{path}, line {lines[(key,)]}"
        if key not in _KINDS:
            hint = meant(key, _KINDS, f"known are {', '.join(_KINDS)}")
            raise RegistryError(f"{where}: unknown key {key!r}: {hint}")
        kind, told = _KINDS[key]
        plain = not isinstance(value, list) or all(isinstance(one, str) and one for one in value)
        if type(value) is not kind or not plain:
            raise RegistryError(f"{where}: {key} is {told}: correct it")
    return fields
