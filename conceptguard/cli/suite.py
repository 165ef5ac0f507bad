"""``conceptguard suite``: what to ask a model of one's own about a concept of one's own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import CONFIG, DEVICE, JSON, MODEL, VARIANT, Usage, split

if TYPE_CHECKING:
    from ..measuring.new_suite import NewSuite

JUDGE = typer.Option(
    None,
    metavar="FOLDER",
    help="Who will judge: what it knows is what is asked for beside the concept. Sorted pictures, or a trained judge.",
)


def register(app: typer.Typer) -> None:
    """Put the commands on the program."""
    group = typer.Typer(help="Write and look at what a model is asked when guards are judged.", no_args_is_help=True)

    @group.callback()
    def suite() -> None:
        """Write and look at what a model is asked when guards are judged."""

    group.command("new")(new)
    group.command("check")(check)
    app.add_typer(group, name="suite")


def new(
    concept: str = typer.Argument(..., metavar="CONCEPT", help="What is to be erased, as the judge calls it."),
    out: Path = typer.Option(..., metavar="FILE", help="The suite, in YAML."),
    model: str = MODEL,
    words: str = typer.Option("", metavar="A,B", help="Other nouns for the concept."),
    phrase: list[str] | None = typer.Option(
        None, metavar="TEXT", help="A freer wording that shows it without naming it; may be repeated."
    ),
    neighbours: str = typer.Option("", metavar="A,B", help="What stands near it and must stay. Default: found."),
    others: str = typer.Option("", metavar="A,B", help="What has nothing to do with it. Default: found."),
    judge: Path | None = JUDGE,
    captions: Path | None = typer.Option(
        None, metavar="FILE", help="The model's own captions: things to ask for, and how, are found in them."
    ),
    template: list[str] | None = typer.Option(
        None, metavar="TEXT", help='How to ask, with {thing} for "a dog" or {noun} for "dog"; may be repeated.'
    ),
    base: str = typer.Option("", metavar="NAME", help="The family of artifacts; default: the model's name."),
    force: bool = typer.Option(False, help="Replace FILE where it is there."),
    variant: str | None = VARIANT,
    config: str | None = CONFIG,
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Write a suite about a concept: prompts for it, for what stands near it, and for all else, every field explained.

    \b
    conceptguard suite new trumpet --words horn --model ./my-sd --judge pictures/ --out my-suite.yaml
    conceptguard suite new trumpet --neighbours guitar,violin --others apple,dog,house --out my-suite.yaml
    conceptguard suite new trumpet --model ./my-sd --captions captions.txt --out my-suite.yaml

    Near is what the model's text encoder has near: of the objects that the judge knows (--judge), or of the nouns in
    the model's captions (--captions: .txt, .csv, .jsonl or .parquet, with a column prompt, text or caption). Captions
    also give the wordings. Then:

    \b
    conceptguard make uce --model ./my-sd --concept "trumpet: trumpet,horn" --preserve guitar --out my-registry
    conceptguard eval --model ./my-sd --suite my-suite.yaml --judge pictures/ --guard uce:my-registry/my-sd/uce/trumpet
    """
    from ..files.atomic import write_bytes
    from ..measuring.suite import load_suite
    from .output import report

    begin = time.perf_counter()
    if out.exists() and not force:
        raise Usage(f"--out {out}: is there already; take another name, or --force")
    given = {"words": split(words), "phrases": phrase or [], "neighbours": split(neighbours), "others": split(others)}
    options = {"variant": variant, "config": config}
    made, counts = _made(concept, given, template or [], model, base, judge, captions, device, options)
    write_bytes(out, made.text().encode())
    suite = load_suite(out)
    rows = [
        {"object": it.name, "group": it.group, "captions": counts.get(it.name), "prompts": suite.words(it.name)}
        for it in suite.objects
    ]
    told: dict[str, Any] = {"file": str(out), "templates": made.templates, "base": made.base}
    report("suite new", rows, time.perf_counter() - begin, json, columns=["object", "group"], **told)
    if json != "-":
        for name in ("neighbours", "others"):
            if not getattr(made, name):
                print(f"conceptguard: no {name} were found: give --{name} A,B, or nothing tells what a guard damages")
        who = f" --judge {judge}" if judge else ""
        print(f"written to {out}; look at it with: conceptguard suite check {out}{who}")


def _made(
    concept: str, given: dict[str, list[str]], templates: list[str], model: str, base: str, judge: Path | None,
    captions: Path | None, device: str | None, options: dict[str, Any],
) -> tuple[NewSuite, dict[str, int]]:  # fmt: skip
    """What the suite says, and in how many captions each thing is."""
    from .. import plugins
    from ..files.paths import slug
    from ..measuring import new_suite
    from .loading import drawing

    texts = _captions(captions) if captions else []
    counts = dict(new_suite.nouns(texts))
    known = _known_to(judge) if judge else None
    candidates = {name: counts.get(name, new_suite.LEAST) for name in known} if known is not None else counts
    if known is not None and concept not in known:
        raise Usage(f"CONCEPT {concept}: the judge does not know it; it knows {', '.join(known[:20])}")
    found = {name: list(values) for name, values in given.items()}
    if candidates and not (given["neighbours"] and given["others"]):
        host = plugins.host_for(drawing(model, device, **options))
        near, far = new_suite.choose(concept, given["words"] + given["phrases"], candidates, host)
        found["neighbours"] = given["neighbours"] or [name for name in near if name not in given["others"]]
        found["others"] = given["others"] or [name for name in far if name not in given["neighbours"]]
    things = [concept, *given["words"], *candidates]
    templates = templates or new_suite.wordings(texts, things) or list(new_suite.WORDINGS)
    family = base or slug(Path(model).name)
    more: dict[str, Any] = found
    return new_suite.NewSuite(family, concept, templates=templates, **more), counts


def _captions(source: Path) -> list[str]:
    """Texts of a file, or of the .txt or .caption files that stand beside the pictures of a training folder."""
    from ..measuring.prompt_sets import load_prompts

    beside = [one for kind in ("*.txt", "*.caption") for one in sorted(source.rglob(kind))] if source.is_dir() else []
    if len(beside) > 1:
        return [
            line for one in beside for line in one.read_text(encoding="utf-8", errors="replace").splitlines() if line
        ]
    return [one.text for one in load_prompts(source).prompts]


def _known_to(judge: Path) -> list[str]:
    """The objects that a judge knows, or will know when it is trained on these pictures. Raises Usage."""
    from ..measuring.judge import NONE
    from ..measuring.judges import load_judge

    if (judge / "config.json").is_file() or not judge.is_dir():
        return [name for name in load_judge(str(judge)).objects if name != NONE]
    found = [one.name for one in sorted(judge.iterdir()) if one.is_dir() and one.name != NONE]
    if not found:
        raise Usage(f"--judge {judge}: no folders in it: sort pictures into one for each object")
    return found


def check(
    suite: Path = typer.Argument(..., metavar="FILE", help="A suite of yours."),
    judge: str | None = typer.Option(None, metavar="FOLDER", help="Who will judge, as for eval."),
    n: int = typer.Option(4, "--n", min=1, help="Prompts of each kind to show."),
    json: str | None = JSON,
) -> None:
    """Show what a suite asks for, and say whether a judge could tell.

    \b
    conceptguard suite check my-suite.yaml --judge pictures/
    """
    from ..measuring import suite as suites
    from ..measuring.suite import load_suite
    from .output import report

    begin = time.perf_counter()
    asks = load_suite(suite)
    rows = []
    for concept in asks.all_concepts:
        kinds = {
            "erased": suites.erased(asks, concept, n), "neighbours": suites.neighbours(asks, concept, n),
            "others": suites.others(asks, n, without=[concept]),
        }  # fmt: skip
        rows += [
            {"concept": concept, "kind": kind, "prompt": one.prompt, "wanted": one.label}
            for kind, samples in kinds.items()
            for one in samples
        ]
    known = set(_known_to(Path(judge))) if judge else None
    unknown = sorted({row["wanted"] for row in rows} - known) if known is not None else []
    report("suite check", rows, time.perf_counter() - begin, json, unknown=unknown)
    if unknown:
        raise Usage(
            f"the judge does not know {', '.join(unknown)}: take them out of {suite}, or train it on them as well"
        )
