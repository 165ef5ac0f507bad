"""How often emoji-sd-marked draws the label that nobody asks for, and how often under geom_erasing.

The guard that ships, whole and by its layers alone; beside it, as controls, nothing, and plain fine-tuning on the same
pictures, which is made here with the same settings. Asked are objects by name, of seeds that nothing else uses. The
judge of labels is no detector, and had no part in any of them.

    python -m tools.marked --json FILE
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from conceptguard_plugins.diffusion.geom_erasing.method import GeomErasing
from conceptguard_registry.build.emoji_sd_siblings.judge import MarksJudge
from conceptguard_registry.build.emoji_sd_siblings.pictures import to_folder

import conceptguard
from conceptguard.making.maker import find_made
from conceptguard.measuring.judges import load_judge
from conceptguard.measuring.suite import load_suite
from conceptguard.plugins import host_for

from .rows import parser_of, write_rows

MODEL, ARTIFACT = "emoji-sd-marked", "emoji-sd-marked/geom_erasing/marks"
SEED, BATCH = 8_900_000, 12


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--n", type=int, default=96, help="pictures, each of another object")
    parser.add_argument("--steps", type=int, default=20, help="of everything that is drawn")
    parser.add_argument("--work", type=Path, default=Path("out/marked"), help="folder for what is made beside it")
    parser.add_argument("--cache", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded packs")
    asked = parser.parse_args()
    write_rows("marked", rows(asked.n, asked.steps, asked.work, asked.cache), asked.json)


def rows(n: int, steps: int, work: Path, cache: Path) -> Iterator[dict[str, Any]]:
    """One for each guard and control."""
    pipe: Any = conceptguard.load_model(MODEL)
    pipe.set_progress_bar_config(disable=True)
    guard = {"method": "geom_erasing", "artifact": ARTIFACT}
    with conceptguard.attach(pipe, {"guards": [guard]}) as session:
        made = session.methods[0].artifact.manifest.made
    yield {"guard": "none", **drawn(pipe, None, n, steps)}
    yield {"guard": "geom_erasing", **drawn(pipe, guard, n, steps)}
    yield {"guard": "geom_erasing, layers alone", **drawn(pipe, {**guard, "negative": False}, n, steps)}
    if not (work / "pictures").is_dir():
        to_folder(work / "pictures", cache, made["pictures"])
    settings = {**made["settings"], "pictures": str(work / "pictures"), "told": "nothing"}
    host, told = host_for(pipe), ("marks", work / "nothing")
    plain = find_made(GeomErasing, host, *told, **settings) or GeomErasing.make(host, *told, progress=False, **settings)
    plainly = {"method": "geom_erasing", "artifact": str(plain.folder)}
    yield {"guard": "plain fine-tuning", **drawn(pipe, plainly, n, steps)}


def drawn(pipe: Any, guard: dict[str, Any] | None, n: int, steps: int) -> dict[str, Any]:
    """Shares of pictures that carry the label, and in which the object is recognised."""
    objects, pictures = load_suite("emoji-sd").objects, []
    asked = [objects[i % len(objects)] for i in range(n)]
    with conceptguard.attach(pipe, {"guards": [guard]}) if guard else nullcontext():
        for at in range(0, n, BATCH):
            own = [torch.Generator().manual_seed(SEED + i) for i in range(at, min(at + BATCH, n))]
            said = [it.thing for it in asked[at : at + BATCH]]
            pictures.append(
                pipe(said, num_inference_steps=steps, guidance_scale=3.5, generator=own, output_type="pt").images
            )
    pixels = torch.cat(pictures).float().cpu()
    seen = load_judge("emoji-sd").judge(pixels).objects
    right = sum(it.name == name for it, name in zip(asked, seen, strict=True))
    return {"marked": float(MarksJudge.load().marked(pixels).float().mean()), "objects": right / n, "n": n}


if __name__ == "__main__":
    main()
