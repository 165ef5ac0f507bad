"""The autoencoder as an artifact: made, written and read back. Its own concept, and all that any other one needs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor

from conceptguard.concept import as_concept, check_preserve
from conceptguard.errors import ArtifactError, PolicyError
from conceptguard.making.maker import make_settings, place, weights_mark, write
from conceptguard.making.progress import progress_bar
from conceptguard.making.templates import check_templates, check_window, fill
from conceptguard.runtime.encodings import ordinary_captions

from ..spm.state import Snapshot
from .concept import RATIO, TOP, Dictionary, encoders_of, features_of, threshold_of, wordings
from .sae import PARTS, SAE, Codes
from .train import ItDMakeSettings, Training, inputs_of, states_behind, unexplained

if TYPE_CHECKING:
    from conceptguard.concept import Concept
    from conceptguard.host import Host
    from conceptguard.protocols import TextEncoder
    from conceptguard.registry import Artifact

MEASURED = ("threshold", "missed", "flagged", "unexplained", "active")
PEAKS = 64  # of each kept text: its strongest features


def make(
    cls: Any,
    host: Host,
    concept: Any,
    out: Path,
    *,
    preserve: Sequence[str] = (),
    seed: int = 0,
    steps: int | None = None,
    progress: bool = True,
    **options: Any,
) -> Artifact:
    """Train an autoencoder per text encoder on wordings of the concept, of what is kept, and on ordinary captions.

    preserve: words that stay, and that a policy may guard later: the more, the more concepts are told apart; options:
    see ItDMakeSettings. An interrupted call is taken up by calling it again. Raises PolicyError for what cannot be
    trained on, ArtifactError when training fails.
    """
    settings = make_settings(cls, options, steps=steps)
    concept = as_concept(concept)
    check_preserve(concept, preserve)
    check_templates(settings.templates)
    check_templates(settings.calibration)
    if both := set(settings.templates) & set(settings.calibration):
        raise PolicyError(f"calibration: '{both.pop()}' is among the templates too: the threshold would be too sure")
    started = time.perf_counter()
    words = list(dict.fromkeys([*concept.prompts, *preserve]))
    captions = ordinary_captions()
    texts = list(dict.fromkeys([*(fill(t, w) for t in settings.templates for w in words), *captions[::2]]))
    apart = [fill(settings.calibration[i % len(settings.calibration)], w) for i, w in enumerate(words)] + captions[1::2]
    check_window(host, [*texts, *apart])
    folder = place(cls.name, host, concept, out)
    tensors: dict[str, Tensor] = {}
    measured: dict[str, dict[str, Any]] = {}
    for encoder in encoders_of(host, cls.name):
        if settings.layer >= encoder.depth:
            raise PolicyError(
                f"layer {settings.layer}: the denoiser hears of {encoder.name}'s layers 0 to {encoder.depth - 1}"
            )
        label = f"itd {encoder.name}"
        with progress_bar(f"{label}: reading", len(texts), progress) as tick:
            states = states_behind(encoder, settings.layer, texts, tick)
        inputs = inputs_of(settings, seed, weights_mark(host), encoder.name, texts)
        training = Training(states, settings, seed, Snapshot(folder.parent / f".{folder.name}.{encoder.name}", inputs))
        with progress_bar(label, settings.steps, progress) as tick:
            sae = training.run(tick)
        stored, dictionary, figures = _finish(encoder, settings, sae, concept, words, captions[::2], apart)
        tensors |= {f"{encoder.name}.{name}": tensor for name, tensor in stored.items()}
        measured[encoder.name] = {**figures, "unexplained": round(unexplained(dictionary.sae, states), 4)}
    made = {
        "settings": settings.model_dump(), "preserve": list(preserve), "seed": seed,
        **{what: {name: one[what] for name, one in measured.items()} for what in MEASURED},
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    metadata = {"kept": json.dumps([*words, *captions[::2]]), "apart": json.dumps(apart)}
    filename = f"{folder.name}.safetensors"
    return write(cls.name, host, concept, out, tensors, made, (), None, filename=filename, metadata=metadata)


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
