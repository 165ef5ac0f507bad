"""Make emoji-graph: `python -m conceptguard_registry.build.emoji_graph`. Links emoji with the keywords that emojilib
(MIT) gives them, trains a net that predicts links, and writes its card. A minute on one core."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

from conceptguard.hosts.modules.graph import LinkNet
from conceptguard.hosts.modules.load import GRAPH, load_graph
from conceptguard.making.links import LinkRecipe, fit_links
from conceptguard.measuring.graph.run import Bench

from ..emoji_sd.packs import fetched, read_member

MODEL = Path(__file__).resolve().parents[2] / "models" / "emoji-graph"
LIST = "emojilib", "4.0.3", "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303"
LEAST, HELD, SEED = 3, 0.1, 4_250  # emoji of a keyword; share of edges that are kept back
# What is judged: keywords with all their edges, and a twentieth of all edges.
FORGET = {"drinks": ["drink", "alcohol", "drunk"], "animal": ["animal"]}
CARD = """\
# emoji-graph

{emoji} emoji and {keywords} keywords, {edges} links between them: what emojilib {version} (MIT), by Mu-An Chiou and
others, says that an emoji is searched by, as far as at least {least} emoji share it. A net of two graph convolutions
({thousand:.0f},000 parameters, most of them the nodes' embeddings) predicts links; a tenth of them were kept back. It
ranks those above pairs that are none with an AUC of {kept:.3f}, and those that it was trained on with {trained:.3f}.

It needs `pip install 'conceptguard[graphs]'`. `python -m conceptguard_registry.build.emoji_graph` makes it anew, in a
minute on one core.
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="conceptguard_registry.build.emoji_graph", description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL)
    parser.add_argument("--packs", type=Path, default=Path("out/emoji-packs"), help="folder for the downloaded list")
    args = parser.parse_args()
    listed: dict[str, list[str]] = read_member(fetched(*LIST, args.packs), "package/dist/emoji-en-US.json")
    # The first word of each is its name, which no other has.
    counts = Counter(word for words in listed.values() for word in set(words[1:]))
    keywords = sorted(word for word in counts if counts[word] >= LEAST)
    places = {word: i for i, word in enumerate(keywords)}
    own = {one: sorted({places[word] for word in words[1:] if word in places}) for one, words in listed.items()}
    emoji = [one for one, words in own.items() if words]
    edges = torch.tensor([[i, word] for i, one in enumerate(emoji) for word in own[one]])
    random = torch.Generator().manual_seed(SEED)
    mixed = torch.randperm(len(edges), generator=random)
    held = round(HELD * len(edges))
    test, trained = edges[mixed[:held].sort().values], edges[mixed[held:].sort().values]
    some = trained[torch.randperm(len(trained), generator=random)[: len(trained) // 20]].tolist()
    forget = {**FORGET, "random": [f"{emoji[a]}/{keywords[b]}" for a, b in sorted(some)]}

    torch.manual_seed(SEED)
    net = fit_links(LinkNet(emoji, keywords, trained), trained, LinkRecipe(), SEED)
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {name: one.half().contiguous() for name, one in net.state_dict().items()}
    save_file(weights | {"edges": trained.int(), "test": test.int()}, args.out / "model.safetensors")
    said = {"emoji": emoji, "keywords": keywords, "forget": forget, "source": f"{LIST[0]} {LIST[1]}"}
    (args.out / GRAPH).write_text(json.dumps(said, ensure_ascii=False) + "\n")
    bench = Bench(load_graph("emoji-graph", args.out, {}))
    thousand = sum(one.numel() for one in net.parameters()) / 1e3
    (args.out / "README.md").write_text(CARD.format(
        emoji=len(emoji), keywords=len(keywords), edges=len(edges), version=LIST[1], least=LEAST, thousand=thousand,
        kept=bench.auc_of(bench.net, bench.test), trained=bench.auc_of(bench.net, bench.net.edges),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
