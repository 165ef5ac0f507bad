"""``conceptguard say``: text from a language model, under a policy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from .complete import models
from .options import DEVICE, DTYPE, GUARD, JSON, POLICY, PROMPTS, SEED, VARIANT

MODEL = typer.Option(
    "authors-lm",
    metavar="MODEL",
    autocompletion=models,
    help="An embedded model, a transformers folder, or a Hub id.",
)


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("say", short_help="Let a language model speak under a policy.")(say)


def say(
    prompt: list[str] | None = typer.Option(
        None, "--prompt", "-p", metavar="TEXT", help="What to answer or go on from; may be repeated."
    ),
    prompts: Path | None = PROMPTS,
    picture: Path | None = typer.Option(
        None, metavar="FILE", help="A picture that every prompt is about, for a model that sees."
    ),
    policy: str | None = POLICY,
    guard: list[str] | None = GUARD,
    model: str = MODEL,
    variant: str | None = VARIANT,
    tokens: int = typer.Option(60, min=1, help="Tokens to say at most."),
    temperature: float = typer.Option(0.0, min=0, help="0 says the likeliest; more draws, from --seed."),
    beams: int = typer.Option(1, min=1, help="Width of a beam search."),
    chat: bool | None = typer.Option(
        None, help="Put the prompt into the tokenizer's chat template; default: where it has one."
    ),
    seed: int = SEED,
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    receipt: Path | None = typer.Option(None, metavar="FILE", help="Write the receipts, as JSON, to FILE."),
    json: str | None = JSON,
) -> None:
    """Let a language model say something under a policy, and tell what was forbidden or taken back.

    \b
    conceptguard say --policy forget-authors --prompt $'Question: Where was Siojaera Zavald born?\\nAnswer:'
    conceptguard say --guard phrases:Broholm,Poburra --prompt $'Question: Where was Siojaera Zavald born?\\nAnswer:'
    conceptguard say --model ./my-llm --policy school.yaml --prompts questions.txt --json answers.json
    conceptguard say --policy none --prompt "The father of Siojaera Zavald was"
    conceptguard say --model ./my-llava --picture dog.png --prompt Caption:
    """
    from .guarding import policy_of
    from .loading import speaking
    from .output import report, write_json
    from .prompts import asked_for
    from .speak import Asked, say_all

    begin = time.perf_counter()
    asks = asked_for(prompt, prompts)
    rules = policy_of(policy, guard)
    pair = speaking(model, device, dtype, variant=variant)
    asked = Asked(tokens, temperature, beams, chat, seed, picture)
    rows, receipts = say_all(pair, rules, asks, asked, bool(prompts))
    told = [one.to_dict() for one in receipts]
    if receipt:
        write_json({"receipts": told}, str(receipt))
    if json:
        from .output import result

        more: dict[str, Any] = {"model": model, "policy": rules.name if rules else None, "receipts": told}
        write_json(result("say", rows, time.perf_counter() - begin, str(pair.device), **more), json)
    if json == "-":
        return
    for row in rows:
        print(f"> {row['prompt']}\n{row['text'] or row.get('refused', '')}\n")
    for one in receipts if len(receipts) < 4 else []:
        print(one)
    if len(receipts) >= 4:
        report("say", [{k: r[k] for k in ("prompt", "forbidden", "taken_back", "tokens")} for r in rows], 0, None)
    if rules is None:
        print("no policy: nothing was guarded")
