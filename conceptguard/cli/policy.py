"""``conceptguard policies`` and ``conceptguard policy check``: which policies ship, and whether one would load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .complete import models
from .complete import policies as policy_names
from .options import DEVICE, GUARD, JSON
from .table import wrapped

if TYPE_CHECKING:
    from ..policy import Guard, Policy

POLICY = typer.Argument(..., autocompletion=policy_names, help="A policy file, a shipped policy's name, or YAML text.")


def register(app: typer.Typer) -> None:
    """Put the commands on the program."""
    app.command("policies", short_help="List the shipped policies.")(policies)
    group = typer.Typer(help="Look at a policy before it is used.", no_args_is_help=True)

    @group.callback()
    def policy() -> None:
        """Look at a policy before it is used."""

    group.command("check")(check)
    app.add_typer(group, name="policy")


def policies(json: str | None = JSON) -> None:
    """List the shipped policies, with a line each.

    \b
    conceptguard policies
    conceptguard policy check school

    Their names stand for their files wherever a policy is taken. A file of your own says:

    \b
    name: pub
    on_violation: blur    # flag, blur, black, reject or retry: what becomes of a picture that a guard flags
    guards:
      - {method: spm, artifact: emoji-sd/spm/beer}
      - {method: sld, concept: {name: wine, prompts: [wine, champagne]}, preserve: [juice]}

    Every guard takes strength (of what it does; default 1), gate (prompt, always or a number; default prompt) and
    preserve (what must leave a gate by prompt shut); beside these, the settings of its method: `conceptguard plugins
    METHOD`. One that would not load, such as a file that nobody signed, is named with why, and the exit status is 1.
    """
    from ..policy_file import shipped_policies
    from .output import report

    begin = time.perf_counter()
    rows = [_listed(name, path) for name, path in shipped_policies().items()]
    bad = [row for row in rows if row["why"]]
    report("policies", rows, time.perf_counter() - begin, json, columns=["policy", "for", "guards", "about"],
           failed=len(bad))  # fmt: skip
    for row in bad:
        typer.echo(wrapped(f"{row['policy']} would not load: {row['why']}"), err=True)
    if bad:
        raise typer.Exit(1)


def _listed(name: str, path: Path) -> dict[str, Any]:
    """A row for a shipped policy; why: it would not load."""
    from ..errors import ConceptGuardError
    from ..policy_file import load_policy, shipped_policy

    row = {"policy": name, "for": "", "guards": None, "on_violation": "", "about": "", "file": str(path), "why": ""}
    try:
        rules = load_policy(shipped_policy(name))
    except ConceptGuardError as error:
        return row | {"why": str(error)}
    families = ", ".join(sorted(_families(rules)))
    return row | {"for": families, "guards": len(rules.guards), "on_violation": rules.on_violation,
                  "about": _about(rules)}  # fmt: skip


def _families(rules: Policy) -> set[str]:
    """Which base models the artifacts are for: the first step of a reference."""
    return {guard.artifact.split("/")[0] for guard in rules.guards if guard.artifact and guard.artifact.count("/") == 2}


def _about(rules: Policy) -> str:
    """What it keeps from being generated, and by what."""
    by: dict[str, list[str]] = {}
    for guard in rules.guards:
        named = guard.concept.name if guard.concept else (guard.artifact or "").rpartition("/")[2]
        by.setdefault(guard.method, []).append(named)
    parts = []
    for method, names in by.items():
        shown = names if len(names) < 6 else [*names[:4], f"{len(names) - 4} more"]
        parts.append(f"{', '.join(filter(None, shown))} by {method}" if any(shown) else method)
    return "; ".join(parts)


def check(
    policy: str = POLICY,
    guard: list[str] | None = GUARD,
    model: str | None = typer.Option(
        None, autocompletion=models, help="Try it on this model: a name, a folder, a checkpoint or a Hub id."
    ),
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Say whether a policy is valid, what every guard would load, and on which models it acts.

    \b
    conceptguard policy check school.yaml
    conceptguard policy check school.yaml --model ./my-sd

    Artifacts are found and verified. With --model the policy is attached to it, and taken off again. Exit status 1 when
    something would not load.
    """
    from .guarding import policy_of
    from .loading import either
    from .output import report

    begin = time.perf_counter()
    rules = policy_of(policy, guard)
    assert rules is not None or policy == "none"
    load = cache(partial(either, model, device)) if model else None
    rows = [_row(one, _bases(load) if load else ()) for one in rules.guards] if rules else []
    bad = sum(not row["ok"] for row in rows)
    why = _attached(rules, load()) if rules and load and not bad else ""
    told: dict[str, Any] = {"valid": not bad and not why, "model": model, "why": why}
    told |= {"policy": rules.name, "on_violation": rules.on_violation} if rules else {"policy": policy}
    columns = ["guard", "acts_on", "model", "ok", "why"]
    report("policy check", rows, time.perf_counter() - begin, json, columns=columns, **told)
    if json != "-":
        for line in _verdict(rules, rows, bad, model, why):
            print(wrapped(line))
    if bad or why:
        raise typer.Exit(1)


def _bases(load: Callable[[], Any]) -> Iterator[str]:
    """What artifacts are for that a model takes; it is loaded when a short name fits several."""
    from ..making.base import bases_of
    from ..plugins import host_for

    yield from bases_of(host_for(load()))


def _row(guard: Guard, bases: Iterable[str]) -> dict[str, Any]:
    """What one guard would load. bases: see ``Registry.find``"""
    from .. import plugins
    from ..errors import ConceptGuardError
    from ..registry import default_registry
    from .plugins import acts_on

    row: dict[str, Any] = {"guard": guard.label, "method": guard.method, "ok": True, "why": "",
                           "acts_on": acts_on(plugins.method(guard.method)), "model": "any"}  # fmt: skip
    if guard.artifact:
        try:
            artifact = default_registry().load(guard.artifact, bases=bases)
            artifact.verify()
            base = artifact.manifest.base
            row |= {"artifact": artifact.ref, "bytes": artifact.size, "model": base.family or "any",
                    "fingerprint": base.fingerprint}  # fmt: skip
        except ConceptGuardError as error:
            row |= {"ok": False, "why": str(error), "model": ""}
    return row


def _attached(rules: Policy, loaded: Any) -> str:
    """Why a model does not take the policy; "" where it does."""
    from ..errors import ConceptGuardError
    from ..sessions.attach import attach

    try:
        attach(loaded, rules).detach()
    except ConceptGuardError as error:
        return str(error)
    return ""


def _verdict(rules: Policy | None, rows: list[dict[str, Any]], bad: int, model: str | None, why: str) -> Iterator[str]:
    if not rows:
        yield "valid, and guards nothing: it has no guards"
    elif bad:
        yield f"{bad} of {len(rows)} guards would not load: nothing would be generated under this policy"
    elif why:
        yield f"does not go on {model}: {why}"
    else:
        assert rules is not None
        families = sorted({row["model"] for row in rows} - {"any"})
        where = f"on {model}, tried" if model else f"on models of {', '.join(families)}" if families else "on any model"
        looks = f"; a picture that a guard flags: {rules.on_violation}" if _looks(rules) else ""
        yield f"valid: {len(rows)} guard{'s' if len(rows) > 1 else ''} would act {where}{looks}"


def _looks(rules: Policy) -> bool:
    from .. import plugins

    return any("check_image" in plugins.hooks(plugins.method(guard.method)) for guard in rules.guards)
