"""What every maker needs: a concept and its prompts in templates, checked, and the artifact with its measured gate."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from . import __version__
from .calibration import calibrate
from .errors import ArtifactError, PolicyError
from .formats import base_weights_of
from .generation import Encoded, stack
from .policy import Concept
from .registry import Artifact, open_artifact, write_artifact
from .registry.paths import slug
from .words import stands_in

if TYPE_CHECKING:
    from torch import Tensor

    from .hosts import Host
    from .method import Method
    from .registry.manifest import Concept as Listed

TEMPLATES = ("{}", "{a}", "a photo of {a}", "a picture of {a}", "an image of {}", "a painting of {a}", "{}, drawing")
_ARTICLES = re.compile(r"(a|an|the|some|one|two|my|some\w+)\s", re.IGNORECASE)


def as_concept(given: Concept | Mapping[str, Any] | str) -> Concept:
    """A concept from a name (which is then its only prompt), a mapping, or itself. Raises PolicyError."""
    if isinstance(given, Concept):
        found = given
    else:
        given = given.model_dump() if isinstance(given, BaseModel) else given
        try:
            found = Concept(**({"name": given, "prompts": [given]} if isinstance(given, str) else given))
        except ValidationError as error:
            raise PolicyError(f"concept: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    if not found.prompts:
        raise PolicyError(f"concept '{found.name}' has no prompts: say what evokes it, e.g. prompts: [{found.name}]")
    if not slug(found.name):
        raise PolicyError(f"concept '{found.name}' gives no usable name: use letters and digits")
    return found


def fill(template: str, prompt: str) -> str:
    """``{}`` is the prompt, ``{a}`` the prompt with an article unless it has one; an empty prompt leaves no gap."""
    article = f"{'an' if prompt[:1].lower() in 'aeiou' else 'a'} {prompt}" if prompt else ""
    text = template.replace("{a}", prompt if _ARTICLES.match(prompt) else article).replace("{}", prompt)
    return re.sub(r"\s+([,.:])", r"\1", " ".join(text.split())).strip(" ,")


def through(template: str, prompt: str) -> str:
    """A filled template up to the end of the concept."""
    ends = [template.find(mark) + len(mark) for mark in ("{}", "{a}") if mark in template]
    return fill(template[: min(ends)], prompt)


def encode_all(host: Host, texts: Sequence[str]) -> Encoded:
    """Any number of texts as the denoiser sees them."""
    return stack(*(host.encode(list(texts[i : i + 64])) for i in range(0, len(texts), 64)))


def check_templates(templates: Sequence[str]) -> None:
    """Raises PolicyError when a template has no place for the concept."""
    for template in templates:
        if "{}" not in template and "{a}" not in template:
            raise PolicyError(f"template '{template}' has no place for the concept: write {{}} or {{a}}")
    if not templates:
        raise PolicyError("no templates: give at least '{}'")


def check_preserve(concept: Concept | Listed, preserve: Sequence[str]) -> None:
    """Raises PolicyError when something to keep names what is to be erased."""
    for text in preserve:
        for prompt in concept.prompts:
            if stands_in(prompt, text):
                raise PolicyError(
                    f"preserve '{text}' contains '{prompt}' of the concept '{concept.name}': it cannot be kept and "
                    "erased; take it out of one of them"
                )


def check_window(host: Host, texts: Sequence[str]) -> None:
    """Raises PolicyError when a text does not fit the encoder's window and would be cut."""
    window = host.encode([texts[0]]).embeds.shape[1] - 2
    for text, ids in zip(texts, host.tokens(list(texts))):
        if len(ids) >= window:
            raise PolicyError(f"prompt '{text[:60]}...' fills the encoder's window of {window} tokens: shorten it")


def family_of(host: Host) -> str:
    """The base family that an artifact of this model belongs to: the model's name, or its folder's."""
    name = getattr(host.target, "name", None) or getattr(host.target, "name_or_path", "") or "model"
    return slug(Path(str(name)).name) or "model"


def make_settings(method: type[Method], options: Mapping[str, Any], **others: Any) -> Any:
    """A method's MakeSettings from options and those of ``others`` that are not None. Raises PolicyError by name."""
    try:
        return method.MakeSettings(**options, **{name: value for name, value in others.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = method.MakeSettings.model_fields
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        why = f"unknown option; {hint}" if first["type"] == "extra_forbidden" else first["msg"]
        raise PolicyError(f"making {method.name}: {name}: {why}") from None


def weights_mark(host: Host) -> str:
    """A short mark of the very weights of the attention layers (a language model's: of all): another for a fine-tuned
    sibling.
    """
    weight = base_weights_of(host.layers())
    names = [n for n in host.layers() if ".attentions." in n] or list(host.layers())
    sums = [float(weight(n).double().sum()) for n in names if weight(n).is_floating_point()]
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]


def find_made(method: type[Method], host: Host, concept: Any, out: Path, **options: Any) -> Artifact | None:
    """The artifact that ``make`` with these arguments would write again, where it is there already and sound."""
    options = dict(options)
    preserve, seed = options.pop("preserve", ()), options.pop("seed", 0)
    concept = as_concept(concept)
    try:
        found = open_artifact(place(method.name, host, concept, out))
        found.verify()
    except ArtifactError:
        return None
    made, settings = found.manifest.made, make_settings(method, options).model_dump()
    same = (
        found.manifest.concept.model_dump() == concept.model_dump()
        and made.get("settings") == settings
        and made.get("preserve") == list(preserve)
        and made.get("seed", seed) == seed
        and made.get("weights") == weights_mark(host)
    )
    return found if same else None


def place(method: str, host: Host, concept: Concept, out: Path) -> Path:
    """The folder of an artifact: ``out/<family>/<method>/<name>``."""
    return Path(out) / family_of(host) / method / slug(concept.name)


@contextmanager
def progress_bar(label: str, total: int, shown: bool) -> Iterator[Callable[[int, float], None]]:
    """A bar on standard error, advanced by the function that this gives: tick(step, loss)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(label, total=total)
        yield lambda step, loss: bar.update(task, completed=step + 1, description=f"{label}, loss {loss:.4f}")


def write(
    method: str,
    host: Host,
    concept: Concept,
    out: Path,
    tensors: Mapping[str, Tensor],
    made: Mapping[str, Any],
    keep: Sequence[str],
    own: Sequence[str] | None,
    *,
    filename: str,
    metadata: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Artifact:
    """Measure the gate and write the artifact to ``out/<family>/<method>/<name>``.

    keep: texts for which the gate must stay closed, beside ordinary captions; own: texts that must open it, None for a
    guard that prompts do not open; settings: of the guard at run time, where a policy says nothing else.
    """
    fields = {
        "name": slug(concept.name),
        "method": method,
        "concept": concept.model_dump(),
        "base": {"family": family_of(host), "fingerprint": host.fingerprint()},
        "made": {"with": f"conceptguard {__version__}", "weights": weights_mark(host), **made},
        "settings": dict(settings or {}),
    }
    if own is not None:
        fields["gate"] = calibrate(concept.prompts, host.read, keep=keep, own=own).as_dict()
    return write_artifact(place(method, host, concept, out), fields, tensors, filename=filename, metadata=metadata)
