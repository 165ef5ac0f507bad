"""Find Concepts: what pictures have in common, to look at and to correct in the sidebar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui
from torch import Tensor

from conceptguard.errors import PolicyError
from conceptguard.files.paths import slug
from conceptguard.finder import PictureSet
from conceptguard.finder import Search as AskedFor
from conceptguard.finding.checks import beside_random
from conceptguard.finding.corrections import read_corrections
from conceptguard.finding.encoders import EMBEDDED, load_encoder, split_words, words_for
from conceptguard.finding.looked import CORRECTIONS, Looked
from conceptguard.finding.page import page
from conceptguard.finding.pictures import SIDE, read_folder
from conceptguard.making.progress import Tick
from conceptguard.plugins import offers
from conceptguard.policy import Policy, together
from conceptguard.policy_file import load_policy

from . import choices, events, found
from .policy_node import POLICY


class Search(AskedFor):
    """One whose progress the page shows."""

    @contextmanager
    def bar(self, total: int, what: str = "", told: str = "loss") -> Iterator[Tick]:
        bar = ProgressBar(total)
        yield lambda step, value=None, /: bar.update_absolute(step + 1)


class ConceptGuardFind(io.ComfyNode):
    """Find Concepts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        looking = [name for name, finder in offers("finders").items() if getattr(finder, "looks_at", "") == "pictures"]
        return io.Schema(
            node_id="ConceptGuardFind", display_name="Find Concepts", category="conceptguard",
            description="What pictures have in common: named concepts, where they are, and how much they matter. The "
            "sidebar shows them, to strike, to rename, and to draw boxes; probes guard those that you name.",
            inputs=[
                io.Combo.Input("finder", options=looking, default="lens"),
                io.String.Input("folder", default="", tooltip="Pictures in a folder of ComfyUI's input, in folders of "
                                "their classes where they have any."),
                io.String.Input("name", default="found", tooltip="Files lie under this name in "
                                "models/conceptguard/found."),
                io.String.Input("guarded", default="", tooltip="Concepts that a probe is taught for, by their names, "
                                "with commas between: the policy looks for them in images."),
                io.Image.Input("images", optional=True, tooltip="Pictures to look through in place of a folder's."),
                POLICY.Input("policy", optional=True, tooltip="Guards to put these after."),
            ],
            outputs=[POLICY.Output(display_name="policy"), io.String.Output(display_name="found")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", name: str = "", **_: Any) -> Any:
        """Pictures that came in, and what was corrected since."""
        files = [*_below(folder).rglob("*"), _out(name) / CORRECTIONS] if folder else [_out(name) / CORRECTIONS]
        return [(str(file), file.stat().st_mtime_ns) for file in sorted(files) if file.is_file()]

    @classmethod
    def execute(
        cls, finder: str, folder: str, name: str, guarded: str, images: Tensor | None = None,
        policy: Policy | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        if bool(folder.strip()) == (images is not None):
            raise PolicyError("give a folder of ComfyUI's input, or wire images: one of both")
        out = _out(name)
        with torch.inference_mode(False):  # ComfyUI runs nodes in it, and a probe is taught
            pictures = read_folder(_below(folder)) if images is None else _pictures(images.clone())
            chosen = offers("finders")[finder]
            search = Search(None, None, chosen.FindSettings(), 0, finder, False, pictures, load_encoder(),
                            words_for(EMBEDDED))  # fmt: skip
            looked = Looked(chosen, search, chosen.find(search), out, split_words(guarded))
            said = None
            if (out / CORRECTIONS).is_file():
                said = read_corrections(out / CORRECTIONS)
                try:
                    looked = replace(looked, found=looked.again(said))
                except PolicyError as error:
                    raise PolicyError(f"{error}: give another name, or delete {out / CORRECTIONS}") from None
            facts = {"Finder": finder, "Pictures": folder or f"{len(pictures)} images", "Encoder": EMBEDDED}
            text = page(looked.found, pictures, beside_random(chosen, search, looked.found), facts, said,
                        hasattr(search.settings, "rules"), live=True)  # fmt: skip
            found.keep(found.Kept(slug(name), looked, text))
            looked.write(said)
        events.send("conceptguard.found", {"name": slug(name)})
        told = "\n".join(f"{one.name}: {one.importance:.2f}" for one in looked.found.concepts) or looked.found.told
        if looked.probes and (out / "policy.yaml").is_file():
            own = load_policy(out / "policy.yaml")
            policy = own if policy is None else together(policy, own)
        return io.NodeOutput(policy or _nothing(), told, ui=ui.PreviewText(told))


def _nothing() -> Any:
    """In place of a policy: what hangs on it does not run, and says why."""
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker("Find Concepts guards nothing yet: name what it found in `guarded`")


def _out(name: str) -> Path:
    if not slug(name):
        raise PolicyError(f"name '{name}': files lie under it: give one with letters or digits")
    return choices.own_folder() / "found" / slug(name)


def _below(folder: str) -> Path:
    """A folder of ComfyUI's input: a graph may come from anybody, and must not read what lies elsewhere."""
    inputs = Path(folder_paths.get_input_directory()).resolve()
    path = (inputs / folder.strip()).resolve()
    if not path.is_relative_to(inputs):
        raise PolicyError(f"folder '{folder}' is not in ComfyUI's input: put its pictures there")
    if not path.is_dir():
        raise PolicyError(f"there is no folder '{folder}' in ComfyUI's input: put pictures there")
    return path


def _pictures(images: Tensor) -> PictureSet:
    """Images [n, h, w, 3], cut to their middle squares."""
    side = min(images.shape[1:3])
    top, left = ((edge - side) // 2 for edge in images.shape[1:3])
    square = images[:, top : top + side, left : left + side, :3].movedim(-1, 1).cpu().float()
    small = torch.nn.functional.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True)
    names = [f"image {i + 1}" for i in range(len(images))]
    return PictureSet((small * 255).round().clamp(0, 255).byte(), names, [""] * len(names))
