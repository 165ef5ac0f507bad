"""What artifacts do as kohya LoRA files in plain diffusers, where nothing of conceptguard runs and no gate is.

Each artifact of a concept is written as `conceptguard export --format kohya` writes it and loaded by diffusers' own
`load_lora_weights`; prompts, judges and columns are those of `conceptguard eval`, before is
the pipeline without a file.

    python -m tools.exported --artifacts out/trained --concept beer --json FILE
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from conceptguard import load_model
from conceptguard.measuring.cases import case
from conceptguard.measuring.evaluate import row
from conceptguard.measuring.judges import load_judges
from conceptguard.measuring.samples import Recipe, make
from conceptguard.measuring.suite import load_suite
from conceptguard.policy_file import load_policy
from conceptguard.registry import Registry
from conceptguard.registry.exporter import export_artifact

from .rows import parser_of, write_rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a registry")
    parser.add_argument("--concept", default="beer")
    parser.add_argument("--n", type=int, default=8, help="prompts, as many of neighbours, and twice as many others")
    parser.add_argument("--steps", type=int, default=12, help="of everything that is drawn")
    asked = parser.parse_args()
    write_rows("exported", rows(asked.artifacts, asked.concept, asked.n, asked.steps), asked.json)


def rows(artifacts: Path, concept: str, n: int, steps: int) -> Iterator[dict[str, Any]]:
    """One for each method that has an artifact of the concept, with the columns of `conceptguard eval`."""
    suite, registry, recipe = load_suite("emoji-sd"), Registry([artifacts]), Recipe(steps=steps)
    judges, nothing = load_judges(suite), load_policy({"name": "none", "guards": []})
    asked = case(suite, "", [concept], nothing, n, 2 * n, gated=False)
    pipe: Any = load_model(suite.base)
    pipe.set_progress_bar_config(disable=True)
    bare = [make(pipe, samples, recipe) for samples in asked.groups]
    for entry in registry.entries():
        if entry.name == concept:
            made = registry.load(entry.ref)
            with tempfile.TemporaryDirectory() as folder:
                export_artifact(made, "kohya", Path(folder) / "x.safetensors", model=Path(pipe.config._name_or_path))
                pipe.load_lora_weights(folder, weight_name="x.safetensors")
            worn = [make(pipe, samples, recipe) for samples in asked.groups]
            pipe.unload_lora_weights()
            yield {**row(judges, replace(asked, method=entry.method), bare, worn, suite.base), "bytes": made.size}


if __name__ == "__main__":
    main()
