"""The autoencoder as an artifact: made, written and read back. Its own concept, and all that any other one needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor

from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.making.task import Learned, Task
from conceptguard.making.templates import check_window, fill
from conceptguard.runtime.calibration import around
from conceptguard.runtime.encodings import ordinary_captions

from .concept import RATIO, TOP, Dictionary, encoders_of, features_of, threshold_of, wordings
from .sae import PARTS, SAE, Codes
from .train import ItDMakeSettings, train, unexplained

if TYPE_CHECKING:
    from conceptguard.concept import Concept
    from conceptguard.protocols import TextEncoder
    from conceptguard.registry import Artifact

MEASURED = ("threshold", "missed", "flagged", "unexplained", "active")
PEAKS = 64  # of each kept text: its strongest features


def learn(task: Task) -> Learned:
    """Train an autoencoder per text encoder on wordings of the concept, of what is kept, and on ordinary captions.

    ``task.preserve`` are words that stay, and that a policy may guard later: the more, the more concepts are told
    apart. Raises PolicyError for what cannot be trained on, ArtifactError when training fails.
    """
    s, concept = task.settings, task.concept
    task.check(s.templates, s.calibration)
    if both := set(s.templates) & set(s.calibration):
        raise PolicyError(f"calibration: '{both.pop()}' is among the templates too: the threshold would be too sure")
    words = list(dict.fromkeys([*concept.prompts, *task.preserve]))
    captions = [*ordinary_captions(), *around(concept.prompts)]
    texts = list(dict.fromkeys([*(fill(t, w) for t in s.templates for w in words), *captions[::2]]))
    apart = [fill(s.calibration[i % len(s.calibration)], w) for i, w in enumerate(words)] + captions[1::2]
    check_window(task.host, [*texts, *apart])
    tensors: dict[str, Tensor] = {}
    measured: dict[str, dict[str, Any]] = {}
    for encoder in encoders_of(task.host, "itd"):
        trained, states = train(task, encoder, texts)
        stored, dictionary, figures = _finish(encoder, s, trained, concept, words, captions[::2], apart)
        tensors |= {f"{encoder.name}.{name}": tensor for name, tensor in stored.items()}
        measured[encoder.name] = {**figures, "unexplained": round(unexplained(dictionary.sae, states), 4)}
    figures = {what: {name: one[what] for name, one in measured.items()} for what in MEASURED}
    metadata = {"kept": json.dumps([*words, *captions[::2]]), "apart": json.dumps(apart)}
    return Learned(tensors, task.made(seed=task.seed, **figures), metadata=metadata)


def _finish(
    encoder: TextEncoder, settings: ItDMakeSettings, trained: SAE, concept: Concept, words: list[str],
    captions: list[str], apart: list[str],
) -> tuple[dict[str, Tensor], Dictionary, dict[str, Any]]:  # fmt: skip
    """What is stored of one autoencoder, in half precision; its concept is found in what comes back from the file."""
    stored = {name: getattr(trained, name).half() for name in PARTS}
    sae = SAE.of(stored, trained.k)
    nothing = Codes(torch.zeros(0, 1, sae.k, dtype=torch.long), torch.zeros(0, 1, sae.k))
    dictionary = Dictionary(encoder, settings.layer, sae, [], torch.zeros(0, len(sae)), [], nothing)
    few = wordings(settings.templates)
    peaks = dictionary.peaks_of([fill(t, w) for w in words for t in few]).view(len(words), len(few), -1).amax(1)
    strongest = torch.cat([peaks, dictionary.peaks_of(captions)]).topk(min(PEAKS, len(sae)))
    codes, _ = dictionary.read(apart)
    longest = int((codes.value > 0).any(-1).any(0).nonzero().max()) + 1
    stored["kept.features"], stored["kept.peaks"] = strongest.indices.int(), strongest.values.half()
    stored["apart.features"] = codes.index[:, :longest].int().cpu()
    stored["apart.values"] = codes.value[:, :longest].half().cpu()
    dictionary = _dictionary(stored, encoder, settings, [*words, *captions], apart)
    features = features_of(dictionary, concept.prompts, settings.templates, TOP, RATIO, concept.name)
    threshold = threshold_of(dictionary, concept.prompts, settings.calibration, features)
    stored["own"] = features.nonzero()[:, 0].int()
    figures = {"threshold": round(threshold.value, 4), "missed": threshold.missed, "flagged": threshold.flagged}
    return stored, dictionary, {**figures, "active": len(sae)}


def _dictionary(
    stored: dict[str, Tensor], encoder: TextEncoder, settings: ItDMakeSettings, kept: list[str], apart: list[str]
) -> Dictionary:
    """Raises KeyError, ValueError, IndexError or RuntimeError for tensors that are no such thing."""
    sae = SAE.of(stored, settings.k)
    index, value = stored["kept.features"].long(), stored["kept.peaks"].float()
    codes = Codes(stored["apart.features"].long(), stored["apart.values"].float())
    for numbers in (index, codes.index):
        if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(sae):
            raise ValueError("a feature that the autoencoder does not have")
    if len(index) != len(kept) or len(codes.index) != len(apart) or codes.index.shape[-1] != sae.k:
        raise ValueError("as many kept and calibration texts as their codes")
    peaks = torch.zeros(len(kept), len(sae)).scatter_(1, index, value)
    return Dictionary(encoder, settings.layer, sae, kept, peaks, apart, codes)


def load(artifact: Artifact, encoder: TextEncoder) -> tuple[Dictionary, ItDMakeSettings, tuple[Tensor, float]]:
    """The autoencoder of one text encoder, how it was made, and its own concept: features [features] bool, threshold.

    Raises ArtifactError for an artifact that has none for this encoder.
    """
    tensors, made, said = artifact.tensors(), artifact.manifest.made, artifact.metadata()
    mine = {n.removeprefix(f"{encoder.name}."): t for n, t in tensors.items() if n.startswith(f"{encoder.name}.")}
    try:
        settings = ItDMakeSettings(**made["settings"])
        dictionary = _dictionary(mine, encoder, settings, json.loads(said["kept"]), json.loads(said["apart"]))
        features = torch.zeros(len(dictionary.sae), dtype=torch.bool)
        features[mine["own"].long()] = True
        width = encoder.hidden
        if len(dictionary.sae.centre) != width or settings.layer >= encoder.depth:
            raise ValueError(f"the encoder is {width} wide and {encoder.depth} layers deep")
        return dictionary, settings, (features, float(made["threshold"][encoder.name]))
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError, ValidationError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ArtifactError(f"{artifact.ref} has no autoencoder for {encoder.name} ({what}): make it again") from None
