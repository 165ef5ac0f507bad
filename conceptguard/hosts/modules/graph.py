"""The architecture of the embedded net over a graph, which predicts links. It needs the extra ``graphs``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import PolicyError, RegistryError


class LinkNet(nn.Module):
    """Pairs [n, 2] of an emoji and a keyword, by their places -> logits [n] that the one has the other.

    Two graph convolutions (Kipf and Welling, ICLR 2017) over embeddings of all nodes, and a dot product. Messages run
    along ``edges`` [e, 2], those that it was trained on, or along others that it is handed. Raises RegistryError where
    torch_geometric is not installed.
    """

    edges: Tensor

    def __init__(self, emoji: list[str], keywords: list[str], edges: Tensor, width: int = 64):
        super().__init__()
        try:
            from torch_geometric.nn import GCNConv
        except ImportError:
            raise RegistryError(
                "a net over a graph needs torch_geometric: pip install 'conceptguard[graphs]'"
            ) from None
        self.emoji, self.keywords = list(emoji), list(keywords)
        self.nodes = nn.Embedding(len(emoji) + len(keywords), width)
        self.conv1, self.conv2 = GCNConv(width, 2 * width), GCNConv(2 * width, width)
        self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("edges", edges.long(), persistent=False)

    def embedded(self, edges: Tensor | None = None) -> Tensor:
        """Every node, emoji first: [nodes, width]."""
        pairs = self.edges if edges is None else edges
        along = torch.stack([pairs[:, 0], pairs[:, 1] + len(self.emoji)])
        both = torch.cat([along, along.flip(0)], 1)
        return self.conv2(self.conv1(self.nodes.weight, both).relu(), both)

    def between(self, embedded: Tensor, pairs: Tensor) -> Tensor:
        """Logits of pairs, [n]."""
        ends = embedded[pairs[:, 0]], embedded[pairs[:, 1] + len(self.emoji)]
        return (ends[0] * ends[1]).sum(1) + self.bias

    def forward(self, pairs: Tensor, edges: Tensor | None = None) -> Tensor:
        """As above."""
        return self.between(self.embedded(edges), pairs)

    def matching(self, prompts: list[str]) -> Tensor:
        """Which edges [e] a concept's prompts mean: all of a keyword, or one as ``EMOJI/KEYWORD``. Raises PolicyError
        for a keyword or an edge that the graph does not have, and where nothing or everything would be forgotten."""
        found = torch.zeros(len(self.edges), dtype=torch.bool, device=self.edges.device)
        for prompt in prompts:
            emoji, _, keyword = prompt.rpartition("/")
            if keyword not in self.keywords or (emoji and emoji not in self.emoji):
                raise PolicyError(
                    f"the graph has no '{prompt}': name a keyword such as {self.keywords[0]}, or EMOJI/KEYWORD"
                )
            own = self.edges[:, 1] == self.keywords.index(keyword)
            if emoji:
                own &= self.edges[:, 0] == self.emoji.index(emoji)
            if not bool(own.any()):
                raise PolicyError(f"the graph has no edge '{prompt}', so that nothing is to be forgotten")
            found |= own
        if bool(found.all()):
            raise PolicyError("the forget set is everything: nothing would be left to retain; name fewer edges")
        return found
