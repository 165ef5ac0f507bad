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
        [named.get(row["method"], _guard(row)), str(row["concepts"]), *map(_share(row), _GROUPS),
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


_GROUPS = ("erased", "neighbours", "others")
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
        [f"`{row['method']}`", *map(_share(row), _GROUPS), f"{row['identical']:.2f}", str(row["n"])] for row in rows
    ]
    told = (
        "Share of questions that are answered, without → with the guard, over all forms of asking and ways around. "
        "`bad_words` is transformers' own list, `retain` a model that never saw the authors. `same tokens` is the "
        "share of answers about others and places that are the unguarded ones, token for token."
    )
    head = ["", "about forgotten authors", "about others", "about places", "same tokens", "prompts"]
    return f"{told}\n\n{markdown(head, table)}"


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


def training_table(results: list[Result]) -> str:
    """What a step of a training costs beside the authors' way."""
    table = [
        [f"`{row['method']}`", row["model"], row["side"], f"{row['seconds']:.2f}", f"{row['seconds_peer']:.2f}",
         f"{row['ratio_peer']:.3f}",
         *((f"{row['mb']:,}", f"{row['mb_peer']:,}", f"{row['memory_peer']:.2f}") if "mb" in row else ("", "", ""))]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    told = (
        "One state a step, on one core. The authors sample it by a guided trajectory, here of its mean length, ask the "
        "model once for every prediction, and, of ESD, hold a second copy of it."
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
    found = f"Reading texts by itself:\n\n{first}\n\nThe part of a generation that is the processor's:\n\n{second}"
    hidden = [[row["model"], row["inside"], f"{row['ratio_bare']:.3f}"] for row in rows if "inside" in row]
    third = markdown(["model", "its gate", "times the bare model's"], hidden)
    return f"{found}\n\nGenerations under a guard on hidden states:\n\n{third}" if hidden else found


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

    def mean(key: str) -> float:
        return sum(float(row[key]) for row in parts) / len(parts)

    wrong = sum(not row["named"] and not row["unnamed"] for row in parts)
    told = (
        f"Of {len(parts)} things in {len({row['picture'] for row in parts})} pictures a part overlaps "
        f"{mean('iou'):.2f} on average, and the same part elsewhere {mean('iou_random'):.2f}; {mean('named'):.2f} are "
        f"called by a word for them, {mean('unnamed'):.2f} have no word, {wrong} a wrong one; a token draws it in "
        f"{mean('token'):.2f} of pictures. "
        "Then `uce` of those words, and of a word at random:"
    )
    names = {"guard": "{}, by {}", "control": "control: {}, by {}"}
    table = [
        [names[row["kind"]].format(row["object"], f"`{row['words']}`"), *map(_share(row), _GROUPS)]
        for row in rows
        if row["kind"] != "part"
    ]
    return f"{told}\n\n{markdown(['', 'what the picture shows', 'neighbours', 'others'], table)}"


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


def unlearned_table(results: list[Result]) -> str:
    """What was trained away, and what went with it."""
    rows = [row for result in results for row in result["rows"]]
    names = {"none": "as it is", "retain": "a model that never knew"}
    marks = {"tofu_forget_quality": 1, "tofu_utility": 2, "muse_privleak": 0, "muse_verbmem": 2, "muse_knowmem": 2}
    table = [
        [names.get(row["method"], row["method"]), *(f"{row[f'{group}_after']:.2f}" for group in _GROUPS),
         f"{row['identical']:.2f}",
         *(f"{round(row[key], n) + 0.0:.{n}f}" if key in row else "" for key, n in marks.items())]
        for row in rows
    ]  # fmt: skip
    told = (
        f"Share of {rows[0]['n']} questions that are answered, over all forms of asking and ways around, in wordings "
        "that no maker saw; the share of answers about others and places that are token for token as they were. Then "
        "TOFU's forget quality, log10 p against the model that never knew, and model utility; MUSE's PrivLeak, where 0 "
        "is that model and -100 one that knows all by heart, and ROUGE-L of what it says by heart and answers of those "
        "to be forgotten."
    )
    head = ["", "about forgotten authors", "about others", "about places", "same tokens", "forget quality", "utility",
            "PrivLeak", "VerbMem", "KnowMem"]  # fmt: skip
    return f"{told}\n\n{markdown(head, table)}"


def classifier_table(results: list[Result]) -> str:
    """What classifiers forgot, beside models that never saw it."""
    rows = [row for result in results for row in result["rows"]]
    names = {"none": "as it is", "relabel": "random labels", "retrained": "another retrained model"}

    def pair(row: Row, key: str) -> str:
        return f"{row[key]:.3f} ({row[f're_{key}']:.3f})" if key in row else ""

    table = [
        [row["concept"], names.get(row["method"], f"`{row['method']}`"), *(pair(row, key) for key in _OF_CLASSIFIER),
         f"{row['gap']:.3f}", f"{row['membership']:.3f}", pair(row, "probe"), f"{row['margins']:.2f}",
         f"{row['ratio']:.3f}" if "ratio" in row else "", "yes" if row["passes"] else "no"]
        for row in rows if "refused" not in row
    ]  # fmt: skip
    refused = [f"`{row['method']}` refuses {row['concept']}." for row in rows if "refused" in row]
    took = "; ".join(f"{result['net']}: {result['retrain_seconds']:.0f} s" for result in results)
    head = ["forget set", "", "forget", "retain", "test", "gap", "membership", "probe", "margins", "time", "passes"]
    told = f"In brackets: models trained without it. Training one from scratch, which `time` is a share of: {took}."
    return "\n\n".join([told, markdown(head, table), *([" ".join(refused)] if refused else [])])


def matching_table(results: list[Result]) -> str:
    """What a model forgot that was tuned to say what datamodels predict; after that, what one trained without says."""
    rows = []
    for result in results:
        name = f"dmm, scores: {result['set'].get('scores', 'datamodel')}"
        own = [row for row in result["rows"] if result is results[0] or row["method"] == "dmm"]
        rows += [{**row, "method": name} if row["method"] == "dmm" else row for row in own]
    return classifier_table([{**results[0], "rows": rows}])


def attribution_table(results: list[Result]) -> str:
    """Margins that datamodels and TRAK predict."""
    (ranking, *rows) = results[0]["rows"]
    told = (
        f"Of {ranking['of']}, Spearman's correlation of predicted margins with theirs: datamodels "
        f"{ranking['lds_datamodel']:.2f}, TRAK {ranking['lds_trak']:.2f}. The trainings took "
        f"{ranking['make_seconds']:.0f} s. Mean margins of what is forgotten:"
    )
    names = ("as_it_is", "retrained", "datamodel", "trak")
    table = [[row["of"], *(f"{row[name]:.2f}" for name in names)] for row in rows]
    head = ["forget set", "as it is", "retrained", "predicted by datamodels", "by TRAK"]
    return f"{told}\n\n{markdown(head, table)}"


def klom_table(results: list[Result]) -> str:
    """Distances of distributions of margins, with their errors."""
    names = {"none": "as they are", "relabel": "random labels", "retrained": "other retrained models"}
    parts = ("forget", "retain", "kept")
    table = [
        [str(row["models"]), names.get(row["method"], f"`{row['method']}`"),
         *(f"{row[f'{part}_klom']:.2f} ± {row[f'{part}_error']:.2f} ({row[f'{part}_p95']:.1f})" for part in parts)]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    (concept,) = {row["concept"] for result in results for row in result["rows"]}
    head = ["models", "", "forget", "retain", "test"]
    return f"Without {concept}. In brackets: the 95th percentile.\n\n{markdown(head, table)}"


def gan_table(results: list[Result]) -> str:
    """What a GAN's generator forgot, by both judges."""
    names = {"none": "as it is", "renamed": "renamed", "noise": "noise"}

    def pair(row: Row, key: str) -> str:
        return f"{row[f'{key}_after']:.3f} ({row[f'second_{key}_after']:.3f})"

    table = [
        [row["concept"], names.get(row["method"], f"`{row['method']}`"),
         *(pair(row, key) for key in ("erased", "others", "edited")), f"{row['degree']:.3f}", f"{row['shift']:+.3f}",
         f"{row['make_seconds']:.0f}" if "make_seconds" in row else "", "yes" if row["passes"] else "no"]
        for result in results for row in result["rows"] if "refused" not in row
    ]  # fmt: skip
    head = ["concept", "", "erased", "others", "edited", "degree", "shift", "seconds", "passes"]
    return f"In brackets: the second judge.\n\n{markdown(head, table)}"


def graph_table(results: list[Result]) -> str:
    """What a net over a graph forgot, beside one that never saw it."""
    names = {"none": "out of the graph alone", "deny": "denied", "retrained": "trained without"}
    table = [
        [row["concept"], str(row["edges"]), names.get(row["method"], f"`{row['method']}`"), f"{row['deleted']:.3f}",
         f"{row['kept']:.3f}", f"{row['before']:.3f}", f"{row['retained']:.3f}",
         f"{row['ratio']:.2f}" if "ratio" in row else "", "yes" if row["passes"] else "no"]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    head = ["forget set", "edges", "", "deleted", "kept", "before", "retained", "time", "passes"]
    return markdown(head, table)


def restor_table(results: list[Result]) -> str:
    """What a corrupted model says after unlearning; controls once."""
    names = {"clean": "never corrupted", "none": "corrupted", "retained": "trained on other facts"}
    columns = {"forget": "wrong gone", "recover": "right back", "rows": "after rows", "beside": "beside",
               "unaffected": "others"}  # fmt: skip
    rows: dict[str, Any] = {}
    for result in results:
        settings = "".join(f", {name} {value}" for name, value in result["set"].items())
        rows |= {names.get(row["method"], f"`{row['method']}`{settings}"): row for row in result["rows"]}
    table = [
        [label, *(f"{row[key]:.2f}" for key in columns), "yes" if row["passes"] else "no"]
        for label, row in rows.items() if "refused" not in row
    ]  # fmt: skip
    refused = [f"{label} refuses: {row['refused']}" for label, row in rows.items() if "refused" in row]
    return "\n\n".join([markdown(["", *columns.values(), "passes"], table), *refused])


def captioner_table(results: list[Result]) -> str:
    """What a model that sees still names and tells."""
    groups = ("erased", "unnamed", "told", "neighbours", "others")
    columns = [*(f"{group}_after" for group in groups), "identical"]
    table = [
        [row["concept"], row["method"], *(f"{row[name]:.2f}" for name in columns), "yes" if row["passes"] else "no"]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    return markdown(["concept", "", *groups, "identical", "passes"], table)


def corrective_table(results: list[Result]) -> str:
    """What a poisoned classifier names, by the share of bad examples that is known; nothing twice."""
    rows = list({(row["method"], row["concept"] if row["method"] not in _SAME else ""): row
                 for result in results for row in result["rows"]}.values())  # fmt: skip
    table = [
        [_SAME.get(row["method"], row["method"] if " " in row["method"] else f"`{row['method']}`"),
         "" if row["method"] in _SAME else row["concept"],
         *(f"{row[key]:.3f}" for key in ("poisoned", "lured", "retain", "test")),
         f"{row['ratio']:.2f}" if "ratio" in row else "", "yes" if row["passes"] else "no"]
        for row in rows if "refused" not in row
    ]  # fmt: skip
    said = [(row["method"], row["concept"], row["refused"].split(": ", 1)[-1]) for row in rows if "refused" in row]
    refused = [
        f"`{name}` refuses ({', '.join(share for one, share, again in said if (one, again) == (name, why))}): {why}."
        for name, why in dict.fromkeys((name, why) for name, _, why in said)
    ]
    taken = f"Training it took {results[0]['train_seconds']:.0f} s, which `time` is a share of."
    head = ["", "known", "poisoned", "lured", "retain", "test", "time", "passes"]
    return "\n\n".join([taken, markdown(head, table), *refused])


_SAME = {"none": "poisoned, as it is", "retrained without all": "retrained without all"}
_OF_CLASSIFIER = ("forget", "retain", "test")


def requests_table(results: list[Result]) -> str:
    """Requests one after another."""
    rows = [row for result in results for row in result["rows"]]
    table = [
        [str(row["requests"]), f"{row['forgotten']:.3f}", "" if row["withdrawn"] is None else f"{row['withdrawn']:.3f}",
         f"{row['kept']:.3f}", f"{row['kept_test']:.3f} ({row['re_test']:.3f})", f"{row['harmonic']:.3f}",
         row.get("blocks", "")]
        for row in rows
    ]  # fmt: skip
    head = ["requests", "forgotten", "withdrawn", "kept", "kept, test", "harmonic", "size of the change by block"]
    return markdown(head, table)


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
        "recall": "planted things found", "styles": "objects found in a style",
        "precision": "concepts that were planted",
        "iou": "where", "rank": "importance", "there": "is it there", "where": "at the right pixels",
        "how_much": "what it says of classes", "named": "objects named",
    }  # fmt: skip
    rows = [row for result in results for row in result["rows"]]
    columns = {key: name for key, name in columns.items() if key in rows[0]}
    table = [
        [f"control: `{row['finder']}`" if row["control"] else f"`{row['finder']}`",
         *(f"{row[key]:.2f}" for key in columns), str(row["shown"]), f"{row['seconds']:.1f}"]
        for row in sorted(rows, key=lambda row: row["control"])
    ]  # fmt: skip
    return markdown(["", *columns.values(), "shown", "seconds"], table)


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
