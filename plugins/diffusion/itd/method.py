"""ItD, interpret then deactivate: turns off the features that a sparse autoencoder finds of a concept in a prompt.

Tian et al., "Sparse Autoencoder as a Zero-Shot Classifier for Concept Erasing in Text-to-Image Diffusion Models", 2025.
One autoencoder serves any number of concepts without further training. In the authors' code, features and threshold
are fitted to the prompts of the evaluation, the threshold with another statistic than it is applied with, and prompts
are not padded; none of that here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor

from conceptguard.errors import GuardError, PolicyError, Refused
from conceptguard.generation.denoising import Conditions
from conceptguard.making.task import Learned, Task
from conceptguard.markers import hookimpl
from conceptguard.method import Method, Settings
from conceptguard.runtime.gates import Gate
from conceptguard.runtime.lowrank import LayerIndex, Terms

from ..concept_phrases import opened
from .concept import RATIO, TOP, Answer, Own, encoders_of, features_of, threshold_of
from .files import learn, load
from .train import ItDMakeSettings

MISSED = 0.05  # of calibration texts of the concept: a classifier that misses more is no guard
ANOTHER = 0.05  # how far, relatively, the begin token's state may be from the encoder's own before it is another's


class ItDSettings(Settings):
    """deactivate: the off-switch: multiply the concept's features
    classify: the zero-shot classifier: leave prompts alone that do not have the concept in them; without ``deactivate``
    the receipt only reports them. A prompt that names the concept word for word has it, whatever the classifier says:
    it reads the strongest token, and in a crowded prompt that can be another one
    refuse: generate nothing for prompts that the classifier finds the concept in
    multiplier: what features are multiplied by; the authors' is -8
    reconstruct: replace states by the autoencoder's reconstruction, as the authors do, and lose what it does not know;
    else only what the concept's features write is changed
    top, ratio: of a phrase's strongest features those count that are this much stronger than in anything kept
    """

    deactivate: bool = True
    classify: bool = True
    refuse: bool = False
    multiplier: float = Field(default=-8.0, lt=1)
    reconstruct: bool = False
    top: int = Field(default=TOP, ge=1)
    ratio: float = Field(default=RATIO, ge=1)


Prompt = tuple[str, ...]  # what each text encoder is given


@dataclass
class _Reading:
    """What is known of one prompt: how far above the threshold it is (1 is at it), the concept's phrases that stand
    in it word for word, tokens above the threshold, features, and what changes in each encoder."""

    ratio: float
    named: list[str]
    words: list[str]
    numbers: list[int]
    changes: list[tuple[Tensor | None, Tensor | None]]


class ItD(Method):
    """Pictures: finds any concept in a prompt as the text encoder reads it, and turns it off, refuses or reports.

    One autoencoder for any concept: the concept's features in the text encoder are turned off, or only found.
    """

    name = "itd"
    any_concept = True
    Settings = ItDSettings
    MakeSettings = ItDMakeSettings

    def __init__(self, *args: Any):
        super().__init__(*args)
        s, label = self.settings, self.guard.label
        if not (s.deactivate or s.classify):
            raise PolicyError(f"guard '{label}': deactivate and classify are both off, so nothing would be guarded")
        if s.refuse and not s.classify:
            raise PolicyError(f"guard '{label}': refuse needs the classifier: set classify: true")
        if s.classify and self.guard.preserve:
            raise PolicyError(f"guard '{label}': preserve is for a gate by words: set classify: false to have one")
        self.concept = self.own_concept()
        self._readings: dict[Prompt, _Reading] = {}

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """An autoencoder per text encoder, see ``files``."""
        return learn(task)

    @hookimpl
    def cross_attention(self, layers: LayerIndex) -> Terms:
        """No terms; at attach, the concept's features and threshold. The classifier is the gate where it is on."""
        assert self.artifact is not None
        self._own: list[Own] = []
        phrases = list(self.concept.prompts)
        for encoder in encoders_of(self.host, self.guard.label):
            said = dict(zip(phrases, encoder.ids(phrases, whole=True)))
            dictionary, settings, known = load(self.artifact, encoder)
            if self.guard.concept is None and (self.settings.top, self.settings.ratio) == (TOP, RATIO):
                self._own.append(Own(dictionary, *known, said))
                continue
            features = features_of(
                dictionary, phrases, settings.templates, self.settings.top, self.settings.ratio, self.guard.label
            )
            threshold = threshold_of(dictionary, phrases, settings.calibration, features)
            if self.settings.classify and threshold.missed > MISSED:
                raise PolicyError(
                    f"guard '{self.guard.label}': the autoencoder would miss {threshold.missed:.0%} of prompts "
                    "that ask for this: name its synonyms too, make an artifact with it among the concepts, or set "
                    "classify: false to act wherever a prompt's words say so"
                )
            self._own.append(Own(dictionary, features, threshold.value, said))
        if not self.settings.classify:
            return Terms(self, {}, self.gate(), towards=True)
        fixed = self.guard.gate if isinstance(self.guard.gate, float) else 1.0
        return Terms(self, {}, Gate(strength=self.guard.strength * fixed), towards=True)

    @hookimpl
    def condition(self, conditions: Conditions) -> None:
        """The prompt once more through the encoder, its features turned off; where the classifier finds them."""
        rows = opened(self, conditions)
        if not rows:
            return
        if conditions.moment.call == 0 or len(self._readings) > 256:
            self._readings.clear()
        keys: dict[int, Prompt] = {row: conditions.prompts[row] for row in rows}  # type: ignore[misc]
        self._read([key for key in dict.fromkeys(keys.values()) if key not in self._readings], conditions, keys)
        found = [row for row in rows if self._has(self._readings[keys[row]])]
        if self.settings.refuse and found:
            text = conditions.texts[found[0]]
            why = self._says(keys[found[0]])
            raise Refused(f"guard '{self.guard.label}': {text!r} has {self.concept.name} in it: {why}")
        for row in set(rows) - set(found) if self.settings.deactivate else rows:
            self.act.gates[row] = 0.0  # the receipt tells of open gates only where something was done
        if self.settings.deactivate and found:
            self._change(conditions, found, keys)
            self.act.steps.append(conditions.moment.call)
        for row in found if conditions.moment.call == 0 else []:
            self._note(f"{self._says(keys[row])} in {conditions.texts[row]!r}")

    def _has(self, reading: _Reading) -> bool:
        """Whether a prompt is to be changed: the classifier's word, else whether there is anything to change."""
        return reading.ratio >= 1 or bool(reading.named) if self.settings.classify else bool(reading.numbers)

    def _says(self, key: Prompt) -> str:
        reading = self._readings[key]
        what = f"{len(reading.numbers)} features ({', '.join(map(str, reading.numbers))}) of {self.concept.name}"
        words = reading.named or reading.words  # states write to their neighbours: what is named tells a reader more
        where = f" at {', '.join(map(repr, words))}" if words else ""
        judged = f", {reading.ratio:.2g} times the threshold" if self.settings.classify else ""
        judged += ", named word for word" if self.settings.classify and reading.ratio < 1 else ""
        done = f", times {self.settings.multiplier:g}" if self.settings.deactivate else ""
        return what + where + judged + done

    def _note(self, note: str) -> None:
        if note not in self.act.notes:
            self.act.notes.append(note)

    def _change(self, conditions: Conditions, rows: list[int], keys: dict[int, Prompt]) -> None:
        """Adds what deactivation changes, so that several guards of one prompt add up in any order."""
        embeds = conditions.embeds[rows].float()
        pooled = None if conditions.pooled is None else conditions.pooled[rows].float()
        for i, row in enumerate(rows):
            for own, (states, pool) in zip(self._own, self._readings[keys[row]].changes):
                encoder = own.dictionary.encoder
                if encoder.width is not None and states is not None:
                    embeds[i, encoder.tokens, encoder.width] += self.act.gates[row] * states.to(embeds)
                if encoder.pooled is not None and pool is not None and pooled is not None:
                    pooled[i, encoder.pooled] += self.act.gates[row] * pool.to(pooled)
        conditions.change(rows, embeds, pooled)

    def _read(self, prompts: Sequence[Prompt], conditions: Conditions, keys: dict[int, Prompt]) -> None:
        """Find the concept in prompts, all at once, and encode those again that have it, once a generation."""
        found = [_Reading(0.0, [], [], [], []) for _ in prompts]
        given = {key: row for row, key in keys.items()}
        ids, answers = [], []
        for own in self._own if prompts else []:
            ids.append(own.dictionary.encoder.ids([prompt[own.dictionary.encoder.number] for prompt in prompts]))
            each, answer = own.find(ids[-1])
            self._check(own, conditions, [given[prompt] for prompt in prompts], answer)
            answers.append(answer)
            for reading, one in zip(found, each):
                reading.ratio = max(reading.ratio, one.ratio)
                reading.named += [phrase for phrase in one.named if phrase not in reading.named]
                reading.words += [word for word in one.words if word not in reading.words]
                reading.numbers += [number for number in one.numbers if number not in reading.numbers]
        changed = [i for i, reading in enumerate(found) if self.settings.deactivate and self._has(reading)]
        for own, tokens, before in zip(self._own, ids, answers) if changed else []:
            rows = [tokens[i] for i in changed]
            after = own.deactivated(rows, self.settings.multiplier, self.settings.reconstruct)
            for n, i in enumerate(changed):
                states, pooled = (
                    None if a is None or b is None else a[n].float() - b[i].float() for a, b in zip(after, before)
                )
                found[i].changes.append((states, pooled))
        self._readings.update(zip(prompts, found))

    def _check(self, own: Own, conditions: Conditions, rows: list[int], answer: Answer) -> None:
        """Raises GuardError where embeddings are another encoder's: the begin token's state is the same for any text,
        and no guard changes it."""
        encoder, states = own.dictionary.encoder, answer[0]
        if encoder.width is None or states is None:
            return
        given = conditions.embeds[rows, encoder.tokens.start][:, encoder.width].float()
        apart = (given - states[:, 0].to(given)).norm(dim=-1) / given.norm(dim=-1).clamp_min(1e-6)
        if float(apart.max()) > ANOTHER:
            raise GuardError(
                f"guard '{self.guard.label}': embeddings are not what {encoder.name} makes of their prompts, as with "
                "clip_skip: leave that out, or guard with another method"
            )
