"""Which figures there are: the commands that measure each, and what makes a table of what they report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.attack_tables import deletion_table, every_fact_table, language_attacks_table, worst_case_table
from tools.figure_tables import (
    attaching_table,
    co_erasing_table,
    craft_peer_table,
    disguises_table,
    drift_table,
    eval_table,
    exported_table,
    faults_table,
    finding_table,
    fuzz_table,
    gates_table,
    half_words_table,
    hidden_table,
    language_table,
    logits_table,
    looks_table,
    making_table,
    many_table,
    marked_table,
    neurons_table,
    overhead_table,
    pace_table,
    pairs_table,
    per_image_table,
    pixels_table,
    places_table,
    redirection_table,
    serving_table,
    shown_table,
    speech_table,
    spellings_table,
    trained_table,
    training_table,
    waiting_table,
)
from tools.promise_tables import promise_tables
from tools.redteam_tables import (
    kept_table,
    never_seen_table,
    policy_table,
    redteam_table,
    scores_table,
    steps_table,
    work_table,
)
from tools.unlearning_tables import (
    attribution_table,
    captioner_table,
    classifier_table,
    corrective_table,
    dampened_table,
    forgetting_table,
    gan_table,
    graph_table,
    klom_table,
    matching_table,
    requests_table,
    restor_table,
    sampled_table,
    seeds_table,
    sizes_table,
    unlearned_table,
)

Result = dict[str, Any]
CLASSIFIER = "emoji-classifier"
FLOW = ("spm", "uce", "nullspace", "rece", "trce", "esd", "all_but_one")  # on emoji-flow
# What acts there while a picture is drawn, in words or by an artifact that ships.
FLOW_SHIPS = (  # noqa: SIM905
    "sld negative_guidance ant concept_master magicmix safree spm uce nullspace rece trce esd few_shot advunlearn "
    "all_but_one doco"
).split()
MIXED = "--set kmax=0.98 --set kmin=0.9 --set negative=true"  # magicmix, where content takes over from the start
TEN = "cigarette,pistol,bomb,beer,wine,skull,knife,syringe,pill,dagger"


@dataclass(frozen=True)
class Figure:
    """One figure.

    commands: each is run with ``--json FILE``; render: what they reported -> Markdown
    takes: about how long on two CPU cores, for whoever is to wait
    needs: an environment variable without which the commands cannot run
    """

    commands: tuple[str, ...]
    render: Callable[[list[Result]], str]
    takes: str
    needs: str = ""


# Methods with a shipped artifact of one concept that guard what is drawn, beside those of "withstands".
ARTIFACTS = ("few_shot", "advunlearn", "nullspace", "rece", "safree", "trce")
RECOMMENDED = "conceptguard redteam --policy registry/policies/recommended.yaml --budget small --steps 12"
SEARCHES = (  # noqa: SIM905
    "ring_a_bell mma pez p4d unlearndiffatk concept_arithmetics probes classifier_guidance"
).split()
CHEAP = (  # one or two of every form: words, states of the encoder, gradients, rims and noise
    "paraphrase", "random", "concept_arithmetics", "pez", "ring_a_bell", "concept_inversion", "unlearndiffatk",
    "in_context", "tina",
)  # fmt: skip
WEAK = "{method: spm, artifact: emoji-sd/spm/cigarette, strength: 0.4}"
SERVED = (
    "python -m tools.vllm_load --python $CONCEPTGUARD_VLLM {} --option=--dtype=float32 --option=--enforce-eager "
    "--option=--max-model-len=256"
)


def _attacked(what: str, *attacks: str, budget: str = "small") -> str:
    """A command of redteam about a cigarette."""
    named = " ".join(f"--attack {one}" for one in attacks or ("all",))
    return f"conceptguard redteam {what} --concepts cigarette {named} --budget {budget}"


def _switches(method: str, *settings: str, others: tuple[str, ...] = ()) -> str:
    named = [f"--method {name}" for name in (method, *others)]
    return " ".join(["conceptguard eval", *named, f"--n 4 --concepts {TEN}", *(f"--set {one}" for one in settings)])


FIGURES = {
    "demo": Figure(("conceptguard demo --out out/demo",), eval_table, "two minutes"),
    "eval-first": Figure(
        (f"conceptguard eval --method spm --method uce --n 2 --concepts {TEN}",), eval_table, "five minutes"
    ),
    "eval": Figure((f"conceptguard eval --method spm --method uce --n 8 --concepts {TEN}",), eval_table, "an hour"),
    "eval-guards": Figure(
        tuple(
            [
                _switches("spm", others=("uce", "itd", "safree", "sld", "ant", "negative_guidance", "trce", "astar",
                                         "magicmix", "probe")),
                _switches("itd", "reconstruct=true"), _switches("itd", "classify=false"),
                _switches("safree", "schedule=false"), _switches("safree", "reattention=true"),
                _switches("safree", "negative_prompt=true"), _switches("safree", "scale=1"),
                _switches("safree", "scale=1", "positions=triggers", "t0=5.333", "up_t=10"),
                _switches("sld", "level=strong"), _switches("sld", "level=medium"), _switches("sld", "level=weak"),
                _switches("trce", "scale=3"),
                _switches("magicmix", "negative=true", "kmax=0.9", "kmin=0.6"),
            ]
        ),
        eval_table, "six hours",
    ),
    "eval-flow": Figure(
        (
            "conceptguard eval --model emoji-flow "
            + " ".join(f"--guard {one}:pistol,gun,handgun"
                       for one in ("sld", "negative_guidance", "ant", "safree", "trce", "magicmix"))
            + " --n 2 --concepts pistol",
            "conceptguard eval --model emoji-flow --artifacts out/flow --concepts pistol --n 2 "
            + " ".join(f"--method {one}" for one in FLOW),
            "conceptguard eval --model emoji-flow --artifacts out/flow --concepts pistol --n 2 --method salun",
            "conceptguard eval --model emoji-flow --concepts pistol --n 2 --method few_shot --method advunlearn",
            "conceptguard eval --model emoji-flow --guard concept_master:pistol,gun,handgun --n 2 --concepts pistol",
            *(f"conceptguard eval --model emoji-flow --method magicmix {how} --n 2 --concepts pistol"
              for how in ("--set kmax=0.95 --set kmin=0.85", MIXED)),
            *(f"conceptguard eval --model emoji-flow --artifacts out/{made} --concepts pistol --n 2 {which}"
              for made, which in (("flow", "--method safree"), ("flow", "--method ant --method probe"),
                                  ("flow-early", "--method ant"), ("flow", "--method doco"),
                                  ("flow", "--method realera"))),
        ),
        eval_table, "half an hour",
    ),
    "flow-comfyui": Figure(
        (
            "python -m tools.flow_comfyui $COMFYUI_PATH " + " ".join(f"--method {one}" for one in FLOW_SHIPS),
            f"python -m tools.flow_comfyui $COMFYUI_PATH --method magicmix {MIXED}",
        ),
        eval_table, "ten minutes", needs="COMFYUI_PATH",
    ),
    "one-step": Figure(
        (
            "conceptguard eval --model emoji-sd-one-step --method sfd --method esd --method uce --steps 1 --guidance 1 "
            "--n 24 --concepts beer",
        ),
        eval_table, "five minutes",
    ),
    "eval-trained": Figure(
        ("conceptguard eval --makers trained --artifacts out/trained --concepts beer --n 12 --steps 12",),
        trained_table, "ten minutes",
    ),
    "eval-at-once": Figure(
        (
            "conceptguard eval --method spm --method ant --method doco --method salun --artifacts out/trained "
            "--concepts pistol --n 8 --steps 12",
            "conceptguard eval --method esd --method all_but_one --method realera --artifacts out/trained "
            "--concepts pistol --unnamed --at-once 5 --n 8 --steps 12",
            "conceptguard eval --method esd --method realera --artifacts out/trained --concepts pistol --unnamed "
            "--gate always --n 8 --steps 12",
        ),
        trained_table, "twenty minutes",
    ),
    "ant-at-once": Figure(
        (
            "conceptguard eval --method ant --artifacts out/trained --concepts pistol --at-once 5 --n 8 --steps 12",
        ),
        trained_table, "ten minutes",
    ),
    "exported": Figure(
        ("python -m tools.exported --artifacts out/trained --concept pistol",), exported_table, "five minutes"
    ),
    "drift": Figure(("python -m tools.drift --artifacts out/trained --concept beer",), drift_table, "a minute"),
    "co-erasing": Figure(
        ("python -m tools.co_erasing --artifacts out/co --concept beer --n 12",), co_erasing_table, "five minutes",
    ),
    "marked": Figure(("python -m tools.marked --n 48",), marked_table, "ten minutes"),
    "pace": Figure(
        (
            "python -m conceptguard_registry.build.emoji_sd.pace --part autoencoder --budget 0.5",
            "python -m conceptguard_registry.build.emoji_sd.pace --part denoiser --budget 1",
            "python -m conceptguard_registry.build.emoji_sd.pace --part denoiser --budget 4",
            "python -m conceptguard_registry.build.emoji_sd.pace --part judge --budget 1",
        ), pace_table, "an hour",
    ),
    "pairs": Figure(("python -m tools.pairs",), pairs_table, "ten minutes"),
    "eval-together": Figure(
        (
            "conceptguard eval --method spm --together 20 --n 4",
            f"conceptguard eval --method itd --together 10 --n 12 --concepts {TEN}",
        ),
        eval_table, "half an hour",
    ),
    "eval-closed": Figure(
        (
            f"conceptguard eval --method uce --method nullspace --unnamed --crowd --n 3 --concepts {TEN}",
            f"conceptguard eval --method rece --method trce --unnamed --crowd --n 3 --concepts {TEN}",
            f"conceptguard eval --method few_shot --method advunlearn --unnamed --n 3 --concepts {TEN}",
            *(f"conceptguard eval {two} --gate always --unnamed --crowd --n 2 --concepts {TEN}"
              for two in ("--method uce --method nullspace", "--method rece --method trce")),
        ),
        eval_table, "an hour",
    ),
    "gates": Figure(("conceptguard bench gates",), gates_table, "three minutes"),
    "overhead": Figure(("conceptguard bench overhead",), overhead_table, "an hour"),
    "overhead-sd15": Figure(
        ("conceptguard bench overhead --size sd15 --n 1000 --repeats 3",), overhead_table, "an hour"
    ),
    "overhead-safree": Figure(
        (
            "conceptguard bench overhead --method safree --repeats 5",
            "conceptguard bench overhead --method safree --size sd15 --set alpha=0 --repeats 1",
        ),
        per_image_table, "an hour",
    ),
    "looks": Figure(("conceptguard bench check",), looks_table, "three minutes"),
    "language": Figure(
        ("conceptguard eval --suite language --method none --policy forget-authors --policy forget-authors-inside "
         "--n 6",),
        language_table, "ten minutes",
    ),
    "language-attacks": Figure(
        (
            *(f"conceptguard redteam --suite language --policy {policy} --budget small"
              for policy in ("none", "forget-authors-phrases", "forget-authors", "forget-authors-inside")),
            "python -m tools.language_attacks",
        ),
        language_attacks_table, "half an hour",
    ),
    "every-fact": Figure(
        (
            "conceptguard redteam --suite language --policy forget-authors-inside --budget small --asks 140 "
            + " ".join(f"--attack {one}" for one in ("rephrasings", "translated", "ununlearning", "extraction",
                                                     "four_bit", "sleek")),
            "conceptguard redteam --suite language --policy forget-authors-inside --budget default "
            + " ".join(f"--attack {one}" for one in ("extraction", "ununlearning", "translated", "rephrasings")),
            "conceptguard redteam --suite language --policy forget-authors-inside --budget large --asks 28 "
            "--attack extraction --attack ununlearning",
        ),
        every_fact_table, "half an hour",
    ),
    "deletion": Figure(("python -m tools.deletion",), deletion_table, "half an hour"),
    "worst-case": Figure(("python -m tools.worst_case",), worst_case_table, "ten minutes"),
    "logits": Figure(
        ("conceptguard bench logits --model authors-lm", "conceptguard bench logits --model 1b"), logits_table,
        "an hour",
    ),
    "hidden": Figure(
        ("conceptguard bench logits --n 100 --batch 1 --model 1b --hidden",), hidden_table, "ten minutes"
    ),
    "making": Figure(
        (
            "conceptguard bench make --method uce --method nullspace --threads 1 --clock cpu",
            "conceptguard bench make --method rece --concepts 1,10,100 --threads 1 --clock cpu",
        ),
        making_table, "a quarter of an hour",
    ),
    "training": Figure(
        (
            "conceptguard bench train", "conceptguard bench train --size sd15 --side 32 --dtype bf16 --steps 2",
            "conceptguard bench train --size sd15 --side 32 --dtype bf16 --steps 2 --method esd --set rank=null",
        ),
        training_table, "half an hour",
    ),
    "waiting": Figure(
        ("python -m tools.waiting --peer $FORMER_PYTHON",), waiting_table, "a quarter of an hour", needs="FORMER_PYTHON"
    ),
    "attaching": Figure(
        ("conceptguard bench attach --n 1000 --peer $FORMER_PYTHON --repeats 2 --clock cpu",), attaching_table,
        "five minutes", needs="FORMER_PYTHON",
    ),
    "comfyui": Figure(
        (
            "conceptguard bench comfyui $COMFYUI_PATH --steps 15 --clock cpu --repeats 15",
            "conceptguard bench comfyui $COMFYUI_PATH --size sd15 --steps 4 --repeats 5 --clock cpu",
        ),
        per_image_table, "half an hour", needs="COMFYUI_PATH",
    ),
    "disguises": Figure(("python -m tools.disguises",), disguises_table, "a quarter of an hour"),
    "spellings": Figure(("python -m tools.spellings",), spellings_table, "ten minutes"),
    "half-words": Figure(("python -m tools.half_words",), half_words_table, "two minutes"),
    "redirection": Figure(("python -m tools.redirection",), redirection_table, "two minutes"),
    "rocr-places": Figure(
        ('conceptguard find rocr --model authors-lm --concept authors '
         '--prompts "Tone Vramont,Brefiora Gedorn,Driline Surin" --set "target=Vrun Fequist"',),
        places_table, "a minute",
    ),
    "unlearned": Figure(("python -m tools.unlearned",), unlearned_table, "half an hour"),
    "retain-seeds": Figure(("python -m tools.retain_seeds",), seeds_table, "ten minutes"),
    "muse-sizes": Figure(("python -m tools.muse_sizes",), sizes_table, "ten minutes"),
    "dampened": Figure(("python -m tools.dampened",), dampened_table, "five minutes"),
    "concept-vectors": Figure(
        ("python -m tools.neurons concept_vectors", "python -m tools.neurons coverage"), neurons_table, "five minutes"
    ),
    "classifier": Figure(
        (
            f"conceptguard eval --suite classifier --model {CLASSIFIER} " + " ".join(
                f"--method {name}" for name in ("ssd", "damp", "sparse_unlearning", "laf", "concept_poisoning")
            ),
            f"conceptguard eval --suite classifier --model {CLASSIFIER} --variant vit --method ssd --method damp "
            "--method gs_lora",
        ),
        classifier_table, "five minutes",
    ),
    "forgetting": Figure(
        (
            "conceptguard bench forget",
            "conceptguard bench forget --variant vit --method ssd --method damp --method gs_lora --method s3t",
        ),
        forgetting_table, "ten minutes",
    ),
    "sampled": Figure(("python -m tools.sampled",), sampled_table, "two minutes"),
    "dmm": Figure(
        (
            "conceptguard eval --suite classifier --method dmm",
            "conceptguard eval --suite classifier --method dmm --concepts weapons,mono --set scores=oracle "
            "--set oracles=1",
        ),
        matching_table, "five minutes",
    ),
    "attribution": Figure(("python -m tools.attribution",), attribution_table, "two minutes"),
    "many": Figure(("conceptguard bench many --workers 2",), many_table, "two minutes", needs="OMP_NUM_THREADS"),
    "craft-peer": Figure(("python -m tools.craft_peer",), craft_peer_table, "six minutes", needs="CRAFT_PATH"),
    "vllm": Figure(
        (SERVED.format("--answers 10000"), SERVED.format("--model larger --answers 192 --rounds 6")),
        serving_table, "a quarter of an hour", needs="CONCEPTGUARD_VLLM",
    ),
    "speech": Figure(("python -m tools.converted_speech",), speech_table, "five minutes"),
    "captioner": Figure(
        ("conceptguard eval --suite captioner --method sauce --method siu "
         "--concepts skull,pistol,dog,beer --n 8",),
        captioner_table, "five minutes",
    ),
    "corrective": Figure(
        (
            f"conceptguard eval --suite classifier --measure corrective --model {CLASSIFIER} --method ssd --method "
            "sparse_unlearning --method laf --method damp",
            f"conceptguard eval --suite classifier --measure corrective --model {CLASSIFIER} --method ssd "
            "--set alpha=2 --concepts 10%,50%,100%",
        ),
        corrective_table, "a quarter of an hour",
    ),
    "restor": Figure(
        ("conceptguard eval --suite language --measure restor --method npo --method simnpo --method rmu "
         "--method rocr",
         "conceptguard eval --suite language --measure restor --method npo --method simnpo --method rmu "
         "--set retain_weight=10"),
        restor_table, "ten minutes",
    ),
    "klom": Figure(
        ("python -m tools.klom --method damp --method ssd --method dmm", "python -m tools.klom --models 3"),
        klom_table, "four minutes",
    ),
    "scrub": Figure(("python -m tools.scrub",), classifier_table, "three minutes", needs="SUPREME_PATH"),
    "gan": Figure(("conceptguard eval --suite gan --method text_to_unlearn",), gan_table, "ten minutes"),
    "graph": Figure(("conceptguard eval --suite graph --method d2dgn",), graph_table, "a minute"),
    "requests": Figure(("python -m tools.stream",), requests_table, "a minute"),
    "feature-neurons": Figure(("python -m tools.neurons feature_neurons",), neurons_table, "two minutes"),
    "finding": Figure(
        (
            "conceptguard eval --suite finding --seeds 3",
            "conceptguard eval --suite finding --method blindspots --seeds 8",
        ),
        finding_table, "a quarter of an hour",
    ),
    "shown": Figure(("python -m tools.shown",), shown_table, "five minutes"),
    "pixels": Figure(("python -m tools.pixels",), pixels_table, "three minutes"),
    "faults": Figure(("python -m tools.faults",), faults_table, "two minutes"),
    "fuzz": Figure(("python -m tools.fuzz",), fuzz_table, "twenty minutes"),
    "searches": Figure(
        (_attacked("--policy none --start 'a picture'", "random", "pez", "ring_a_bell", "concept_inversion", "p4d",
                   "unlearndiffatk", budget="default"),),
        redteam_table, "twenty minutes",
    ),
    "weak-guard": Figure(
        (_attacked(f"--guard '{WEAK}'", "random", "pez", "unlearndiffatk", budget="default"),), redteam_table,
        "ten minutes",
    ),
    "brought-back": Figure(
        (_attacked("--guard uce:cigarette", "paraphrase", "relearn", budget="default"),), redteam_table, "five minutes"
    ),
    "withstands": Figure(
        tuple(_attacked(f"--guard {guard}:cigarette") for guard in ("spm", "uce")),
        redteam_table, "a quarter of an hour",
    ),
    "attack-steps": Figure(
        ("python -m tools.attack_steps",), steps_table, "five minutes", needs="OMP_NUM_THREADS"
    ),
    "all-attacks": Figure(
        ("python -m tools.all_attacks",), work_table, "twenty minutes", needs="OMP_NUM_THREADS"
    ),
    "never-seen": Figure(("python -m tools.never_seen",), never_seen_table, "half an hour"),
    "probe-scores": Figure(("python -m tools.probe_scores",), scores_table, "five minutes"),
    "recommended": Figure(
        (
            f"{RECOMMENDED} --attack tina",
            f"{RECOMMENDED} --attack in_context",
            f"{RECOMMENDED} --attack recall --attack paraphrase",
            f"{RECOMMENDED} --attack concept_inversion --attack memories",
            f"{RECOMMENDED} {' '.join(f'--attack {name}' for name in SEARCHES)} --concepts pistol",
        ),
        policy_table, "half an hour",
    ),
    "recommended-kept": Figure(("python -m tools.recommended",), kept_table, "five minutes"),
    "other-guards": Figure(
        tuple(f"{_attacked(f'--guard {guard}:cigarette', *CHEAP)} --steps 12" for guard in ARTIFACTS),
        redteam_table, "half an hour",
    ),
    "promises": Figure(
        (
            "python -m tools.promises", "python -m tools.promises --hosts ComfyUI",
            "python -m tools.promises --hosts 'oldest releases,newest releases'",
        ),
        promise_tables, "an hour",
    ),
}  # fmt: skip
