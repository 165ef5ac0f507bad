"""Tables of what was forgotten: by classifiers, generators, graphs, models of language and models that see."""

from __future__ import annotations

import statistics

from tools.figure_tables import GROUPS, Result, Row, markdown


def unlearned_table(results: list[Result]) -> str:
    """What was trained away, and what went with it."""
    rows = [row for result in results for row in result["rows"]]
    names = {"none": "as it is", "retain": "a model that never knew"}
    marks = {"tofu_forget_quality": 1, "tofu_utility": 2, "muse_privleak": 0, "muse_verbmem": 2, "muse_knowmem": 2}
    table = [
        [names.get(row["method"], row["method"]), *(f"{row[f'{group}_after']:.2f}" for group in GROUPS),
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


def seeds_table(results: list[Result]) -> str:
    """TOFU's test between models that never knew, and of one that knows."""
    table = [[row["one"], row["other"], f"{row['log10_p']:.1f}", f"{row['ks']:.3f}"] for row in results[0]["rows"]]
    return markdown(["", "", "forget quality, log10 p", "KS"], table)


def sizes_table(results: list[Result]) -> str:
    """What stays as more is forgotten, at once or one after the other."""
    rows = results[0]["rows"]
    table = [
        [row["way"], str(row["forgotten"]), f"{row['muse_knowmem']:.2f}", f"{row['muse_knowmem_retain']:.2f}"]
        for way in dict.fromkeys(row["way"] for row in rows) for row in rows if row["way"] == way
    ]  # fmt: skip
    return markdown(["", "authors forgotten", "KnowMem of these", "KnowMem of what stays"], table)


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


def dampened_table(results: list[Result]) -> str:
    """What dampening makes of models that draw and that write."""
    rows = [row for result in results for row in result["rows"] if row["method"] != "blank"]
    names = {
        "none": "as it is", "retain": "a model that never knew", "fisher": "", "random": "control: drawn at random,",
        "always": "for every prompt", "prompt": "opened by the prompt", "classifier": "opened by its classifier",
    }  # fmt: skip

    def named(row: Row) -> str:
        return " ".join(names.get(part, part) for part in row["method"].split() if names.get(part, part))

    tables = []
    for model in ("emoji-sd", "authors-lm"):
        own = [row for row in rows if row["model"].startswith(model)]
        table = [
            [named(row), f"{row['share']:.3f}" if "share" in row else "",
             *("" if row.get(f"{g}_after") is None else f"{row[f'{g}_after']:.2f}" for g in GROUPS),
             f"{row['identical']:.2f}"]
            for row in own
        ]  # fmt: skip
        head = {
            "emoji-sd": ["", "dampened", "the concept", "neighbours", "others", "others identical"],
            "authors-lm": ["", "dampened", "about forgotten authors", "about others", "about places", "same tokens"],
        }
        tables.append(markdown(head[model], table))
    told = (
        "`dampened`: the share of these layers' weights. Of emoji-sd, the share of pictures in which the judge "
        "recognises what was asked for; of authors-lm, by alpha, of questions that are answered."
    )
    return "\n\n".join([told, *tables])


def forgetting_table(results: list[Result]) -> str:
    """What making a classifier forget costs, and single examples' gradients beside a loop."""
    rows = [row for result in results for row in result["rows"] if "refused" not in row]

    def share(row: Row, key: str) -> str:
        return f"{row[key]:.3f}" if key in row else ""

    made = [
        [row["net"], f"`{row['method']}`", share(row, "ratio"), share(row, "ratio_again"), f"{row['make_seconds']:.2f}",
         f"{row['retrain_seconds']:.0f}"]
        for row in rows if "ratio" in row
    ]  # fmt: skip
    peers = {row["peer"]: row for row in rows if "peer" in row}
    beside = [[name, f"{row['ratio_peer']:.2f}", f"{row['difference']:.0e}"] for name, row in peers.items()]
    told = (
        "To forget a class, of processor time as a share of training the net again; `prepared` is empty where nothing "
        "can be measured beforehand."
    )
    head = ["net", "", "nothing prepared", "prepared", "seconds", "training, s"]
    between = "The Fisher information of 128 single examples, beside other ways through the same net:"
    return "\n\n".join([told, markdown(head, made), between, markdown(["", "share", "largest difference"], beside)])


def sampled_table(results: list[Result]) -> str:
    """What methods forget that read a sample of the examples."""
    rows = results[0]["rows"]
    sizes = list(dict.fromkeys((row["method"], row["sample"]) for row in rows))
    concepts = list(dict.fromkeys(row["concept"] for row in rows))

    def cells(method: str, size: int) -> list[str]:
        own = [row for row in rows if (row["method"], row["sample"]) == (method, size)]
        gaps = [sorted(row["gap"] for row in own if row["concept"] == concept) for concept in concepts]
        told = [" ".join(dict.fromkeys(f"{gap:.3f}" for gap in some)) for some in gaps]
        return [f"`{method}`", f"{size or 'all'}", *told, f"{statistics.median(row['ratio'] for row in own):.3f}"]

    table = markdown(["", "sample", *(f"gap, {one}" for one in concepts), "time"], [cells(*one) for one in sizes])
    return f"Gaps to retraining, one for each draw of a sample; `time` is a share of a training.\n\n{table}"


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
        f"{ranking['lds_datamodel']:.2f}, TRAK {ranking['lds_trak']:.2f}; datamodels tell {ranking['told']:.2f} of the "
        f"variance of these. The trainings took {ranking['make_seconds']:.0f} s. Mean margins of what is forgotten:"
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
         *(f"{row[f'{part}_klom']:.2f} ± {row[f'{part}_error']:.2f} ({row[f'{part}_p95']:.1f})" for part in parts),
         *(f"{row[key]:+.1f}" if key in row else "" for key in ("margin", "deviations"))]
        for result in results for row in result["rows"]
    ]  # fmt: skip
    (concept,) = {row["concept"] for result in results for row in result["rows"]}
    head = ["models", "", "forget", "retain", "test", "margin", "deviations"]
    told = (
        f"Without {concept}. In brackets: the 95th percentile. `margin`: of what is forgotten, the mean; `deviations`: "
        "by how many standard deviations of retrained models, over these models, it is above theirs."
    )
    return f"{told}\n\n{markdown(head, table)}"


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
    rows: dict[str, Row] = {}
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
    rows: dict[tuple[str, str], Row] = {}
    for result in results:
        settings = "".join(f", {name} {value}" for name, value in result["set"].items())
        for row in result["rows"]:
            name = row["method"]
            label = _SAME.get(name, name if " " in name else f"`{name}`{settings}")
            rows[label, "" if name in _SAME else row["concept"]] = row
    table = [
        [label, known, *(f"{row[key]:.3f}" for key in ("poisoned", "lured", "retain", "test")),
         f"{row['ratio']:.2f}" if "ratio" in row else "", "yes" if row["passes"] else "no"]
        for (label, known), row in rows.items() if "refused" not in row
    ]  # fmt: skip
    said = [(label, known, row["refused"].split(": ", 1)[-1]) for (label, known), row in rows.items()
            if "refused" in row]  # fmt: skip
    refused = [
        f"{name} refuses ({', '.join(share for one, share, again in said if (one, again) == (name, why))}): {why}."
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
