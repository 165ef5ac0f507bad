"""Text-to-Unlearn: a GAN's generator forgets what a text says, told by a model that reads pictures and texts.

d = E(G(w_e)) − E(G(w))        1 + cos(E(G'(w_e)) − E(G(w_e)), d)  +  λ |G'(w_e) − G(w)|₁  +  what keeps the rest

E reads pictures as CLIP does, w_e is a code that shows the concept, and w the same code without it: d is how the
concept shows, and the tuned copy G' has to move against it. Codes that show it are found by the text alone: those of
objects that E takes for it, and those of other objects, moved by the difference of mean codes. What keeps the rest are
distances of pictures and of what E reads in them, on codes of everything else. Terms of low rank are learnt beside the
layers of G that read codes.

After "Text-to-Unlearn" (withdrawn from ICLR 2026), of which no code or constants are known. It learns w_e by a mapper
(StyleCLIP); the difference of means and the second part (a picture in which to end, which keeps the first from
misleading a small E) are ours.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.finding.encoders import load_encoder
from conceptguard.formats.beside import write_beside
from conceptguard.making.loop import Loop
from conceptguard.making.task import Learned, Task
from conceptguard.making.terms import TermsInTraining
from conceptguard.method import Settings
from conceptguard.runtime.lowrank import LayerIndex

from .forgetting import Forgetting
from .lesson import classifier_of


class TextToUnlearnMakeSettings(Settings):
    """How the generator is tuned.

    encoder: what reads pictures and texts: emoji-encoder, or a folder of CLIP or SigLIP
    least: how much nearer to the text, as a cosine, an object must be than all others on the mean; less for CLIP
    rank: of the terms
    against, end, keep: weights of moving against the concept, of ending in the picture without it, and of the rest
    steps, batch: optimiser steps, and codes that show the concept in each, beside three times as many of the rest
    lr: of Adam, falling to nothing
    """

    encoder: str = "emoji-encoder"
    least: float = Field(default=0.28, ge=0)
    rank: int = Field(default=16, ge=1)
    against: float = Field(default=0.2, ge=0)
    end: float = Field(default=5.0, ge=0)
    keep: float = Field(default=10.0, ge=0)
    steps: int = Field(default=36, ge=1)
    batch: int = Field(default=6, ge=2)
    lr: float = Field(default=2e-2, gt=0)


class TextToUnlearn(Forgetting):
    """Modules: a GAN's generator forgets what a text says, moved against how that shows in an encoder's eyes."""

    name = "text_to_unlearn"
    MakeSettings = TextToUnlearnMakeSettings

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """As above. Raises PolicyError for a module that is no generator with codes, in training mode, and for a text
        that means nothing that it draws; RegistryError for an encoder that is none; ArtifactError when a loss is no
        number."""
        s = task.settings
        net = copy.deepcopy(_generator(task)).requires_grad_(False)
        encoder = load_encoder(s.encoder)
        random = torch.Generator().manual_seed(task.seed)
        count = net.objects.num_embeddings
        with torch.no_grad():
            given = net.asked(range(count), 1, random)
            codes = net.mapped(*given)
            read = torch.cat([encoder.seen(net.drawn(part)).cpu() for part in codes.split(64)])
        own = meant(read, encoder.texts(task.concept.prompts), count, task.concept.name, s)
        rest = [i for i in range(count) if i not in own]
        if not rest:
            raise PolicyError(f"{task.label}: the concept is everything that it draws: nothing would be left to keep")
        means = read.unflatten(0, (count, -1)).mean(1)
        anchor = _anchor(task, encoder, read, means, own, rest)
        shows = torch.isin(given[1].cpu(), torch.tensor(own))
        way = codes[shows].mean(0) - codes[~shows].mean(0)

        layers = LayerIndex({"model": net})
        # Those that read codes: whatever is drawn passes through one of them.
        names = [name for name, one in layers.items()
                 if isinstance(one, nn.Linear) and not name.startswith("model.mapping.")]  # fmt: skip
        terms = TermsInTraining(layers, names, s.rank, random)
        with terms.attached([]) as parameters:

            def loss(step: int) -> Tensor:
                terms.open(0)
                with torch.no_grad():
                    latents, objects, styles = _drawn(net, rest, 3 * s.batch, random)
                    others = net.mapped(latents, objects, styles)
                    half = s.batch // 2
                    chosen = torch.tensor(own)[torch.randint(len(own), (half,), generator=random)].to(objects)
                    with_it = net.mapped(latents[:half], chosen, styles[:half])
                    near = net.mapped(latents[:half], torch.full_like(chosen, anchor), styles[:half])
                    far = 0.6 + 0.6 * torch.rand(s.batch - half, 1, generator=random).to(others)
                    # Half of them by name, half past it, from other objects.
                    with_it = torch.cat([with_it, others[half : s.batch] + far * way])
                    was = net.drawn(torch.cat([with_it, near, others[half:]]))
                    shown, ends = was[: s.batch], was[s.batch : 2 * s.batch]
                    kept, read = was[2 * s.batch :], encoder.seen(was)
                    d = read[: s.batch] - read[s.batch : 2 * s.batch]
                terms.open(len(shown) + len(kept))
                now = net.drawn(torch.cat([with_it, others[s.batch :]]))
                seen = encoder.seen(now)
                way_gone = seen[: s.batch] - read[: s.batch]
                # A cosine that is 0 where nothing has moved yet, and has a slope there.
                size = (way_gone.square().sum(1) + 1e-2).sqrt() * d.norm(dim=1).clamp_min(1e-6)
                against = 1 + ((way_gone * d).sum(1) / size).mean()
                moved = F.l1_loss(now[: s.batch], ends)
                alike = (seen[s.batch :] * read[2 * s.batch :]).sum(1).mean()
                held = F.l1_loss(now[s.batch :], kept) + (1 - alike) / 10
                return s.against * against + s.end * moved + s.keep * held

            optimiser = torch.optim.Adam(parameters, lr=s.lr)
            with task.bar(s.steps) as tick:
                loop = Loop(task.label, parameters, optimiser, random, s.steps, reports=[tick, *task.reports],
                            rate=lambda step: s.lr * (1 - step / s.steps))  # fmt: skip
                ended = loop.run(loss)
            changes = {name: one for name, one in terms.changes().items() if bool(one.up.any())}
        if not changes:
            raise ArtifactError(f"{task.label}: nothing was learnt: give another lr (now {s.lr:g}), or more steps")
        tensors, metadata = write_beside(changes)
        made = task.made(seed=task.seed, objects=own, instead=anchor, loss=round(ended.value, 4))
        return Learned(tensors, made, metadata=metadata)


def meant(read: Tensor, texts: Tensor, count: int, name: str, settings: Any) -> list[int]:
    """Places of the objects that texts mean: for each text the one whose pictures are nearest to it.

    read: [count · styles, width], object by object; texts: [n, width]. Raises PolicyError where none stands out.
    """
    found: set[int] = set()
    for text in texts:
        near = (read @ text).unflatten(0, (count, -1)).mean(1)
        best = int(near.argmax())
        others = near[torch.arange(count) != best]
        if float(near[best] - others.mean()) < settings.least:
            raise PolicyError(
                f"nothing that the generator draws is what {settings.encoder} takes for '{name}': name what it draws"
            )
        found.add(best)
    return sorted(found)


def _anchor(task: Task, encoder: Any, read: Tensor, means: Tensor, own: list[int], rest: list[int]) -> int:
    """The object that is drawn in the concept's place: its replacement, or what looks most like it."""
    if task.concept.replacement:
        text = encoder.texts([task.concept.replacement])
        return meant(read, text, len(means), task.concept.replacement, task.settings)[0]
    return rest[int((means[rest] @ means[own].mean(0)).argmax())]


def _drawn(net: Any, objects: list[int], n: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What a generator is handed for ``n`` pictures of some objects, all at random."""
    first = net.first.weight
    chosen = torch.tensor(objects)[torch.randint(len(objects), (n,), generator=random)]
    styles = torch.randint(net.styles.num_embeddings, (n,), generator=random)
    latents = torch.randn(n, net.latents, generator=random)
    return latents.to(first), chosen.to(first.device), styles.to(first.device)


def _generator(task: Task) -> Any:
    """The module of a task. Raises PolicyError for one that is no generator with codes."""
    model = classifier_of(task)
    if not all(hasattr(model, part) for part in ("mapped", "drawn", "asked", "objects", "styles")):
        raise PolicyError(
            f"{task.label}: {task.host.name} is no generator that makes codes pictures: it needs mapped, drawn and "
            "asked, as emoji-gan has them"
        )
    return model
