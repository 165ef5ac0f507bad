"""``conceptguard explain``: what a policy would do about a prompt, and why, before anything is generated."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from .options import CONFIG, DEVICE, GUARD, JSON, MODEL, POLICY, PROMPTS, VARIANT, Usage
from .table import wrapped


def register(app: typer.Typer) -> None:
    """Put the command on the program."""
    app.command("explain", short_help="Say which guards a prompt would open, and why.")(explain)


def explain(
    prompt: list[str] | None = typer.Option(None, "--prompt", "-p", metavar="TEXT", help="May be repeated."),
    prompts: Path | None = PROMPTS,
    policy: str | None = POLICY,
    guard: list[str] | None = GUARD,
    model: str = MODEL,
    variant: str | None = VARIANT,
    config: str | None = CONFIG,
    device: str | None = DEVICE,
    json: str | None = JSON,
) -> None:
    """Say which guards of a policy a prompt would open, how far, and because of which of its words.

    \b
    conceptguard explain --policy school --prompt "a man with a beer and a dog"
    conceptguard explain --guard sld:wine --guard safree:gun --prompts prompts.txt --json explained.json
    conceptguard explain --model authors-lm --policy forget-authors --prompt "Where was Siojaera Zavald born?"

    One step is drawn (of a language model, one token is said) and thrown away, so that guards answer as they would in
    earnest. A gate of 0 leaves the picture as it is without the guard; 1 is fully open. What guards see in finished
    pictures is not known before.
    """
    from .explained import of_pictures, of_text
    from .guarding import policy_of
    from .loading import either, is_text
    from .output import print_table, result, write_json
    from .prompts import asked_for

    begin = time.perf_counter()
    asks = asked_for(prompt, prompts)
    rules = policy_of(policy, guard)
    if rules is None:
        raise Usage("--policy none: there is nothing to explain without a guard")
    loaded = either(model, device, variant=variant, config=config)
    texts = [ask.prompt for ask in asks]
    rows = of_text(loaded, rules, texts) if is_text(loaded) else of_pictures(loaded, rules, texts)
    if json:
        seconds = time.perf_counter() - begin
        write_json(result("explain", rows, seconds, str(loaded.device), model=model, policy=rules.name), json)
    if json == "-":
        return
    columns = ["prompt", "guard", "gate", "because", "does"]
    print_table([row for row in rows if row["acts"]], columns if len(texts) > 1 else columns[1:])
    for text in texts:
        own = [row for row in rows if row["prompt"] == text]
        acting = sum(row["acts"] for row in own)
        nothing = "" if acting else "; what comes is what comes without the policy, to the last bit"
        print(wrapped(f"{text!r}: {acting} of {len(own)} guards would act{nothing}"))
