"""One sampling of a guarded MODEL: what its conditions say, and what happens at the diffusion model's door.

Conditions are read before the model is loaded, for that may need the text encoder. At the door each row is told by its
embedding, whatever was done to the batch on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..banks import running
from ..errors import GuardError, Refused
from ..generation import Branch, Conditions, Encoded, Moment, Prompts
from .comfyui_text import Seen
from .families import XL, Family
from .rows import pick_rows

if TYPE_CHECKING:
    from ..session import Session
    from .comfyui import ComfyHost

_BRANCHES: dict[str, Branch] = {"negative": "negative"}  # every other condition of a guider is drawn towards


class Condition(NamedTuple):
    """One row of one condition of a sampling. texts: None where it could not be told what it says."""

    name: str
    embeds: Tensor
    texts: list[Seen] | None

    @property
    def text(self) -> str | None:
        if self.texts is None:
            return None
        whole = [seen.text for seen in self.texts]
        return whole[0] if len(set(whole)) == 1 else " ".join(whole)

    @property
    def branch(self) -> Branch:
        branch = _BRANCHES.get(self.name, "conditional")
        return "unconditional" if branch == "negative" and self.text == "" else branch

    @property
    def prompts(self) -> tuple[str, ...] | None:
        return self.texts[0].prompts if self.texts and len(self.texts) == 1 else None

    @property
    def ids(self) -> list[int] | None:
        return None if self.texts is None else [i for seen in self.texts for w in seen.ids or () for i in w]

    @property
    def windows(self) -> int:
        return sum(len(seen.ids or ()) for seen in self.texts or ())


class Sampling:
    """From the first look at a guider's conditions to its last step. Raises what guards raise, GuardError, Refused."""

    def __init__(self, host: ComfyHost, session: Session):
        self.host, self.session = host, session
        self._conditions: list[Condition] = []
        self._names: dict[Any, str] = {}
        self._rows: list[Condition] = []
        self._last: tuple[Tensor, list[str | None]] | None = None

    def run(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """The sampling itself, with hooks on the diffusion model as long as it takes."""
        self._tell_of_encoders()
        self._learn(executor.class_obj.conds)
        model: nn.Module = self.host.base.diffusion_model
        handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]
        try:
            result = executor(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if not self.session.receipt.steps:
            raise GuardError("a sampler went past the guards: the guarded MODEL was never called")
        return result

    def _tell_of_encoders(self) -> None:
        """Terms beside a text encoder have acted before, if at all: a receipt must not pass over those that did not."""
        for method, terms in zip(self.session.methods_with_terms, self.session.banks.terms):
            if beside := sum(name.startswith("text_encoder") for name in terms.factors):
                method.act.notes.append(f"{beside} layers of the text encoder act through Guard Encoder")

    def _learn(self, conds: dict[str, list[dict[str, Any]]]) -> None:
        """Before the model is loaded: what each condition says, and what guards that read prompts make of it."""
        tried = False
        for name, conditions in conds.items():
            for n, cond in enumerate(conditions):
                embeds = cond.get("cross_attn")
                if embeds is None:
                    continue
                if self.host.family.begins and not embeds.any():  # zeroed out: nothing is said
                    found: list[list[Seen] | None] = [[_nothing(row)] for row in embeds]
                else:
                    found = [self.host.texts.find(row) for row in embeds]
                    if None in found and not tried:
                        with torch.no_grad(), closed(self.host):
                            self.host.texts.try_texts(self.host.candidates())
                        tried = True
                    found = [texts or self.host.texts.find(row) for texts, row in zip(found, embeds)]
                rows = [Condition(name, row, texts) for row, texts in zip(embeds, found)]
                if self.session.has("encode_prompt"):
                    rows, conditions[n] = self._prompts(cond, rows)
                self._conditions += rows
                self._names[cond.get("uuid")] = name

    def _prompts(self, cond: dict[str, Any], rows: list[Condition]) -> tuple[list[Condition], dict[str, Any]]:
        """A condition after every guard has read its prompt. One that a guard rewrote is encoded anew."""
        embeds = cond["cross_attn"]

        def encode(texts: list[str]) -> Encoded:
            new = self.host.encode(texts)
            fitting = new.embeds[:, : embeds.shape[1]]
            padding = (0, 0, 0, embeds.shape[1] - fitting.shape[1])
            return Encoded(torch.nn.functional.pad(fitting, padding), new.ids, new.pooled)

        texts, pooled = [row.text for row in rows], cond.get("pooled_output")
        prompts = Prompts(list(texts), [row.ids for row in rows], embeds, pooled, [row.branch for row in rows], encode)
        self.session.encode_prompt(prompts)
        if prompts.texts != texts and len(rows) == 1 and prompts.texts[0] is not None:
            text = prompts.texts[0]
            tokens = self.host.texts.clip.tokenize(text)
            with torch.no_grad(), closed(self.host):
                new, new_pooled = self.host.texts.clip.encode_from_tokens(tokens, return_pooled=True)
            seen = self.host.texts.remember(text, tokens, new)
            changed = {**cond, "cross_attn": new, "pooled_output": new_pooled}
            return [Condition(rows[0].name, new[0], [seen])], changed
        if prompts.embeds is embeds and prompts.pooled is pooled:
            return rows, cond
        kept = [row._replace(embeds=new) for row, new in zip(rows, prompts.embeds)]
        return kept, {**cond, "cross_attn": prompts.embeds, "pooled_output": prompts.pooled}

    # At the diffusion model's door.

    @torch.compiler.disable  # outside the graph, which then knows nothing of sessions
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if running.get() is not self.session:
            return None
        context = kwargs.get("context")
        if context is None:
            raise GuardError("this model was called without a text conditioning, so its guards could not be opened")
        names = self._called(kwargs.get("transformer_options") or {}, len(context))
        last = self._last
        if last is None or names != last[1] or not _equal(context, last[0]):
            self._open(context, names)
            self._last = context, names
        pooled, width = self._pooled(kwargs)

        def conditions(guidance: float | None, moment: Moment) -> Conditions:
            rows = self._rows
            return Conditions(
                [row.text for row in rows], [row.prompts for row in rows], context, pooled,
                [row.branch for row in rows], guidance, moment, _no_skips,
            )  # fmt: skip

        given = self.session.before_denoise(args[1] * self.host.family.clock, conditions)
        if given is None or (given.embeds is context and given.pooled is pooled):
            return None
        changed = {**kwargs, "context": given.embeds}
        if given.pooled is not None and given.pooled is not pooled:
            changed["y"] = torch.cat([given.pooled, kwargs["y"][:, width:]], dim=1)
        return args, changed

    def _pooled(self, kwargs: dict[str, Any]) -> tuple[Tensor | None, int]:
        """Pooled embeddings, with which ``y`` begins, and their width. SDXL's sizes stand behind them."""
        y = kwargs.get("y")
        if y is None or not self.host.family.pooled:
            return None, 0
        width = y.shape[1] - (6 * 256 if self.host.family is XL else 0)
        return y[:, :width], width

    def _called(self, options: dict[str, Any], rows: int) -> list[str | None]:
        """For each row of a call, which condition of the guider ComfyUI says it is; None where it does not."""
        uuids = options.get("uuids") or []
        if not uuids or rows % len(uuids):
            return [None] * rows
        return [self._names.get(uuid) for uuid in uuids for _ in range(rows // len(uuids))]

    def _open(self, context: Tensor, names: list[str | None]) -> None:
        """Gates for the conditions that reached the diffusion model."""
        rows = self._rows = [self._recall(row, name) for row, name in zip(context, names)]
        if self.host.family.readable is not None and any(row.texts is None for row in rows):
            raise Refused(
                f"a conditioning whose text is not known: what the other encoders of {self.host.name} add to it cannot "
                "be read; encode it through Guard Encoder"
            )
        own = [read_row(self.host.family, row) for row in rows]
        longest = max(map(len, own))
        # Repeating the last position adds nothing to what is found in a text.
        embeds = torch.stack([torch.cat([o, o[-1:].expand(longest - len(o), -1)]) for o in own])
        self.session.open_gates(
            self.host.denoiser_name, embeds, [row.ids for row in rows], [row.text for row in rows],
            [row.branch for row in rows],
        )  # fmt: skip
        if self.session.has("condition"):
            self._check_windows(rows)

    def _check_windows(self, rows: list[Condition]) -> None:
        """Guards that change a prompt token by token know one window of it; the rest must not go unguarded."""
        for method in self.session.methods:
            if not hasattr(method, "condition"):
                continue
            for row, gate in zip(rows, method.act.gates):
                if gate and row.texts and row.windows > 1:
                    raise GuardError(
                        f"guard '{method.guard.label}' reads {self.host.window} tokens of a prompt, and {row.text!r} "
                        "is longer, or joined of several: shorten it, or use a guard with an artifact"
                    )

    def _recall(self, row: Tensor, name: str | None) -> Condition:
        """Which condition of this sampling a row is: its embedding says so, whatever other nodes did to the batch.

        name: what ComfyUI says. It decides where several are alike, but is wrong for the negative conditions that
        ComfyUI makes up to match areas of positive ones.
        """
        same = [c for c in self._conditions if _covers(c.embeds, row)]
        if not same:
            # changed on its way: nothing is known of it but that it is there
            return Condition(name or "changed", row, None)
        return next((c for c in same if c.name == name), same[0])

    @torch.compiler.disable
    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if running.get() is not self.session:
            return None

        def denoise(conditions: Encoded, rows: Sequence[int]) -> Tensor:
            return self._denoise(module, args, kwargs, conditions, list(rows))

        # Whether both branches come in one call is for ComfyUI to decide, by memory and by what is wired to each.
        changed = self.session.after_denoise(args[1] * self.host.family.clock, args[0], output, denoise, separate=True)
        self.host.on_step(self.session.receipt, False)
        return None if changed is output else changed

    @torch.no_grad()
    def _denoise(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], conditions: Encoded, rows: list[int]
    ) -> Tensor:
        """Some rows of this call again, under other conditions, with every guard out of the way."""
        total = len(args[0])
        if total % len((kwargs.get("transformer_options") or {}).get("cond_or_uncond") or [0]):
            raise GuardError(
                "guards that predict noise need to know which rows of a batch belong together, and another node split "
                "it: take that node out of the graph"
            )
        options = kwargs.get("transformer_options") or {}
        call = {name: pick_rows(value, rows, total) for name, value in kwargs.items() if name != "transformer_options"}
        call["transformer_options"] = _of_rows(options, rows, total)
        sample = args[0][rows]
        call["context"] = conditions.embeds.to(sample).expand(len(rows), -1, -1)
        _, width = self._pooled(kwargs)
        if width and conditions.pooled is not None:
            pooled = conditions.pooled.to(sample).expand(len(rows), -1)
            call["y"] = torch.cat([pooled, call["y"][:, width:]], dim=1)
        with closed(self.host):
            return module._call_impl(sample, args[1][rows], **call)  # type: ignore[no-any-return]


class closed:
    """No session's terms act meanwhile."""

    # A host, whose session may ask its model something meanwhile.
    def __init__(self, owner: object):
        self._owner = owner

    def __enter__(self) -> None:
        self._token = running.set(self._owner)

    def __exit__(self, *_: object) -> None:
        running.reset(self._token)


def read_row(family: Family, row: Condition) -> Tensor:
    """An embedding as gates read it, [tokens, width]: a begin token, then the text's own, window after window."""
    read = family.reading(row.embeds[None])[0]
    if row.texts is None or row.windows == 1:
        return read
    parts = [part.to(read) for seen in row.texts for part in seen.content(family.begins)]
    return torch.cat([read[:1], *(parts or [read[1:2]])])


def _no_skips(rows: Sequence[int]) -> Any:
    raise GuardError(
        "a guard asked for the skip connections of the UNet, which ComfyUI hands out one by one: leave that setting "
        "(safree's reattention) off"
    )


def _of_rows(options: dict[str, Any], rows: list[int], total: int) -> dict[str, Any]:
    """ComfyUI's notes about a call, for some of its rows: each is a chunk of its own."""
    kept = dict(options)
    for name in ("cond_or_uncond", "uuids"):
        chunks = options.get(name)
        if chunks:
            kept[name] = [chunks[row * len(chunks) // total] for row in rows]
    return kept


def guidance_of(guider: Any) -> float | None:
    """The scale of classifier-free guidance; None for a guider that composes predictions its own way."""
    from comfy.samplers import CFGGuider

    plain = type(guider).predict_noise is CFGGuider.predict_noise
    return float(guider.cfg) if plain else None


def _nothing(row: Tensor) -> Seen:
    return Seen(row, "", [[]], ("",) * 3)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _covers(embeds: Tensor, row: Tensor) -> bool:
    """Whether a row of a call is a condition, which ComfyUI repeats to the length of another one beside it."""
    times, rest = divmod(len(row), len(embeds))
    if rest or embeds.shape[1] != row.shape[1]:
        return False
    return torch.equal(embeds.to(row).repeat(times, 1), row)
