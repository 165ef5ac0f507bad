"""What a command line says about guards: ``--policy`` and ``--guard`` as one policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .options import Usage, split

if TYPE_CHECKING:
    from ..policy import Policy

NONE = "none"


def policy_of(policy: str | None, guards: Sequence[str] | None) -> Policy | None:
    """The policy that was asked for, with the guards that stand beside it, called by what was written; None where
    ``none`` was asked for.

    Raises Usage where nothing was said at all: no guard is something that one has to want.
    """
    from ..policy_file import load_policy

    if policy == NONE and guards:
        raise Usage("--policy none and --guard: leave one of them out")
    if policy is None and not guards:
        raise Usage(
            "no policy: give --policy FILE or a shipped policy's name (see `conceptguard policies`), "
            "--guard METHOD:WHAT, or --policy none for no guard"
        )
    if policy == NONE:
        return None
    written = list(guards or [])
    more = load_policy({"name": " + ".join(written) or "policy", "guards": [guard_of(text) for text in written]})
    if policy is None:
        return more
    loaded = load_policy(policy)
    name = " + ".join([loaded.name, *written])
    return loaded.model_copy(update={"name": name, "guards": [*loaded.guards, *more.guards]})


def guard_of(text: str) -> dict[str, Any]:
    """A guard as a policy would have it, from ``spm:emoji-sd/spm/beer``, ``spm:beer`` (an artifact of that method),
    ``sld:beer,lager`` (a concept in words), ``nudenet``, or YAML in braces. Raises PolicyError or RegistryError.
    """
    from .. import plugins
    from ..errors import PolicyError
    from ..files.yaml import parse
    from ..registry import default_registry

    if text.lstrip().startswith("{"):
        found, _ = parse(text, name="--guard", error=PolicyError)
        if not isinstance(found, dict):
            raise PolicyError(f"--guard {text}: write {{method: NAME, artifact: REFERENCE}}")
        return found
    name, _, what = (part.strip() for part in text.partition(":"))
    method = plugins.method(name)
    if not what and method.needs != "nothing":
        raise Usage(f"--guard {text}: write {name}:{'ARTIFACT' if method.needs == 'artifact' else 'WORD,WORD'}")
    if not what:
        return {"method": name}
    if "/" in what or "\\" in what or what.endswith(".safetensors"):
        return {"method": name, "artifact": what}
    if method.needs == "artifact":
        registry, short = default_registry(), f"{name}/{what}"
        several = len(registry.ending(short)) > 1  # for several models: it is the one for that which is loaded
        return {"method": name, "artifact": short if several else registry.find(short).ref}
    words = split(what)
    return {"method": name, "concept": {"name": words[0] if words else what, "prompts": words}}
