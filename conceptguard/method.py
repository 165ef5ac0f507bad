"""What a method is: one class that makes artifacts, acts as a guard, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .concept import as_concept, as_concepts, together
from .errors import ArtifactError, PolicyError
from .making.maker import place, without, write
from .making.settings import known_of, make_settings
from .making.task import Task
from .markers import hookimpl
from .runtime.once import meanwhile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from .concept import Concept
    from .finder import Found, Search
    from .host import Host, TextHost
    from .making.task import Learned, Report
    from .policy import Guard
    from .receipt import Act
    from .registry import Artifact
    from .registry.manifest import Concept as Listed
    from .runtime.gates import Gate


class Settings(BaseModel):
    """What a policy may say about a guard of this method, beyond what every guard has. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Method:
    """Subclass, set ``name``, implement the generation hooks you need with ``@hookimpl``, name it in an entry point.

    One instance is one guard in one session. ``self.guard`` is its entry in the policy, ``self.settings`` the
    validated settings, ``self.artifact`` what it loaded (or None), ``self.host`` the model it acts on, ``self.act``
    its entry in the receipt of the running generation: a guard that does more than open terms says so in its notes.
    ``self.asked`` is how far each row asks for its concept, those that a picture is drawn away from included, whose
    gates in ``self.act.gates`` are 0: of guards whose ``Terms`` say ``towards``, and 0 where a gate is always open.
    Raise any exception: the session turns it into a GuardError and nothing is generated.
    """

    name: ClassVar[str]
    needs: ClassVar[str] = "artifact"  # what a policy must give: "artifact", "concept" or "nothing"
    regrets: ClassVar[bool] = False  # whether it calls ``Decoding.regret``
    family: ClassVar[str | None] = None  # of its artifacts, where they belong to no base model
    several: ClassVar[bool] = False  # whether one artifact can be made of many concepts: see ``Task.each``
    modules: ClassVar[bool] = False  # whether it guards plain torch modules, into whose weights it is folded
    generating: ClassVar[bool] = False  # of one that does: whether it guards models that draw and that write as well
    previews: ClassVar[bool] = False  # whether its training shows pictures: see ``making.preview``
    any_concept: ClassVar[bool] = False  # whether an artifact serves whatever concept the policy names beside it
    Settings: ClassVar[type[BaseModel]] = Settings
    MakeSettings: ClassVar[type[BaseModel]] = Settings  # what ``make`` takes as options, with types and defaults
    FindSettings: ClassVar[type[BaseModel]] = Settings  # the same of ``find``
    settings: Any  # an instance of the method's own Settings
    host: Any  # hosts.Host, or hosts.TextHost where text is generated
    act: Act
    asked: list[float]

    def __init__(self, guard: Guard, artifact: Artifact | None, host: Host | TextHost):
        self.guard, self.artifact, self.host = guard, artifact, host
        # An artifact brings the settings it was measured with; the policy has the last word.
        brought = artifact.manifest.settings if artifact else {}
        try:
            self.settings = self.Settings(**{**brought, **guard.settings})
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise ArtifactError(f"guard '{guard.label}': {what} in the artifact's own settings") from None

    @hookimpl
    @classmethod
    def methods(cls) -> list[type[Method]]:
        """A class named in an entry point offers itself."""
        return [cls]

    @hookimpl
    @classmethod
    def finders(cls) -> list[type[Method]]:
        """One that finds as well is a finder by the same name."""
        return [cls] if cls.find.__func__ is not Method.find.__func__ else []  # type: ignore[attr-defined]

    @classmethod
    def make(
        cls,
        host: Host | Any,
        concept: Any,
        out: Path,
        *,
        name: str = "",
        preserve: Sequence[str] = (),
        seed: int = 0,
        steps: int | None = None,
        preview: int = 0,
        anyway: bool = False,
        progress: bool = True,
        report: Report | None = None,
        **options: Any,
    ) -> Artifact:
        """Learn or solve an artifact about a concept for this base model; it is written to
        ``out/<family>/<method>/<concept>``.

        concept: or a list of several, where ``several`` says so: they are solved together, and any of them can be
        withdrawn again; name: of such a list, by default "concepts"
        preserve: what stands near the concept and must stay; seed: the same one gives the same artifact; steps: of a
        training; preview: after so many of them, again and again, pictures of how it goes, in one PNG in ``out``, see
        ``making.preview``; anyway: train on a concept that the model does not know, or draws unasked, as well
        report: called with (step, loss) after each; options: the method's ``MakeSettings``

        An interrupted training is taken up where it was when the same is asked for again. Raises PolicyError for what
        cannot be made, ArtifactError when making fails.
        """
        settings = make_settings(cls, options, steps=steps)
        if preview and not cls.previews:
            raise PolicyError(f"method '{cls.name}' has no pictures to show while it makes: leave preview out")
        concept, many = cls.wanted(concept, name)
        label, folder = f"{cls.name} {concept.name}", place(cls, host, concept, out)
        reports = [report] if report else []
        task = Task(
            host, concept, preserve, settings, seed, folder, label, progress, reports, several=many, preview=preview,
            anyway=anyway,
        )  # fmt: skip
        with meanwhile():
            return write(cls, task, cls.learn(task))

    @classmethod
    def prepare(cls, host: Host | Any, *, seed: int = 0, progress: bool = True, **options: Any) -> bool:
        """Measure what ``make`` begins with on this model, whatever it will be asked, and keep it in the cache, where
        ``make`` with the same options finds it. False where there is nothing of that kind. Raises PolicyError."""
        return False

    @classmethod
    def wanted(cls, concept: Any, name: str = "") -> tuple[Concept, list[Concept]]:
        """What ``make`` is to make: a concept, and where it is given as a list those that it consists of.

        Raises PolicyError.
        """
        if not isinstance(concept, (list, tuple)):
            if name:
                raise PolicyError(f"a name of its own ('{name}') is for several concepts: give them as a list")
            return as_concept(concept), []
        if not cls.several:
            raise PolicyError(
                f"method '{cls.name}' makes an artifact of one concept: make one for each, and name all in a policy"
            )
        many = as_concepts(concept)
        return together(many, name or "concepts"), many

    @classmethod
    def withdraw(
        cls,
        host: Host | Any,
        artifact: Artifact,
        names: Sequence[str],
        out: Path | None = None,
        *,
        progress: bool = True,
    ) -> Artifact:
        """Take some of an artifact's several concepts back: it becomes, to the last bit, what ``make`` makes of the
        others. What was read of these is not read again while it lies beside the artifact.

        out: another registry folder to write to; by default it is replaced where it lies. Raises PolicyError for a
        concept that it does not have, where none would be left, and for a copy in a cache.
        """
        left = without(artifact, names)
        made, root = artifact.manifest.made, out or artifact.folder.parents[2]
        if out is None and root / artifact.ref != artifact.folder:
            raise PolicyError(f"{artifact.folder} is a copy that belongs to another registry: say where to write")
        return cls.make(
            host, left, root, name=artifact.manifest.concept.name, preserve=made.get("preserve", ()),
            seed=made.get("seed", 0), anyway=True, progress=progress, **known_of(cls, made["settings"]),
        )  # fmt: skip

    @classmethod
    def learn(cls, task: Task) -> Learned:
        """The method's own part of ``make``: from a checked task to tensors, and what opens their gate."""
        raise PolicyError(f"method '{cls.name}' makes no artifacts: name it in a policy as it is")

    @classmethod
    def find(cls, search: Search) -> Found:
        """Where a concept is in a model, or which ones a model has. Raises PolicyError, BaseMismatch."""
        raise PolicyError(f"method '{cls.name}' finds nothing: `conceptguard plugins` lists finders")

    @classmethod
    def peers(cls) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
        """Work to be timed beside published code: its name, and (ours, theirs), each of which gives a tensor: the same,
        or the difference is told."""
        return {}

    def own_concept(self) -> Concept | Listed:
        """The concept of this guard, the policy's or the artifact's. Raises PolicyError when it has no prompts: it
        would guard nothing, silently."""
        concept = self.guard.concept or (self.artifact.manifest.concept if self.artifact else None)
        if concept is None or not concept.prompts:
            name = concept.name if concept else "..."
            raise PolicyError(
                f"guard '{self.guard.label}': the concept has no prompts, so nothing would be guarded: "
                f"give concept: {{name: {name}, prompts: [a phrase, another one]}}"
            )
        return concept

    def gate(self) -> Gate:
        """The gate the policy asks for: by prompt (the default where the concept has prompts), or fixed."""
        from .concept import check_preserve
        from .runtime.calibration import calibrate
        from .runtime.encodings import lengths
        from .runtime.gates import Gate

        guard = self.guard
        own = guard.concept is None  # the artifact's, which its calibration is about
        concept = self.artifact.manifest.concept if self.artifact and own else guard.concept
        if guard.gate == "always" or concept is None:
            return Gate(strength=guard.strength)
        if isinstance(guard.gate, float):
            return Gate(strength=guard.strength * guard.gate)
        for prompt, length in zip(concept.prompts, lengths(self.host, concept.prompts)):
            if length > self.host.window:
                raise PolicyError(
                    f"guard '{guard.label}': the phrase '{prompt[:40]}...' has {length} tokens, and the text encoder "
                    f"reads {self.host.window}: a gate would not know its end. Give shorter phrases, or gate: always"
                )
        measured = (self.artifact.manifest.gate or {}) if self.artifact and own else {}
        if guard.preserve or not {"floor", "full"} <= set(measured):
            # Nothing measured, as in an imported file, or not about what this policy keeps.
            check_preserve(concept, guard.preserve)
            measured = calibrate(
                concept.prompts, self.host.read, keep=guard.preserve, known=self.host.encoding_cache()
            ).as_dict()
        return Gate(tuple(concept.prompts), guard.strength, measured["floor"], measured["full"], measured.get("unread"))
