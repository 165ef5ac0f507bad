"""What ordinary captions look like to an encoder is measured once, and holds for that very encoder alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_sd

from conceptguard.hosts.diffusers.host import DiffusersHost
from conceptguard.runtime import encodings
from conceptguard.runtime.encodings import EncodingCache, ordinary_captions
from conceptguard.runtime.kept_captions import keep, recall


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where they are kept; nothing is remembered in the process."""
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(tmp_path))
    monkeypatch.setattr(encodings, "_of_weights", type(encodings._of_weights)())
    return tmp_path / "captions"


def asked(pipe: Any) -> tuple[EncodingCache, list[int]]:
    """What is known of an encoder as a new process finds it, and how many texts it was given for that."""
    encodings._of_weights.clear()
    encodings._known.clear()
    counts: list[int] = []
    embed = pipe.text_encoder.get_input_embeddings()
    handle = embed.register_forward_hook(lambda module, args, output: counts.append(len(args[0])))
    host = DiffusersHost(pipe)
    known = host.encoding_cache()
    known.ordinary_of(host.read)
    handle.remove()
    return known, counts


def test_a_second_process_reads_no_caption(tokenizer: Any, folder: Path) -> None:
    first, read = asked(tiny_sd(tokenizer))
    assert sum(read) >= len(ordinary_captions())
    second, read = asked(tiny_sd(tokenizer))
    assert sum(read) <= 2  # the probe, whole and short
    assert torch.equal(first.ordinary.mean, second.ordinary.mean)
    assert torch.equal(first.ordinary.whitening, second.ordinary.whitening)
    assert first.ordinary.having == second.ordinary.having
    assert all(torch.equal(own, second.texts[text][0]) for text, (own, _) in first.texts.items())
    assert [ids for _, ids in first.texts.values()] == [second.texts[text][1] for text in first.texts]


def test_other_weights_are_measured_anew(tokenizer: Any, folder: Path) -> None:
    """Also where only a word differs that the probe does not have."""
    asked(tiny_sd(tokenizer))
    other = tiny_sd(tokenizer)
    with torch.no_grad():
        other.text_encoder.get_input_embeddings().weight[tokenizer("street").input_ids[1]] += 1
    _, read = asked(other)
    assert sum(read) >= len(ordinary_captions())
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "nan"])
def test_a_damaged_file_is_measured_anew_and_replaced(damage: str, tokenizer: Any, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    good, _ = asked(tiny_sd(tokenizer))
    (path,) = folder.iterdir()
    if damage == "nan":
        tensors = load_file(path)
        tensors["whitening"][0, 0] = float("nan")
        save_file(tensors, path, {"ids": "[]", "lengths": "[]"})
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "cut" else 0])
    again, read = asked(tiny_sd(tokenizer))
    assert sum(read) >= len(ordinary_captions())
    assert torch.equal(good.ordinary.whitening, again.ordinary.whitening)
    assert sum(asked(tiny_sd(tokenizer))[1]) <= 2


def test_a_tokenizer_that_cuts_otherwise_is_measured_anew(tokenizer: Any, folder: Path) -> None:
    pipe = tiny_sd(tokenizer)
    asked(pipe)
    encodings._of_weights.clear()
    encodings._known.clear()
    host = DiffusersHost(pipe)
    known = host.encoding_cache()
    known.tokens = lambda texts: [[1, 2] for _ in texts]
    read: list[int] = []
    known.short = lambda texts: (read.append(len(texts)), host.read_short(texts))[1]
    known.ordinary_of(host.read)
    assert sum(read) == len(ordinary_captions())


def test_where_the_cache_cannot_be_written_it_is_measured_each_time(
    tokenizer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "file").write_text("in the way")
    monkeypatch.setenv("CONCEPTGUARD_CACHE", str(folder.parent / "file"))
    known, _ = asked(tiny_sd(tokenizer))
    assert known.ordinary is not None


def test_several_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path, captions = tmp_path / "captions" / "one.safetensors", [f"caption {i}" for i in range(200)]
    texts = {text: (torch.full((3, 64), float(i)), [i, i + 1]) for i, text in enumerate(captions)}
    measured = {"probe": torch.ones(1, 2, 3), "mean": torch.arange(64.0)}

    def write(times: int) -> None:
        for _ in range(times):
            keep(path, measured, texts)
            found = recall(path, torch.ones(1, 2, 3), captions, lambda asked: [texts[text][1] for text in asked])
            assert found is not None and torch.equal(found[0]["mean"], measured["mean"])
            assert all(torch.equal(own, texts[text][0]) for text, (own, _) in found[1].items())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [4] * 4))
    assert [one.name for one in path.parent.iterdir()] == [path.name]
