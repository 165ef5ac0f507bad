"""The encoder that ships, and what concepts may be called in its world; or any CLIP or SigLIP in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import RegistryError
from ..hosts.transformers.image_text import ImageText, is_image_text, load_image_text
from ..registry.signed.beside import shipped

EMBEDDED = "emoji-encoder"


def load_encoder(name: str = EMBEDDED) -> ImageText:
    """Raises RegistryError where there is none, or the shipped one is not what was signed."""
    folder = shipped(f"models/{EMBEDDED}") if name == EMBEDDED else Path(name).expanduser()
    if not is_image_text(folder):
        raise RegistryError(
            f"--encoder {name}: neither {EMBEDDED} nor a folder of CLIP or SigLIP, with config.json and "
            "model.safetensors"
        )
    return load_image_text(folder)


def words_in(given: str) -> list[str]:
    """A file's words, one a line, or words with commas between. For the person whose machine this is alone: whoever
    else writes a file's name would learn what is in it."""
    file = Path(given).expanduser()
    if given and file.is_file():
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return split_words(given)


def split_words(given: str) -> list[str]:
    """Words with commas between."""
    return [word.strip() for word in given.split(",") if word.strip()]


def words_for(name: str, given: Sequence[str] = (), things: bool = False) -> list[str]:
    """What concepts may be called: words that were given, or of the shipped encoder the words of its world. None
    otherwise: concepts have numbers then. things: of that world the things alone, in all words for them, for parts of a
    picture, each of which is of some style as well. Raises RegistryError."""
    if given or name != EMBEDDED:
        return list(given)
    from ..measuring.suite import load_suite

    suite = load_suite("emoji-sd")
    if things:
        return list(dict.fromkeys(word for it in suite.objects for word in (it.name, *it.synonyms)))
    styles = [f"{one} style" for one in suite.styles]
    grounds = [f"a {one} ground" for one in ("blue", "green", "pink", "yellow", "grey")]
    colours = [f"something {one}" for one in ("red", "blue", "green", "purple", "orange")]
    return [*(it.name for it in suite.objects), *styles, *grounds, *colours, "nothing"]
