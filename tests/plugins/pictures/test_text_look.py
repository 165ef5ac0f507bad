"""Writing in pictures, read by the real reader: any of it, and phrases that must not be there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conceptguard_plugins.language.phrases.bank import Bank
from conceptguard_plugins.pictures.text import occurrences
from drawn import inside, look, tensor, written

from conceptguard.errors import PolicyError, Refused

THEFT = {"name": "theft", "prompts": ["stolen car", "bomb"]}
LINES = [(20, 40, "a STOLEN"), (20, 100, "car key"), (20, 200, "good day")]


@pytest.fixture(scope="module")
def note() -> torch.Tensor:
    return tensor(written(LINES))


def test_writing_is_found_where_it_is_and_blurred_there_alone(note: torch.Tensor) -> None:
    after, receipt = look({"method": "text"}, torch.cat([note, torch.full_like(note, 0.6)]), "blur")
    seen, nothing = receipt.verdicts
    assert seen.flagged and seen.label == "text" and seen.score > 0.9 and len(seen.boxes) == 3
    assert "PP-OCRv6_rec_small.onnx sha256 6f327246b50388f3" in seen.detector
    assert receipt.acts[0].notes == ["image 0 reads 'a STOLEN / car key / good day'"]
    assert not nothing.flagged and nothing.label == "nothing" and nothing.score == 0 and not nothing.boxes
    boxes = sum(inside(box, note[0]).int() for box in seen.boxes).bool()
    assert torch.equal(after[0][~boxes], note[0][~boxes]) and not torch.equal(after[0][boxes], note[0][boxes])
    assert torch.equal(after[1], torch.full_like(note[0], 0.6))
    assert not look({"method": "text"}, after[:1])[1].verdicts[0].flagged, "what is blurred is read no more"


def test_a_phrase_over_two_lines_gives_both_their_boxes(note: torch.Tensor) -> None:
    (verdict,) = look({"method": "text", "concept": THEFT}, note)[1].verdicts
    assert verdict.flagged and verdict.label == "stolen car" and verdict.guard == "text theft"
    assert len(verdict.boxes) == 2 and all(bottom < 160 for *_, bottom in verdict.boxes)


def test_other_writing_than_the_phrases_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# not on T-shirts\ngood night\nday trip\n")
    rules = tmp_path / "policy.yaml"
    rules.write_text("on_violation: reject\nguards:\n  - {method: text, file: list.txt}\n")
    import conceptguard
    from conceptguard.hosts.images import Pictures

    with conceptguard.attach(Pictures(), rules) as session:
        day = tensor(written([(20, 100, "good day")]))
        assert torch.equal(session.check_image(day, [None]), day)
        with pytest.raises(Refused, match="image 0 shows good night"):
            session.check_image(tensor(written([(20, 100, "Good night!")])), [None])


@pytest.mark.parametrize("turn", [90, 180])
def test_writing_on_its_side_or_head_is_read(turn: int) -> None:
    picture = tensor(written(LINES[:2]).rotate(turn))
    (verdict,) = look({"method": "text", "concept": {"name": "car", "prompts": ["stolen", "car"]}}, picture)[1].verdicts
    assert verdict.flagged and len(verdict.boxes) == 2


def test_small_writing_at_the_end_of_a_long_picture_is_read() -> None:
    """Made as small as the reader makes what is longer than it likes, it would be a line of dots."""
    long = tensor(written([(2700, 20, "hello")], (2800, 48), 16))
    (verdict,) = look({"method": "text"}, long)[1].verdicts
    ((left, _, right, _),) = verdict.boxes
    assert verdict.flagged and 2680 < left < 2710 and right < 2800


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["a stolen", "car"], [("stolen car", {0, 1})]),
        (["STOLENCAR"], [("stolen car", {0})]),
        (["b-o-m-b", "x"], [("bomb", {0})]),
        (["b o m b"], [("bomb", {0})]),
        (["bo mb"], []),
        (["bombs", "stolen", "scar"], []),
        (["say b0mb", "bömb"], [("bomb", {1})]),
        (["C++ now"], [("C++", {0})]),
        (["C + now"], []),
        ([], []),
    ],
)
def test_phrases_in_lines(lines: list[str], found: list[tuple[str, set[int]]]) -> None:
    assert list(occurrences(Bank(["stolen car", "bomb", "C++"]), lines)) == found


def test_a_list_without_phrases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="has no phrases"):
        (tmp_path / "empty.txt").write_text("# nothing yet\n")
        look({"method": "text", "file": str(tmp_path / "empty.txt")}, torch.ones(1, 3, 64, 64))
    with pytest.raises(PolicyError, match="holds no phrases"):
        look({"method": "text", "artifact": "emoji-sd/spm/cigarette"}, torch.ones(1, 3, 64, 64))
