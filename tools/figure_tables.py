"""How each kind of report is shown: rows of a command's JSON -> a Markdown table, with what its columns mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Result = dict[str, Any]
Row = dict[str, Any]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def eval_table(results: list[Result]) -> str:
    """What guards erase and leave; of a method judged on several concepts the mean."""
    guards: list[Row] = []
    controls: dict[str, Row] = {}
    for result in results:
        rows = [row for row in result["rows"] if row["method"] not in ("none", "blank")]
        means = [row for row in rows if str(row.get("concept", "")).startswith("mean")]
        meant = {(row["method"], row["concepts"]) for row in means}
        means += [row for row in rows if (row["method"], row["concepts"]) not in meant]
        guards += means
        controls |= {row["method"]: row for row in result["rows"] if row["method"] in ("none", "blank")}
    shown = [*guards, *controls.values()]
    named = {"none": "control: does nothing", "blank": "control: blanks every picture"}
    # What not every report has: a second judge's columns, synonyms, what is left of many concepts at once.
    groups = [g for g in ("second_erased", "synonyms") if any(row.get(f"{g}_after") is not None for row in shown)]
    single = [key for key in ("harmonic", "agree") if any(row.get(key) is not None for row in shown)]
    table = [
        [named.get(row["method"], _guard(row)), str(row["concepts"]), *map(_share(row), GROUPS),
         f"{row['identical']:.2f}", *map(_share(row), groups), *map(_number(row), single), str(row["n"])]
        for row in shown
    ]  # fmt: skip
    told = (
        "Shares of samples in which the judge recognises it, without → with the guard, on prompts that neither the "
        "model nor a guard was trained on; the last columns are the share of unrelated pictures that are "
        "bit-identical, and how many samples there were."
    )
    more = [_MORE[key] for key in [*groups, *single]]
    told = " ".join([told, *(meaning for _, meaning in more)])
    head = ["", "concepts at once", "concept", "neighbours", "others", "others identical", *(name for name, _ in more),
            "samples"]  # fmt: skip
    return f"{told}\n\n{markdown(head, table)}"


GROUPS = ("erased", "neighbours", "others")
_MORE = {
    "second_erased": ("concept, second judge", "A second judge of another kind looks at the same pictures."),
    "synonyms": (
        "synonyms", "`synonyms` asks in other words for the concept, of a guard that was told its name alone."
    ),
    "harmonic": ("harmonic", "`harmonic` is the harmonic mean of what is erased and of the others that are kept."),
    "agree": ("judges agree", "`judges agree` is the share of pictures of which both say the same."),
}  # fmt: skip


def _guard(row: Row) -> str:
    return f"`{row['method']}`{'' if row.get('gated', True) else ', always open'}"


def _number(row: Row) -> Any:
    return lambda key: "" if row.get(key) is None else f"{row[key]:.3f}"


def _share(row: Row) -> Any:
    def told(group: str) -> str:
        before, after = row.get(f"{group}_before"), row.get(f"{group}_after")
        return "" if before is None or after is None else f"{before:.3f} → {after:.3f}"

    return told


def language_table(results: list[Result]) -> str:
    """What a language model still answers, over all forms of asking."""
    rows = [row for result in results for row in result["rows"] if row["method"] != "none"]
    table = [
        [f"`{row['method']}`", *map(_share(row), GROUPS), f"{row['identical']:.2f}",
         "" if row["identical_retain"] is None else f"{row['identical_retain']:.2f}", str(row["n"])]
        for row in rows
    ]  # fmt: skip
    told = (
        "Share of questions that are answered, without → with the policy, over all forms of asking and ways around. "
        "`same tokens` is the share of answers about others and places that are the unguarded ones, token for token, "
        "and of those that the classifier reads as to retain."
    )
    head = ["", "about forgotten authors", "about others", "about places", "same tokens", "of those to retain",
            "prompts"]  # fmt: skip
    return f"{told}\n\n{markdown(head, table)}"


def places_table(results: list[Result]) -> str:
    """How far what is said after a name is led to what is said after another, by where states are replaced."""
    table = [
        [str(row["layer"]), row["tokens"], f"{row['led']:.2f}", f"{row['random']:.2f}"] for row in results[0]["rows"]
    ]
    return markdown(["layer", "tokens of the name", "led", "as large, at random"], table)


def gates_table(results: list[Result]) -> str:
    """What gates mistake, with the text and from embeddings alone."""
    rows = [row for result in results for row in result["rows"]]
    table = [
        [row["set"], f"{row['n']:,}", f"{row['gates_ms']:.2f}", *(_per_cent(row[key]) for key in
         ("false_open", "missed_open", "false_open_unread", "missed_open_unread"))]
        for row in rows
    ]  # fmt: skip
    told = (
        "`opens wrongly`: of texts that have nothing to do with a concept, the share that opens its gate; `stays shut "
        "wrongly`: of texts that name it, the share that does not. `shipped` are the membranes of emoji-sd with the "
        "gates of their manifests, `vocabulary` concepts made of one word each."
    )
    head = ["gates", "concepts", "ms a prompt", "opens wrongly", "stays shut wrongly", "… from embeddings alone: opens",
            "… stays shut"]  # fmt: skip
    return f"{told}\n\n{markdown(head, table)}"


def _per_cent(share: float) -> str:
    return f"{100 * share:.2f} %"


def looks_table(results: list[Result]) -> str:
    """Time of a look at one picture, and the part of a generation that it is."""
    rows = [row for result in results for row in result["rows"]]
    table = [
        [row["method"], f"{row['ms']:,.0f}", f"{row['ms_bare'] / 1000:,.0f}", f"{row['share']:.3f}",
         f"{row['start_seconds']:.1f}"]
        for row in rows
    ]  # fmt: skip
    return markdown(["looks", "ms a picture", "s a generation", "share of it", "s to load, once"], table)


def overhead_table(results: list[Result]) -> str:
    """Time of a denoising step over the bare model's."""
    found: dict[tuple[int, int], dict[str, Row]] = {}
    for result in results:
        for row in result["rows"]:
            found.setdefault((row["n"], row["open"]), {})[row.get("peer") or ""] = row
    table = []
    for (n, opened), peers in sorted(found.items()):
        one = next(iter(peers.values()))
        against = [f"{peers[p]['peer_ratio_bare']:.2f}" if p in peers else "" for p in ("official", "peft")]
        table.append([f"{n:,}", f"{opened:,}", f"{one['ratio_bare']:.2f}", *against])
    return "Time of a denoising step over the bare model's: 1 is what it takes without any guard.\n\n" + markdown(
        ["membranes attached", "open", "conceptguard", "the official SPM way", "peft"], table
    )


def per_image_table(results: list[Result]) -> str:
    """Time of a whole picture over the bare host's."""
    table = []
    for result in results:
        for row in result["rows"]:
            if row.get("ratio_bare") is not None:
                what = row.get("variant") or ("acts" if row.get("acted") else "does not act")
                table.append([str(row.get("model") or result.get("size", "")), what, f"{row['ratio_bare']:.2f}"])
            elif row.get("ratio_peer") is not None:
                table.append(
                    [str(row.get("model", "")), f"its own work over {row['peer']}", f"{row['ratio_peer']:.2f}"]
                )
    told = "Time over the bare host's: 1 is what it takes without any guard."
    return f"{told}\n\n{markdown(['model', '', 'time'], table)}"


def making_table(results: list[Result]) -> str:
    """What solving an edit costs beside the published arithmetic, and how large it is."""
    table = [
        [f"`{row['method']}`", f"{row['concepts']:,}", f"{row['ms']:,.0f}",
         *((f"{row['ms_peer']:,.0f}", f"{row['ratio_peer']:.3f}") if "ms_peer" in row else ("", "")),
         f"{row['bytes'] / 1e6:.2f}", f"{row['smaller']:,.0f}", f"{row['peak_mb']:,}" if row["peak_mb"] else ""]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    told = (
        "All 32 layers of Stable Diffusion 1.5's size, one row for each concept. The peers are the authors' loops on "
        "the same tensors, up to a hundred concepts; `times smaller` is against the edited weights that they ship."
    )
    head = ["", "concepts", "ms", "the authors', ms", "share", "MB", "times smaller", "peak memory, MB"]
    return f"{told}\n\n{markdown(head, table)}"


def waiting_table(results: list[Result]) -> str:
    """What making takes from a loaded model on, beside an older build."""
    table = [
        [f"`{row['method']}`", str(row["kept"]),
         *(f"{row[f'{when}_{key}']:.2f}" for when in ("first", "again")
           for key in ("seconds", "seconds_peer", "ratio_peer"))]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    told = (
        "One artifact for emoji-sd from the loaded model to its file, seconds of one thread's processor time; `before` "
        "is the build before this was looked at, timed in turn with this one. `first` is with an empty cache, `again` "
        "in another process after it."
    )
    head = ["", "kept", "first, s", "before, s", "share", "again, s", "before, s", "share"]
    return f"{told}\n\n{markdown(head, table)}"


def many_table(results: list[Result]) -> str:
    """What workers take of one process's time, on the same prompts."""
    table = [
        [str(row["n"]), f"{row['seconds']:.1f}", f"{row['seconds_peer']:.1f}", f"{row['ratio_peer']:.2f}",
         f"{row['start_seconds']:.1f}", f"{row['start_seconds_peer']:.1f}", "yes" if row["same"] else "no"]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    head = ["pictures", "two workers, s", "one process, s", "share", "their start, s", "its start, s", "same pictures"]
    return markdown(head, table)


def craft_peer_table(results: list[Result]) -> str:
    """What factorising and weighing take, beside the published code on the same activations."""
    table = [
        [f"{row['pictures']:,}", f"{row['crops']:,}", f"{row['seconds']:.2f}", f"{row['seconds_peer']:.2f}",
         f"{row['ratio_peer']:.3f}", f"{row['error']:.3f}", f"{row['error_peer']:.3f}"]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    head = ["pictures", "crops", "seconds", "craft-xai", "ratio", "error", "craft-xai's"]
    return markdown(head, table)


def serving_table(results: list[Result]) -> str:
    """What a server of vLLM says, and how fast, with nothing, under a guard, and with its own bad words."""
    names = {"nothing": "bare", "guarded": "guarded", "bad_words": "bare, with `bad_words`"}
    table = [
        [f"`{row['model']}`", names[row["method"]], f"{row['phrases']:,}", f"{row['answers']:,}", f"{row['said']:,}",
         f"{row['same']:,} of {row['others']:,}", f"{row['tokens_a_second']:,.0f}", f"{row['ratio_bare']:.3f}",
         f"{row['memory_grew']:.3f}" if "memory_grew" in row else ""]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    told = (
        "Answers to questions about authors, sampled, sixteen streams; forbidden are a third of the towns that "
        "`authors-lm` knows. `larger` has random weights and 208 million parameters, where it has 1.8 million: what a "
        "guard costs a token is the same. The bare server's own answers are asked for twice, in the first round."
    )
    head = ["model", "server", "phrases", "answers", "with a forbidden town", "others that are the bare server's",
            "tokens a second", "of the bare server's", "memory grew by"]  # fmt: skip
    return f"{told}\n\n{markdown(head, table)}"


def speech_table(results: list[Result]) -> str:
    """How fast a converted model speaks under a bank of phrases, beside the same one bare."""
    table = [
        [f"`{row['model']}`", f"{row['batch']}", f"{row['phrases']:,}", f"{row['tokens_a_second']:,.0f}",
         f"{1 / row['ratio_bare']:.3f}", f"{row['same']:.3f}"]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    head = ["model", "prompts at once", "phrases", "tokens a second", "of the bare engine's",
            "answers that are its own"]  # fmt: skip
    return markdown(head, table)


def training_table(results: list[Result]) -> str:
    """What a step of a training costs beside the authors' way."""
    table = [
        [" ".join([f"`{row['method']}`", *(f"`{k}: {v}`".replace("None", "null") for k, v in row["set"].items())]),
         row["model"], str(row["side"]), f"{row['seconds']:.2f}", f"{row['seconds_peer']:.2f}",
         f"{row['ratio_peer']:.3f}",
         *((f"{row['mb']:,}", f"{row['mb_peer']:,}", f"{row['memory_peer']:.2f}") if "mb" in row else ("", "", ""))]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    told = (
        "One state a step, on one core. The authors sample it by a guided trajectory, here of its mean length, ask the "
        "model once for every prediction, and, of ESD, learn whole matrices in a second copy of it."
    )
    head = [
        "",
        "model",
        "latents",
        "seconds a step",
        "the authors'",
        "share",
        "most memory, MB",
        "the authors'",
        "share",
    ]
    return f"{told}\n\n{markdown(head, table)}"


def attaching_table(results: list[Result]) -> str:
    """What attaching a policy of many artifacts takes."""
    table = [
        [f"{row['n']:,}", f"{row['attach_seconds']:.2f}", f"{row['again_seconds']:.2f}", f"{row['each_ms']:.2f}",
         f"{row['kept_mb']:,.0f}" if row["kept_mb"] is not None else "",
         *((f"{row['attach_seconds_peer']:.2f}", f"{row['again_seconds_peer']:.2f}", f"{row['kept_mb_peer']:,.0f}",
            f"{row['ratio_peer']:.2f}", f"{row['ratio_peer_again']:.2f}") if "ratio_peer" in row else ())]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    told = (
        "Membranes as large as the shipped ones, in files of their own, on emoji-sd; seconds of one thread's processor "
        "time. `first` is of a process that read none of them before, `again` of one that did: files are read, hashed "
        "and checked again, texts are not."
    )
    head = ["membranes", "first, s", "again, s", "again, ms each", "kept, MB"]
    if len(table[0]) > len(head):
        told += " `before` is the build before this was looked at, timed in turn with this one."
        head += ["before: first, s", "again, s", "kept, MB", "share, first", "share, again"]
    return f"{told}\n\n{markdown(head, table)}"


def logits_table(results: list[Result]) -> str:
    """What a bank of phrases costs a token, and which part of a generation that is."""
    rows = [row for result in results for row in result["rows"]]
    alone = {(row["phrases"], row["batch"]): row for row in rows if "ms_peer" in row}
    table = [
        [f"{n:,}", str(batch), f"{row['ms']:.3f}", f"{row['ms_peer']:.3f}", f"{1 / row['ratio_peer']:.1f}"]
        for (n, batch), row in sorted(alone.items())
    ]
    inside = [
        [row["model"], f"{row['phrases']:,}", str(row["batch"]), *(_per_cent(row[key]) for key in
         ("share", "share_peer", "share_floor"))]
        for row in rows if "share" in row
    ]  # fmt: skip
    first = markdown(["phrases", "batch", "ms a token", "NoBadWords, ms", "times less"], table)
    second = markdown(["model", "phrases", "batch", "ours", "NoBadWords", "a processor that does nothing"], inside)
    return f"Reading texts by itself:\n\n{first}\n\nThe part of a generation that is the processor's:\n\n{second}"


def hidden_table(results: list[Result]) -> str:
    """What a guard on hidden states costs a generation, and its classifier a prompt."""
    rows = [row for result in results for row in result["rows"] if "inside" in row]
    gates = [[row["model"], row["inside"], f"{row['ratio_bare']:.3f}"] for row in rows if "ratio_bare" in row]
    told = [
        f"The classifier that opens it reads a prompt of {row['prompt']} tokens in {row['ms']:.1f} ms, "
        f"{row['share_prompt']:.2%} of what {row['model']} takes for it."
        for row in rows if "share_prompt" in row
    ]  # fmt: skip
    return "\n\n".join([markdown(["model", "its gate", "times the bare model's"], gates), *told])


def disguises_table(results: list[Result]) -> str:
    """Which gates open on a disguised name, without and with normalise, and what is drawn."""
    rows = [row for result in results for row in result["rows"]]
    table = []
    for row in rows:
        drawn = row["drawn"] is not None
        table.append([
            row["form"], f"`{row['example']}`".replace("\n", "⏎"), str(row["n"]), str(row["drawn"]) if drawn else "",
            f"{row['opens']} → {row['opens_normalised']}",
            f"{row['opens_of_drawn']} → {row['opens_of_drawn_normalised']}" if drawn else "",
            str(row["drawn_guarded"]) if drawn else "",
        ])  # fmt: skip
    seen = [row for row in rows if row["drawn"] and row["form"] not in ("as it is", "another word")]
    of = sum(row["drawn"] for row in seen)
    before, after = (sum(row[key] for row in seen) for key in ("opens_of_drawn", "opens_of_drawn_normalised"))
    told = (
        f"Of {of} disguised prompts of which the model draws the concept, {before} open the gate without `normalise` "
        f"and {after} with it."
    )
    head = ["written", "for example", "prompts", "drawn", "opens", "of those drawn", "drawn under spm and normalise"]
    return f"{told}\n\n{markdown(head, table)}"


def spellings_table(results: list[Result]) -> str:
    """What each method lets through of a phrase that a model is forced to spell in some way."""
    rows = [row for result in results for row in result["rows"]]
    columns = list(dict.fromkeys(row["column"] for row in rows))
    forms = list(dict.fromkeys((row["form"], row["example"]) for row in rows))
    found = {(row["form"], row["column"]): row for row in rows}
    marks = {"caught": "✓", "said": "said"}
    table = [
        [form, f"`{example}`".replace("\n", "⏎"), *(marks[found[form, column]["result"]] for column in columns)]
        for form, example in forms
    ]
    totals = [sum(row["result"] == "caught" for row in rows if row["column"] == column) for column in columns]
    table.append(["**caught**", f"of {len(forms)}", *map(str, totals)])
    told = (
        "A model that insists on saying a forbidden name in one spelling, byte by byte where need be. "
        "✓: the name is not in the text that leaves, to a reader."
    )
    return f"{told}\n\n{markdown(['spelling', 'for example', *columns], table)}"


def half_words_table(results: list[Result]) -> str:
    """How many answers hold a word that nobody taught the model, where one is forbidden."""
    rows = [row for result in results for row in result["rows"]]
    found = {(row["forbidden"], row["decoding"], row["way"]): row for row in rows}
    ways = list(dict.fromkeys(row["way"] for row in rows))
    kinds = list(dict.fromkeys((row["forbidden"], row["decoding"]) for row in rows))
    table = [
        [f"{decoding}, {forbidden} forbidden", *(str(found[forbidden, decoding, way]["half"]) for way in ways)]
        for forbidden, decoding in kinds
    ]
    return markdown([f"of {rows[0]['answers']} answers", *ways], table)


def shown_table(results: list[Result]) -> str:
    """What is found in pictures of two things, and what guards made from it erase."""
    rows = [row for result in results for row in result["rows"]]
    parts = [row for row in rows if row["kind"] == "part"]

    def mean(key: str, **where: Any) -> float:
        own = [row for row in parts if all(row[name] == value for name, value in where.items())]
        return sum(float(row[key]) for row in own) / max(len(own), 1)

    styles = ", ".join(
        f"{mean('named', style=one):.2f} in {one}" for one in dict.fromkeys(row["style"] for row in parts)
    )
    wrong = sum(not row["named"] and not row["unnamed"] for row in parts)
    told = (
        f"Of {len(parts)} things in {len({row['picture'] for row in parts})} pictures a part overlaps "
        f"{mean('iou'):.2f} on average, and the same part elsewhere {mean('iou_random'):.2f}; {mean('named'):.2f} are "
        f"called by a word for them ({styles}), {mean('unnamed'):.2f} have no word, {wrong} a wrong one; a token draws "
        f"it in {mean('token'):.2f} of pictures, and in {mean('token', unnamed=True):.2f} where it has no word. "
        "Then `uce` of those words, and of a word at random:"
    )
    names = {"guard": "{}, by {}", "control": "control: {}, by {}"}
    table = [
        [names[row["kind"]].format(row["object"], f"`{row['words']}`"), *map(_share(row), GROUPS)]
        for row in rows
        if row["kind"] != "part"
    ]
    return f"{told}\n\n{markdown(['', 'what the picture shows', 'neighbours', 'others'], table)}"


def marked_table(results: list[Result]) -> str:
    """How often a label is drawn unasked, and whether the object is still seen."""
    shown = {"none": "control: no guard", "plain fine-tuning": "control: plain fine-tuning on the same pictures"}
    rows = [row for result in results for row in result["rows"]]
    table = [
        [shown.get(row["guard"], row["guard"]), f"{row['marked']:.2f}", f"{row['objects']:.2f}", str(row["n"])]
        for row in rows
    ]
    return markdown(["", "with the label", "object recognised", "pictures"], table)


def trained_table(results: list[Result]) -> str:
    """What guards erase and leave, how long their artifacts were made, and how large they are."""
    rows = [row for result in results for row in result["rows"] if row.get("bytes")]
    made = {(row["method"], row["concepts"]): row for row in rows}.values()
    sizes = [[f"`{row['method']}`", str(row["concepts"]), f"{row['make_seconds']:.0f}", f"{row['bytes'] / 1e6:.2g}"]
             for row in made]  # fmt: skip
    head = ["", "concepts at once", "seconds to make", "MB"]
    return f"{eval_table(results)}\n\nWhat was made, beside other work on two cores:\n\n{markdown(head, sizes)}"


def exported_table(results: list[Result]) -> str:
    """What files do that other programs load, which have no gate."""
    groups = ("erased", "second_erased", "neighbours", "others")
    table = [[f"`{row['method']}`", *map(_share(row), groups), str(row["n"])]
             for result in results for row in result["rows"]]  # fmt: skip
    return markdown(["", "concept", "concept, second judge", "neighbours", "others", "samples"], table)


def drift_table(results: list[Result]) -> str:
    """What is left of guidance towards a concept, and what moves beside it, with gates open to every prompt."""
    told = (
        "With gates open to every prompt, as shares of guidance towards the concept as it was: what is left of it, in "
        "the first of twelve steps and behind the first two; and how far answers to the empty prompt and to prompts "
        "for other things move."
    )
    shown = ("left_first", "left", "nothing", "others")
    table = [
        [f"`{row['method']}`", *(f"{row[name]:.2f}" for name in shown)]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    return f"{told}\n\n{markdown(['', 'left, first step', 'left, later', 'empty prompt', 'other things'], table)}"


def co_erasing_table(results: list[Result]) -> str:
    """What is still drawn of a concept by words and by pictures, with gates open to everything."""
    told = (
        "With gates open to everything: shares of pictures that the judge takes for the concept, asked for by name, "
        "by other words, and by a picture behind an empty prompt; and for other things, by name and by a picture."
    )
    shown = ("words", "other_words", "picture", "others", "others_picture")
    table = [
        ["no guard" if row["method"] == "none" else f"`{row['method']}`", *(f"{row[name]:.2f}" for name in shown)]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    heads = ["", "name", "other words", "a picture", "others, name", "others, a picture"]
    return f"{told}\n\n{markdown(heads, table)}"


def pairs_table(results: list[Result]) -> str:
    """What guards leave of one of two objects, and of the other one."""
    shown = {"none": "control: no guard", "absent": "control: `concept_master` of an object that nobody asks for",
             "magicmix": "`magicmix` with `kmax: 1`"}  # fmt: skip
    rows = [row for result in results for row in result["rows"]]
    kinds = [row for row in rows if row["kind"] == "model"]
    said = [row for row in rows if row["kind"] == "guard"]
    columns = {"guarded": "guarded object recognised", "other": "other one recognised", "nothing": "nothing there",
               "twice": "the other one there", "shape": "its outline left", "colour": "its colours left",
               "beside": "other half changed"}  # fmt: skip
    table = [[shown.get(row["guard"], f"`{row['guard']}`"), *(_or_none(row[key]) for key in columns)] for row in said]
    lone = next(row for row in rows if row["kind"] == "chance")
    drawn = ", ".join(f"{row['both']:.2f} of {row['n']} pictures of pairs {row['pairs']}" for row in kinds)
    return (
        f"Without a guard both objects are recognised, each in a half of its own, in {drawn}. The first two columns "
        f"are shares of {said[0]['n']} pictures, the others are of the {said[0]['whole']} that showed both, "
        f"in which two objects have {lone['shape']:.2f} of their outline and {lone['colour']:.2f} of their colours in "
        "common:\n\n"
        f"{markdown(['', *columns.values()], table)}"
    )


def _or_none(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def pixels_table(results: list[Result]) -> str:
    """Where a bottleneck's concepts look, by how often they occur together."""
    columns = {"inside": "map on its thing", "pointing": "peak on its thing", "by_chance": "an even map",
               "area": "area under the ROC curve", "accuracy": "labels right"}  # fmt: skip
    names = {"labels": "{:.0%} together", "control": "control: {:.0%} together, labels in another order"}
    rows = [row for result in results for row in result["rows"]]
    rows.sort(key=lambda row: row["kind"] == "control")
    table = [[names[row["kind"]].format(row["together"]), *(f"{row[key]:.2f}" for key in columns)] for row in rows]
    return markdown(["", *columns.values()], table)


def redirection_table(results: list[Result]) -> str:
    """What edits at the tokens of a name leave of the answers about it."""
    names = {"erased_after": "answered about the names", "neighbours_after": "other authors", "others_after": "places"}
    rows = [row for result in results for row in result["rows"]]
    table = [[row["method"], *(f"{row[key]:.2f}" if key in row else "" for key in names)] for row in rows]
    return markdown(["", *names.values()], table)


def neurons_table(results: list[Result]) -> str:
    """What taking neurons away leaves of the answers about one author."""
    names = {"erased_after": "answered about the author", "neighbours_after": "other authors", "others_after": "places"}
    rows = [row for result in results for row in result["rows"]]
    judged = [[row["method"], *(f"{row[key]:.2f}" for key in names)] for row in rows if "erased_after" in row]
    told = [
        f"Of {row['authors']} authors, {row['with_one']} have a vector without which alone an answer loses a nat or "
        f"more; {row['tried']} of each were tried, and the most that one took was {row['most']:.2f}."
        for row in rows if "with_one" in row
    ]  # fmt: skip
    return "\n\n".join([markdown(["", *names.values()], judged), *told])


def finding_table(results: list[Result]) -> str:
    """What finders find of what was planted."""
    columns = {
        "recall": "planted things found", "whole": "found whole", "styles": "objects found in a style",
        "precision": "concepts that were planted",
        "iou": "where", "rank": "importance", "there": "is it there", "where": "at the right pixels",
        "how_much": "what it says of classes", "named": "objects named",
    }  # fmt: skip
    rows = [{**row, "seeds": result["seeds"]} for result in results for row in result["rows"]]
    columns = {key: name for key, name in columns.items() if key in rows[0]}
    table = [
        [f"control: `{row['finder']}`" if row["control"] else f"`{row['finder']}`", str(row["seeds"]),
         *(f"{row[key]:.2f}" for key in columns), f"{row['shown']:.0f}", f"{row['seconds']:.1f}"]
        for row in sorted(rows, key=lambda row: row["control"])
    ]  # fmt: skip
    return markdown(["", "drawings", *columns.values(), "shown", "seconds"], table)


def faults_table(results: list[Result]) -> str:
    """Faults that were tried, and what they did: of a kind whose test failed, none counts as survived."""
    rows = [row for result in results for row in result["rows"]]
    table = [[row["fault"], row["where"], *_faults(row)] for row in rows]
    totals = {key: sum(row[key] for row in rows) for key in ("tried", "survived")}
    table.append(["**all**", "", *_faults(totals)])
    return markdown(["fault", "in", "tried", "survived", "lost or half done"], table)


def _faults(row: Row) -> list[str]:
    return [f"{row['tried']:,}", f"{row['survived']:,}", f"{row['tried'] - row['survived']:,}"]


def fuzz_table(results: list[Result]) -> str:
    """How many generated cases each claim was tried with, and whether it held."""
    rows = [row for result in results for row in result["rows"]]
    table = [
        [f"`{row['test']}`", f"{row['cases']:,}", "held" if row["held"] else "a case broke it"]
        for row in sorted(rows, key=lambda row: str(row["test"]))
    ]
    table.append(
        ["**together**", f"{sum(row['cases'] for row in rows):,}", "" if all(r["held"] for r in rows) else "no"]
    )
    return markdown(["what every case is to show", "cases", "and it"], table)


def pace_table(results: list[Result]) -> str:
    """On how many pictures, and in how many seconds, a part of emoji-sd is as good as it was before."""
    from conceptguard_registry.build.emoji_sd import diffusion, judge, vae  # whose packages a page needs for this alone

    recipes = {"autoencoder": vae.VaeRecipe(), "denoiser": diffusion.DiffusionRecipe(), "judge": judge.JudgeRecipe()}
    told, whole = [], {}  # part -> seconds of the whole recipe, now and before
    for row in (row for result in results for row in result["rows"]):
        before, recipe = row["before"], recipes[row["part"]]
        good = [one for one in row["tried"] if one["quality"] >= before["quality"]]
        now, first = good[-1] if good else None, row["tried"][0]
        shown = now or first
        told.append([
            row["part"], f"{before['pictures']:,}: {before['quality']:.4g}", f"{before['seconds']:.0f}",
            f"{'' if now else 'no, '}{shown['pictures']:,}: {shown['quality']:.4g}", f"{shown['seconds']:.0f}",
            f"{row['ratio']:.2f}" if row["ratio"] else "", row["quality"],
        ])  # fmt: skip
        if row["ratio"]:
            seconds = recipe.steps * recipe.batch / shown["pictures"] * shown["seconds"]
            whole[row["part"]] = seconds, seconds / row["ratio"]
    table = markdown(["", "pictures before", "s", "pictures now, as good", "s", "of the seconds", "by"], told)
    if whole.keys() != recipes.keys():  # what a part that is nowhere as good takes is not known
        return table
    now, then = (sum(both) for both in zip(*whole.values()))
    return f"{table}\n\nAt these paces all pictures of the whole recipes take {now / then:.2f} of the seconds."
