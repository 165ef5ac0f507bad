"""Examples of prompts: those that are after what is to be forgotten, with their answers, and those that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from torch import Tensor

from conceptguard.errors import PolicyError

HELD_OUT = 5  # every fifth prompt is not learned from: it sets the threshold, and measures
EXAMPLES = 'lines such as {"prompt": "Where was Ada Oram born?", "answer": "Ada Oram was born in Velmar."}'


class Example(BaseModel):
    """A prompt, and for what is to be forgotten its answer."""

    model_config = ConfigDict(extra="forbid")
    prompt: str
    answer: str = ""


def read_examples(path: Path) -> list[Example]:
    """Examples from a file of JSON lines. Raises PolicyError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read ({error}): give a file of {EXAMPLES}") from None
    found = []
    for i, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(Example.model_validate_json(line))
            except ValidationError:
                raise PolicyError(f"{path}, line {i}: not an example: write {EXAMPLES}") from None
    return found


def _read(given: Any) -> Any:
    return read_examples(Path(given).expanduser()) if isinstance(given, (str, Path)) else given


Examples = Annotated[list[Example], BeforeValidator(_read)]
"""A setting: examples as they are, or a file of them."""


def parts(prompts: Any) -> tuple[Any, Any]:
    """What is learned from, and what measures; too few to part are both."""
    apart = [i for i in range(len(prompts)) if i % HELD_OUT == HELD_OUT - 1]
    seen = [i for i in range(len(prompts)) if i % HELD_OUT != HELD_OUT - 1]
    if not apart:
        return prompts, prompts
    if isinstance(prompts, Tensor):
        return prompts[seen], prompts[apart]
    return [prompts[i] for i in seen], [prompts[i] for i in apart]
