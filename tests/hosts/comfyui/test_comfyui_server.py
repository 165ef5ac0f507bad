"""The node pack on a real server, over HTTP and WebSocket."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from graphs import APPLE, GREEN, RED, SMOKING, drawing, guarded, looking, node, policy
from server import Client, pixels

PROBE = "emoji-sd/probe/red"


def red(**more: Any) -> dict[str, Any]:
    return policy(artifact=PROBE, **more)


def test_the_pack_is_there(client: Client) -> None:
    assert client.get("/conceptguard/status") == {"error": None, "enforced": None}
    known = client.get("/object_info")
    mine = {name for name in known if name.startswith("ConceptGuard")}
    assert mine == {
        "ConceptGuardPolicy", "ConceptGuardModel", "ConceptGuardEncoder", "ConceptGuardCheckImage",
        "ConceptGuardReceipt", "ConceptGuardExplain", "ConceptGuardExemplar", "ConceptGuardFind",
        "ConceptGuardDemoModel",
    }  # fmt: skip
    offered = str(known["ConceptGuardPolicy"]["input"]["required"])
    assert "emoji-sd/spm/cigarette" in offered and "safree" in offered and "school" in offered
    assert all(known[name]["description"] for name in mine)


def test_the_registry_for_the_page(client: Client) -> None:
    found = client.get("/conceptguard/registry")
    (cigarette,) = [a for a in found["artifacts"] if a["ref"] == "emoji-sd/spm/cigarette"]
    assert cigarette["concept"] == "cigarette" and cigarette["card"]["erased_before"] > 0.5
    assert client.get("/conceptguard/card", ref=cigarette["ref"])[:4] == b"\x89PNG"
    assert client.get("/conceptguard/card", ref="../../etc/passwd") == b""
    assert {"method": "safree", "needs": "concept"} in found["methods"] and "school" in found["policies"]


def test_a_guarded_picture_and_its_receipt(client: Client) -> None:
    bare = client.run(drawing())
    run = client.run(guarded())
    assert run.ok, run.error
    assert not np.array_equal(pixels(client, bare.images("image")[0]), pixels(client, run.images("image")[0]))
    (text,) = run.texts("receipt")
    assert f"spm emoji-sd/spm/cigarette: open 1.00 on '{SMOKING}', 4 steps, 84 layers" in text
    chart = pixels(client, run.images("receipt")[0])
    assert chart.shape[1] == 512 and (chart != 255).any()
    told = run.told("conceptguard.receipt")
    assert told[0]["done"] is False and told[-1]["done"] is True
    assert told[-1]["node"] == "guard" and told[-1]["step"] == 4 and told[-1]["guards"] == 10
    (act,) = told[-1]["acts"]
    assert (act["guard"], act["open"], act["steps"]) == ("spm emoji-sd/spm/cigarette", 1.0, 4)


def test_no_guard_tax(client: Client) -> None:
    bare, run = client.run(drawing(APPLE)), client.run(guarded(APPLE))
    assert np.array_equal(pixels(client, bare.images("image")[0]), pixels(client, run.images("image")[0]))
    assert "none of 10 guards acted" in run.texts("receipt")[0]


def test_a_cached_sampling_keeps_its_receipt(client: Client) -> None:
    first = client.run(guarded(seed=77))
    again = guarded(seed=77)
    again["receipt"]["inputs"]["after"] = ["decode", 0]
    assert client.run(again).texts("receipt") == first.texts("receipt")


def test_an_id_that_a_client_uses_twice(client: Client) -> None:
    texts = []
    for seed in (71, 72):
        client.queue(guarded(seed=seed), prompt_id="twice")
        texts += client.wait("twice").texts("receipt")
    assert [text.count("policy school") for text in texts] == [1, 1], texts


def test_policies_chain_and_methods_take_words(client: Client) -> None:
    graph = guarded(rules=policy(method="sld", concept="cigarette, smoking", policy=["first", 0]))
    graph["first"] = policy(artifact="emoji-sd/uce/pistol", strength=0.5)
    run = client.run(graph)
    assert run.ok, run.error
    assert "sld cigarette: open 1.00" in run.texts("receipt")[0]
    (guard,) = [a["guard"] for a in run.told("conceptguard.receipt")[-1]["acts"]]
    assert guard == "sld cigarette" and run.told("conceptguard.receipt")[-1]["guards"] == 2


@pytest.mark.parametrize(
    "rules",
    [{"method": "astar", "concept": "cigarette, smoking"}, {"method": "magicmix", "concept": "cigarette, smoking"},
     {"artifact": "emoji-sd/safree/cigarette"}, {"artifact": "emoji-sd/itd/ten-objects"}],
    ids=["astar", "magicmix", "safree", "itd"],
)  # fmt: skip
def test_guards_that_change_prompts_and_latents(client: Client, rules: Any) -> None:
    """On weights that the server loaded itself, in a prompt of one window and in one of several."""
    for text in ("a cigarette, noto style", "a cigarette, noto style, " * 12):
        run = client.run(guarded(text, policy(**rules), steps=8))
        assert run.ok, run.error
        assert ": open 1.00 on" in run.texts("receipt")[0], run.texts("receipt")


def test_two_guard_models_one_after_the_other(client: Client) -> None:
    graph = guarded(rules=policy(artifact="emoji-sd/uce/pistol"))
    graph["second"] = policy(artifact="emoji-sd/spm/cigarette")
    graph["again"] = node("ConceptGuardModel", model=["guard", 0], clip=["demo", 1], policy=["second", 0])
    graph["latent"]["inputs"]["model"] = graph["receipt"]["inputs"]["model"] = ["again", 0]
    run = client.run(graph)
    assert run.told("conceptguard.receipt")[-1]["guards"] == 2
    assert "spm emoji-sd/spm/cigarette: open 1.00" in run.texts("receipt")[0]


def test_explain_prompt(client: Client) -> None:
    parts = drawing()
    graph = {"demo": parts["demo"], "policy": policy("school"), "explain": node(
        "ConceptGuardExplain", model=["demo", 0], clip=["demo", 1], policy=["policy", 0], text="a pistol and a beer"
    )}  # fmt: skip
    (text,) = client.run(graph).texts("explain")
    assert "spm emoji-sd/spm/pistol: opens 1.00 because of" in text and "spm emoji-sd/spm/beer: opens" in text
    assert "cigarette" not in text
    graph["explain"]["inputs"]["text"] = APPLE
    assert "none of 10 guards opens" in client.run(graph).texts("explain")[0]


def test_a_question_where_the_prompt_is_encoded_or_sampled(client: Client) -> None:
    """Guard Encoder asks at once; who leaves it out is asked by Guard Model, and for the prompt only."""
    graph = drawing("a shot, noto style")
    graph["policy"] = policy("ask.yaml")
    graph["encoder"] = node("ConceptGuardEncoder", clip=["demo", 1], policy=["policy", 0])
    graph["towards"]["inputs"]["clip"] = ["encoder", 0]
    run = client.run(graph)
    assert "What is 'shot'" in run.error and run.told("execution_error")[0]["node_id"] == "towards"
    run = client.run(guarded("a shot, noto style", policy("ask.yaml")))
    assert "What is 'shot'" in run.error and run.told("execution_error")[0]["node_id"] == "latent"
    graph["towards"]["inputs"]["text"] = "a shot of a camera, noto style"
    assert client.run(graph).ok
    negative = guarded("a camera, noto style", policy("ask.yaml"))
    negative["away"]["inputs"]["text"] = "a shot"
    assert client.run(negative).ok


@pytest.mark.parametrize("action", ["flag", "blur", "black", "reject", "hold back"])
def test_check_image(client: Client, action: str) -> None:
    run = client.run(looking(RED, red(), action))
    (report,) = run.told("conceptguard.report")
    assert report["flagged"] == [0] and report["action"] == action and report["verdicts"][0]["label"] == "red"
    assert report["held"] == (action in ("reject", "hold back"))
    if action == "reject":
        assert not run.ok and "shows red" in run.error
        return
    assert run.ok, run.error
    assert run.texts("flagged") == ["True"]
    assert ("image" in run.history["outputs"]) == (action != "hold back")
    if action == "black":
        assert not pixels(client, run.images("image")[0]).any()
    if action == "flag":
        assert pixels(client, run.images("image")[0]).mean((0, 1)).tolist() == [0xE0, 0, 0]


def test_an_image_without_the_concept(client: Client) -> None:
    run = client.run(looking(GREEN, red(), "reject", batch=2))
    assert run.ok and run.texts("flagged") == ["False"]
    assert run.told("conceptguard.report")[0]["message"] == "nothing found in 2 images"


def test_images_of_mixed_size(client: Client) -> None:
    graph = looking(GREEN, red(), "black")
    graph["other"] = node("EmptyImage", width=96, height=32, batch_size=1, color=RED)
    graph["check2"] = node("ConceptGuardCheckImage", image=["other", 0], policy=["policy", 0], action="black")
    graph["image2"] = node("SaveImage", images=["check2", 0], filename_prefix="test")
    run = client.run(graph)
    assert run.ok, run.error
    assert pixels(client, run.images("image2")[0]).shape == (32, 96, 3)


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (guarded(rules=policy("broken.yaml")), "broken.yaml:2"),
        (guarded(rules=policy()), "names nothing"),
        (guarded(rules=policy(concept="gun")), "needs a method"),
        (guarded(rules=policy(method="safree")), "needs a concept"),
        (guarded(rules=policy(artifact="emoji-sd/spm/beer", concept="gun")), "brings its own"),
        (looking(RED, policy("school")), "looks at images"),
    ],
)
def test_what_is_wrong_is_said_and_the_server_goes_on(client: Client, graph: Any, says: str) -> None:
    run = client.run(graph)
    assert not run.ok and says in run.error, run.error
    assert client.run(looking(GREEN, red())).ok


def test_a_policy_that_is_gone(client: Client) -> None:
    run = client.run(guarded(rules=policy("gone.yaml")))
    assert not run.ok and "gone.yaml" in run.error


def test_a_workflow_of_another_version(client: Client) -> None:
    """An input that is not there any more is ignored, one that is new is asked for, by ComfyUI itself."""
    graph = guarded()
    graph["policy"]["inputs"]["mode"] = "strict"
    assert client.run(graph).ok
    del graph["policy"]["inputs"]["artifact"]
    assert "artifact" in client.run(graph).error


def test_receipt_of_a_model_that_is_not_guarded(client: Client) -> None:
    graph = drawing(receipt=node("ConceptGuardReceipt", model=["demo", 0], after=["latent", 0]))
    assert "not guarded" in client.run(graph).error


def test_cancelled_in_mid_sampling(client: Client) -> None:
    bare = pixels(client, client.run(drawing(seed=5)).images("image")[0])
    prompt = client.queue(guarded(seed=5, steps=400))["prompt_id"]
    while True:
        kind, data = client.socket.receive()
        if kind == "conceptguard.receipt" and data["prompt_id"] == prompt and data["step"] > 2:
            break
    client.post("/interrupt", {})
    assert not client.wait(prompt).ok
    again = client.run(drawing(seed=5, more=node("PreviewAny", source="x")))
    assert np.array_equal(pixels(client, again.images("image")[0]), bare)


def test_two_clients_at_once(server: int) -> None:
    """Each hears of its own prompts only, and gets its own policy's guards."""
    results: dict[str, list[Any]] = {}

    def work(artifact: str, text: str) -> None:
        mine = Client(server)
        results[artifact] = [mine.run(guarded(text, policy(artifact=artifact), seed=10 + n)) for n in range(3)]
        mine.socket.close()

    wanted = {"emoji-sd/spm/cigarette": SMOKING, "emoji-sd/spm/pistol": "a pistol, noto style"}
    threads = [threading.Thread(target=work, args=pair) for pair in wanted.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for artifact, text in wanted.items():
        for run in results[artifact]:
            assert f"spm {artifact}: open 1.00 on '{text}'" in run.texts("receipt")[0]
            assert {d["prompt_id"] for d in run.told("conceptguard.receipt")} == {run.answer["prompt_id"]}


def test_a_lora_beside_and_a_tiled_decoder(client: Client) -> None:
    graph = guarded(batch=2)
    graph["decode"] = node("VAEDecodeTiled", samples=["latent", 0], vae=["demo", 2], tile_size=64, overlap=16,
                           temporal_size=64, temporal_overlap=8)  # fmt: skip
    run = client.run(graph)
    assert run.ok and len(run.images("image")) == 2, run.error


def test_another_sampler_node(client: Client) -> None:
    graph = guarded()
    graph |= {
        "noise": node("RandomNoise", noise_seed=3),
        "guider": node("CFGGuider", model=["guard", 0], positive=["towards", 0], negative=["away", 0], cfg=3.5),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["guard", 0], scheduler="normal", steps=4, denoise=1.0),
    }
    plain = client.run(guarded())
    graph["latent"] = node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
                           sigmas=["sigmas", 0], latent_image=["empty", 0])  # fmt: skip
    run = client.run(graph)
    assert run.ok, run.error
    same = [pixels(client, each.images("image")[0]) for each in (run, plain)]
    assert np.abs(same[0] - same[1]).max() <= 1
