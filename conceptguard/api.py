"""What the command line does, as functions: make an artifact, judge a policy, bring a published file in."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plugins
from .errors import ConceptGuardError, RegistryError
from .policy_file import load_policy
from .registry import default_registry

if TYPE_CHECKING:
    from .concept import Concept
    from .policy import Policy
    from .registry import Artifact


def make(
    target: Any, method: str, concept: Concept | Mapping[str, Any] | str, out: str | Path, *,
    preserve: Sequence[str] = (), seed: int = 0, steps: int | None = None, **settings: Any,
) -> Artifact:  # fmt: skip
    """Make an artifact about a concept for a model, as ``conceptguard make`` does, and list it in the registry ``out``.

    target: a pipeline or a pair (language model, tokenizer); concept: a name, or a mapping with ``name``, ``prompts``
    and ``replacement``; preserve: what must stay; steps: of a training; settings: the method's own. Raises PolicyError
    for what cannot be made, ArtifactError when making fails.
    """
    chosen, host = plugins.method(method), plugins.host_for(target)
    folder = Path(out).expanduser()
    artifact = chosen.make(host, concept, folder, preserve=preserve, seed=seed, steps=steps, **settings)
    return default_registry().add(artifact, folder)


def evaluate(
    pipe: Any, *policies: str | Path | Mapping[str, Any] | Policy, suite: str | Path,
    judge: str | Path | Sequence[str | Path] | None = None, n: int = 12, steps: int = 25, guidance: float = 3.5,
    batch: int = 8, seeds: int = 1,
) -> list[dict[str, Any]]:  # fmt: skip
    """Judge policies on a pipeline: a row for each and, at the end, the rows of two controls, ``none`` and ``blank``.

    suite: the name of an embedded model's, or a file; judge: a folder that ``conceptguard judge`` wrote, one of sorted
    pictures, a CLIP or SigLIP on disk or a plugin's judge, or two of these, where the suite has none of its own; n:
    prompts of each concept, and as many of its neighbours, twice as many others; seeds: sets of seeds. Shares are from
    0 to 1: ``erased_before``, ``erased_after``, the same of ``neighbours`` and ``others``, and ``identical``; a second
    judge's begin with ``second_``. Unguarded pictures are kept in the cache. Raises RegistryError where suite or judge
    is missing, or a policy is about nothing that the suite has.
    """
    from .measuring.evaluate import controls
    from .measuring.evaluate import evaluate as judged
    from .measuring.judges import check_judges, load_judges
    from .measuring.own_judges import judge_for, words_of
    from .measuring.policies import cases_of
    from .measuring.samples import Recipe
    from .measuring.suite import load_suite

    if not hasattr(pipe, "components"):
        raise ConceptGuardError(
            "evaluate judges pictures of a diffusers pipeline; language models: `conceptguard eval --suite language`"
        )
    asked = load_suite(suite)
    named = [judge] if isinstance(judge, (str, Path)) else judge or []
    judges = load_judges(asked, [str(one) for one in named], lambda name: judge_for(name, words_of(asked)))
    loaded = [load_policy(policy) for policy in policies]
    cases = [one for seed in range(seeds) for one in cases_of(asked, loaded, n, seed)]
    check_judges(judges, (sample for one in cases for sample in one.samples))
    recipe, name = Recipe(steps, guidance, batch), str(getattr(pipe, "name", type(pipe).__name__))
    found = [judged(pipe, judges, one, recipe, name) for one in cases]
    return [*(one.row for one in found), *controls(judges, found, name)]


def import_artifact(
    file: str | Path, kind: str, *, concept: str = "", prompts: Sequence[str] = (), replacement: str = "",
    base: str = "", model: str | Path | None = None, name: str = "", licence: str = "", into: str | Path | None = None,
) -> Artifact:  # fmt: skip
    """Bring a published file into a registry, keys and metadata kept, as ``conceptguard import`` does.

    kind: spm, lora, uce or text_encoder; concept, prompts: what it erases, by default what the file says; base: the
    family of base models; model: a folder or embedded model whose layers are checked; into: a registry folder, by
    default your own. Raises RegistryError without base or model, ArtifactError for a file that is something else.
    """
    from .files.paths import slug
    from .registry.importer import import_artifact as read

    registry = default_registry()
    embedded = {name for source in registry.sources for name in source.models()}
    place = str(model or (base if base in embedded else "")) or None
    folder = (
        (Path(place).expanduser() if Path(place).expanduser().is_dir() else registry.model(place)) if place else None
    )
    family = base or slug(Path(model).name if model else "")
    if not family:
        raise RegistryError("which base models is the file for? Give `--base FAMILY` or `--model FOLDER`")
    with tempfile.TemporaryDirectory() as temporary:
        artifact = read(
            Path(file).expanduser(), kind, Path(temporary), base=family, concept=concept, prompts=list(prompts),
            replacement=replacement, model=folder, name=name, licence=licence,
        )  # fmt: skip
        return registry.add(artifact, into)
