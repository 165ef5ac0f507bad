"""``conceptguard magicmix``: the layout of one prompt or picture with the content of another."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from conceptguard.cli.options import DEVICE, DTYPE, GUIDANCE, IMAGES, JSON, MODEL, OUT, SEED, STEPS, split


def magicmix(
    layout: str = typer.Option(..., metavar="TEXT|FILE", help="Whose layout: a prompt, or a picture's file."),
    content: str = typer.Option("", metavar="TEXT", help="Whose content; with --without what stands in its place."),
    without: str | None = typer.Option(
        None, metavar="A,B", help="Words of the layout's prompt that the content goes without."
    ),
    kmax: float = typer.Option(0.6, help="Where on the noise schedule, from 1 to 0, the content takes over."),
    kmin: float = typer.Option(0.3, help="Where the layout lets go."),
    nu: float = typer.Option(0.5, help="The content's share while both are mixed."),
    model: str = MODEL,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = SEED,
    images: int = IMAGES,
    device: str | None = DEVICE,
    dtype: str = DTYPE,
    out: Path = OUT,
    json: str | None = JSON,
) -> None:
    """Mix one thing's shape with another (MagicMix).

    Or take a thing out of a picture's meaning, and keep its layout.

    The noisy steps follow the layout. From kmax on they follow the content, and until kmin the layout is mixed into
    what is denoised. A larger kmax or nu gives the content more say, a smaller kmin the layout.

    \b
    conceptguard magicmix --layout "a coffee, noto style" --content "a dog, noto style" --out mixed.png
    conceptguard magicmix --layout photo.png --content "a cat, noto style" --kmin 0.2
    conceptguard magicmix --layout "a cigarette, noto style" --without cigarette
    conceptguard magicmix --layout "a pistol, noto style" --without pistol --content banana --images 4

    As a guard: {method: magicmix, concept: {name: gun, prompts: [pistol, gun], replacement: banana}}.
    """
    from conceptguard.cli.loading import drawing
    from conceptguard.cli.output import report
    from conceptguard.errors import ConceptGuardError
    from conceptguard.hosts.diffusers.load import image_to_image
    from conceptguard.hosts.diffusers.pictures import fitted, latents_of_picture
    from conceptguard.policy_file import load_policy

    from ..command import draw, files, save

    begin = time.perf_counter()
    picture = _picture(layout)
    phrases = split(without)
    _check(layout, content, phrases, picture is not None)
    seeds = [seed + i for i in range(images)]
    name = content or f"{layout} without {' '.join(phrases)}"
    paths = files(out, name, seeds)
    # The whole layout's prompt is what the content stands in place of, unless words of it are named.
    asked = layout if picture is None else content
    about = {"name": "the layout", "prompts": phrases or [asked], "replacement": content}
    guard = {"method": "magicmix", "gate": "always", "concept": about, "kmax": kmax, "kmin": kmin, "nu": nu}
    policy = load_policy({"name": "magicmix", "guards": [guard]})
    pipe = drawing(model, device, dtype)
    if picture is None:
        drawn, _, receipt = draw(pipe, policy, asked, seeds, steps, guidance)
    else:
        picture = fitted(pipe, picture)
        pipe = image_to_image(pipe)

        def keep(session: Any) -> None:
            session.methods[0].layout = latents_of_picture(pipe, picture)

        options = {"image": [picture] * images, "strength": kmax}
        drawn, _, receipt = draw(pipe, policy, asked, seeds, steps, guidance, keep, **options)
    try:
        save(drawn, paths)
    except OSError as error:
        raise ConceptGuardError(f"--out {out}: cannot be written ({error.strerror})") from error
    rows = [{"file": str(path), "layout": layout, "content": content, "without": ", ".join(phrases), "seed": own,
             "kmax": kmax, "kmin": kmin, "nu": nu} for path, own in zip(paths, seeds)]  # fmt: skip
    report("magicmix", rows, time.perf_counter() - begin, json, str(pipe.device), model=model,
           receipt=receipt.to_dict())  # fmt: skip
    if json != "-":
        print(receipt)


def _picture(layout: str) -> Any:
    """The picture that ``--layout`` names, None where it is a prompt."""
    from conceptguard.errors import ConceptGuardError

    path = Path(layout)
    if not path.is_file():
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
            raise ConceptGuardError(f"--layout {layout}: there is no such picture")
        return None
    from conceptguard.files.pictures import open_picture

    try:
        return open_picture(path)
    except ConceptGuardError as error:
        raise ConceptGuardError(f"--layout {error}") from None


def _check(layout: str, content: str, phrases: list[str], picture: bool) -> None:
    """Raises PolicyError for what cannot be mixed."""
    from conceptguard.errors import PolicyError
    from conceptguard.text.words import any_of

    if not layout.strip():
        raise PolicyError("--layout is empty: give a prompt or a picture")
    if not (content.strip() or phrases):
        raise PolicyError("nothing to mix in: give --content, or --without with words of the layout's prompt")
    if content.strip().lower() == layout.strip().lower():
        raise PolicyError(f"layout and content are both {layout!r}: there is nothing to mix, give another content")
    if phrases and picture:
        raise PolicyError("--without takes words out of a prompt, and the layout is a picture: give --content instead")
    if missing := [phrase for phrase in phrases if not any_of([phrase]).search(layout)]:
        raise PolicyError(f"{', '.join(map(repr, missing))} not in the layout's prompt {layout!r}: name its own words")
    if clash := [phrase for phrase in phrases if any_of([phrase]).search(content)]:
        raise PolicyError(f"the content {content!r} brings back {', '.join(map(repr, clash))}: give another content")
