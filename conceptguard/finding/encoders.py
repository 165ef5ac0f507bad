"""The encoder that ships, and what concepts may be called in its world; or any CLIP or SigLIP in a folder."""

from __future__ import annotations

from pathlib import Path

from ..errors import RegistryError
from ..files.atomic import sha256_file
from ..hosts.transformers.image_text import ImageText, is_image_text, load_image_text
from ..registry import shipped_folder

EMBEDDED = "emoji-encoder"
# It is no part of what is signed yet; what is loaded is what these say, or nothing.
PINNED = {
    "config.json": "d69c10b2549faa64c4d1e6cb15638a6ed2967fb25b161b2540df965a27a2d8a1",
    "merges.txt": "86549e0efe5327e04555ef6993bf2c11031ba5c0a79d7e51d26f1650493678a8",
    "model.safetensors": "762153a88a893e475bcad35933df783fe07da16e8516a02fa0f73ee0b056dae6",
    "processor_config.json": "b08d2f59d898f070e76e07151a099ac17b09de10791a47d5de5b35ad6a40ef3f",
    "special_tokens_map.json": "841c138373f4f9dd8a6b07a2e4d19b1e62b5364d7e09c41762bab5f7b851eb7f",
    "tokenizer.json": "539b17040bf60abbab793495be8e75bbae7585daecfc7e963f6639cd1dbd8718",
    "tokenizer_config.json": "b9ff211a69c427b4c1f46fb1d289621cdf477cbbc19f937a2c7cde3172d34516",
    "vocab.json": "cdb727f2ccce707a211680a47f187c323d72d47653058f401f184fd1c9a37748",
}


def load_encoder(name: str = EMBEDDED) -> ImageText:
    """Raises RegistryError where there is none, or the shipped one is not what it was."""
    folder = Path(name).expanduser()
    if name == EMBEDDED:
        folder = shipped_folder() / "encoders" / EMBEDDED
        for file, mark in PINNED.items():
            if not (folder / file).is_file() or sha256_file(folder / file) != mark:
                raise RegistryError(f"{folder / file}: is not what conceptguard came with: install the package again")
    if not is_image_text(folder):
        raise RegistryError(
            f"--encoder {name}: neither {EMBEDDED} nor a folder of CLIP or SigLIP, with config.json and "
            "model.safetensors"
        )
    return load_image_text(folder)


def words_for(name: str, given: str = "") -> list[str]:
    """What concepts may be called: a file of words, one a line, or words with commas between; of the shipped encoder by
    default the words of its world. None otherwise: concepts have numbers then. Raises RegistryError."""
    if given:
        file = Path(given).expanduser()
        if file.is_file():
            return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [word.strip() for word in given.split(",") if word.strip()]
    if name != EMBEDDED:
        return []
    from ..measuring.suite import load_suite

    suite = load_suite("emoji-sd")
    styles = [f"{one} style" for one in suite.styles]
    grounds = [f"a {one} ground" for one in ("blue", "green", "pink", "yellow", "grey")]
    colours = [f"something {one}" for one in ("red", "blue", "green", "purple", "orange")]
    return [*(it.name for it in suite.objects), *styles, *grounds, *colours, "nothing"]
