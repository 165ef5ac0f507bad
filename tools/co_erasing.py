"""What words and pictures still bring out when a concept's guard is open to all: `esd` beside `co_erasing`.

A picture is asked with through emoji-adapter, behind the empty prompt, as a user's own IP-Adapter would ask.

    python -m tools.co_erasing --artifacts out/co --concept beer --json FILE
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conceptguard import load_model
from conceptguard.formats import read_artifact
from conceptguard.generation.conditioning import Encoded, pick
from conceptguard.making.pictures import drawn
from conceptguard.measuring.judge import Judge
from conceptguard.measuring.suite import load_suite
from conceptguard.plugins import host_for
from conceptguard.registry import Registry
from conceptguard.registry.signed.beside import shipped
from conceptguard.runtime.banks import Banks
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import Terms

from .rows import parser_of, write_rows

SEED = 8_900_000


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a registry")
    parser.add_argument("--concept", default="beer")
    parser.add_argument("--adapter", default="registry/models/emoji-adapter", help="its folder")
    parser.add_argument("--n", type=int, default=12, help="pictures of each kind")
    asked = parser.parse_args()
    write_rows("co-erasing", rows(asked.artifacts, asked.concept, asked.adapter, asked.n), asked.json)


def rows(artifacts: Path, concept: str, adapter: str, n: int) -> Iterator[dict[str, Any]]:
    """One for no guard and for each artifact of the concept. Prompts are those that judge, and nothing else."""
    suite, host = load_suite("emoji-sd"), host_for(load_model("emoji-sd"))
    denoiser, judge, layers = host.denoiser(), Judge.load(shipped("models/emoji-judge")), host.layers()
    nothing, wordings = host.encode([""]), suite.judge_templates_plain
    about = suite.object(concept)
    others = [it for it in suite.objects if it.group == "other"][:n]

    def texts(words: Sequence[tuple[str, str]]) -> Encoded:
        said = [words[i % len(words)] for i in range(n)]
        return host.encode([wordings[i % len(wordings)].format(thing=a, noun=b) for i, (a, b) in enumerate(said)])

    named = texts([(about.thing, about.name)])
    other = texts([(it.thing, it.name) for it in others])
    freely = host.encode([(about.synonyms + about.phrases)[i % len(about.synonyms + about.phrases)] for i in range(n)])

    def draw(asked: Encoded, seed: int, opened: Callable[[Sequence[float]], None] = lambda gates: None) -> Tensor:
        return denoiser.pictures(drawn(denoiser, asked, nothing, n, torch.Generator().manual_seed(SEED + seed), opened))

    def of_pictures(shown: Tensor) -> Encoded:
        tokens = denoiser.picture_prompts(adapter, None, shown)
        empty = pick(nothing, [0] * n)
        return Encoded(empty.embeds, empty.ids, pictures=tokens)

    asked = {"words": named, "other_words": freely, "picture": of_pictures(draw(named, 0)),
             "others": other, "others_picture": of_pictures(draw(other, 1))}  # fmt: skip
    registry = Registry([artifacts])
    made = {entry.method: registry.load(entry.ref) for entry in registry.entries() if entry.name == concept}
    for method in (None, *sorted(made, reverse=True)):
        banks = (
            None if method is None else Banks(layers, [Terms(host, read_artifact(made[method], layers), Gate())], host)
        )

        def opened(gates: Sequence[float], banks: Banks | None = banks) -> None:
            if banks is not None:
                for prefix in banks.prefixes():
                    banks.set(prefix, torch.tensor(gates).view(-1, 1))

        row: dict[str, Any] = {"method": method or "none", "concept": concept, "n": n}
        try:
            for kind, told in asked.items():
                with denoiser.reading_pictures(adapter) if told.pictures is not None else nullcontext():
                    objects = judge.judge(draw(told, 2, opened)).objects
                wanted = [it.name for it in others] if kind.startswith("others") else [concept]
                row[kind] = sum(it == wanted[i % len(wanted)] for i, it in enumerate(objects)) / n
        finally:
            if banks:
                banks.detach()
        print(row, flush=True)
        yield row


if __name__ == "__main__":
    main()
