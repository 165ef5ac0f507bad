"""What was found in pictures, and what is done with it: files, and again as a person corrects it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import PolicyError
from ..files.atomic import write_bytes
from ..finder import Found, FoundConcept, Search
from .corrections import Corrections, checked, corrected, cut_out, settings_with
from .files import (
    STEPS,
    guards_by_words,
    guards_of,
    named,
    write_concepts,
    write_policy,
    write_probe,
    write_tokens,
)

CORRECTIONS = "corrections.yaml"


@dataclass(frozen=True)
class Looked:
    """finder: who looked; search: for what; found: what there is; out: where files go; probes: concepts, by their names
    or numbers, that a probe is taught for"""

    finder: Any
    search: Search
    found: Found
    out: Path
    probes: Sequence[str] = ()

    def again(self, said: Corrections) -> Found:
        """Looked for again, where the finder itself decides by what was said. Raises PolicyError for what it cannot
        keep, and for corrections of something else."""
        assert self.search.pictures is not None
        checked(said, self.found.concepts, self.search.pictures)
        if said.rules and not hasattr(self.search.settings, "rules"):
            raise PolicyError(f"{self.finder.name} keeps no rules: `conceptguard find confounders` does")
        settings = settings_with(self.search.settings, said)
        if settings is self.search.settings:
            return self.found
        found: Found = self.finder.find(replace(self.search, settings=settings, shown=False))
        return found

    def write(self, said: Corrections | None = None) -> list[str]:
        """Concept file, probes, a policy for these, and tokens, as far as there are any; which files those are.

        Raises PolicyError where a probe has too few pictures, ArtifactError where it cannot tell them apart.
        """
        pictures, said = self.search.pictures, said or Corrections()
        assert pictures is not None
        kept = corrected(self.found.concepts, pictures, said)
        write_concepts(self.out / "concepts.yaml", kept)
        written, made = [self.out / "concepts.yaml"], []
        for name in dict.fromkeys(named(self.found.concepts, name).name for name in self.probes):
            if name in said.strike:
                continue
            one: FoundConcept = named(kept, said.rename.get(name, name))
            more = cut_out(pictures, said, name, True), cut_out(pictures, said, name, False)
            with self.search.bar(STEPS, f", probe {one.name}") as tick:
                made.append(write_probe(self.out, one, pictures, self.search.seed, tick, more))
        guards = guards_of(self.out, made) if self.search.host is None else guards_by_words(kept)
        if guards:
            write_policy(self.out / "policy.yaml", guards)
            written += [self.out / "policy.yaml", *(one.folder for one in made)]
        elif self.probes or self.search.host is not None:
            (self.out / "policy.yaml").unlink(missing_ok=True)  # of a probe that was struck, or of another picture
        return [str(file) for file in (*written, *write_tokens(self.out / "tokens", kept))]

    def correct(self, said: Corrections) -> str:
        """Do what was said, keep it beside the files, and tell of it."""
        begin = time.perf_counter()
        again = self.again(said)
        written = self.write(said)
        write_bytes(self.out / CORRECTIONS, json.dumps(said.model_dump(mode="json"), indent=1).encode())
        told = [again.told] if again is not self.found else []
        return "\n".join([*told, *(f"wrote {file}" for file in written), f"{time.perf_counter() - begin:.1f} s"])
