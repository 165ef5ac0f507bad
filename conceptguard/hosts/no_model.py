"""Why there is no model where somebody said that one is, and what is there instead."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..errors import RegistryError
from ..files.paths import PICKLES, pickle_message

_MARKS = ("model_index.json", "config.json", "genai_config.json", "sibling.json")


def written_as_path(name: str) -> bool:
    """Whether a model's name can only be a place on this machine."""
    suffixed = Path(name).suffix.lower() in {".safetensors", ".gguf", *PICKLES}
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or suffixed


def check_file(path: Path) -> None:
    """Raises RegistryError for a file that no model is read from."""
    if path.suffix.lower() in PICKLES:
        raise RegistryError(pickle_message(str(path)))
    if path.suffix.lower() != ".safetensors":
        raise RegistryError(f"{path}: not a model: give a folder, or a checkpoint in one .safetensors file")


def why_not(name: str, path: Path, error: Exception | None, variant: str | None) -> str:
    """One line that says what was found in place of a model, and what to write. error: of the library that tried."""
    if not path.exists():
        near = _near(path)
        hint = f"did you mean '{near}'?" if near else "check the path, or give an embedded model or a Hub id"
        if error is None:
            return f"no model '{name}': there is no such file or folder; {hint}"
        return f"cannot load model '{name}': no folder of that name is here, and the Hub says: {_line(error)}; {hint}"
    if path.is_dir() and not any((path / mark).is_file() for mark in _MARKS):
        inside = sorted(child.name for child in path.iterdir() if any((child / mark).is_file() for mark in _MARKS))
        single = sorted(child.name for child in path.glob("*.safetensors"))
        found = [f"'{path / one}'" for one in (inside or single)[:3]]
        hint = f"did you mean {' or '.join(found)}?" if found else "give the folder that has one of them"
        return f"no model in '{name}': neither model_index.json (diffusers) nor config.json (transformers); {hint}"
    there = _variants(path) if path.is_dir() else []
    if variant and variant not in there:
        return f"model '{name}' has no files of variant '{variant}': {_offer(there)}"
    if not variant and there and "no file named" in str(error):
        return f"model '{name}' has no plain weight files: {_offer(there)}"
    return f"cannot load model '{name}': {_line(error)}"


def _offer(variants: list[str]) -> str:
    return f"give --variant {' or '.join(variants)}" if variants else "it has no variants, leave --variant out"


def _variants(folder: Path) -> list[str]:
    """``fp16`` of ``model.fp16.safetensors``, of all weight files below."""
    named = {path.name.removesuffix(".safetensors") for path in folder.rglob("*.safetensors")}
    return sorted({name.split(".")[1].split("-")[0] for name in named if "." in name})


def _near(path: Path) -> Path | None:
    """The folder or checkpoint beside it whose name is nearest."""
    if not path.parent.is_dir():
        return None
    models = [p.name for p in path.parent.iterdir() if p.suffix == ".safetensors" or any(map(Path.is_file, _marked(p)))]
    near = difflib.get_close_matches(path.name, models, n=1)
    return path.parent / near[0] if near else None


def _marked(folder: Path) -> list[Path]:
    return [folder / mark for mark in _MARKS]


def _line(error: Exception | None) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
