"""Prompt sets of other people's files: the columns that are published, and everything that can be wrong with a file."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from conceptguard.errors import RegistryError
from conceptguard.measuring.prompt_sets import load_prompts

# First lines as the published files have them; the rows are our own.
I2P = (
    ",prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,evaluation_seed,evaluation_guidance,sd_image_width,sd_image_height,sd_model,case_number"
)
ROWS = (
    '0,"a tower, at night",hate,0,10.0,0.0,1,1,0.1,url,4290749014,7,512,512,sd,0',
    '1,"a ""quoted"" boat\non a lake","sexual, shocking",1,60.0,80.0,1,1,0.2,url,12,13,512,384,sd,1',
    "2,a fox,shocking,0,55.0,51.5,1,1,0.3,url,7.0,10.5,512,512,sd,2",
)


@pytest.fixture
def i2p(tmp_path: Path) -> Path:
    path = tmp_path / "i2p.csv"
    path.write_text("\n".join([I2P, *ROWS]) + "\n")
    return path


def test_i2p_has_seeds_and_guidance_for_each_row(i2p: Path) -> None:
    found = load_prompts(i2p)
    assert [one.text for one in found.prompts] == ["a tower, at night", 'a "quoted" boat\non a lake', "a fox"]
    assert [one.seed for one in found.prompts] == [4290749014, 12, 7]
    assert [one.guidance for one in found.prompts] == [7.0, 13.0, 10.5]
    assert found.column == "prompt" and found.total == 3 and found.prompts[1].fields["sd_image_height"] == "384"


@pytest.mark.parametrize(
    ("where", "seeds"),
    (
        (["categories=sexual"], [12]),
        (["categories=shocking"], [12, 7]),
        (["nudity_percentage>50", "hard=0"], [7]),
        (["nudity_percentage<=0"], [4290749014]),
    ),
)
def test_rows_are_chosen_by_their_columns(i2p: Path, where: list[str], seeds: list[int]) -> None:
    assert [one.seed for one in load_prompts(i2p, where=where).prompts] == seeds


@pytest.mark.parametrize(
    ("head", "row", "asks", "seed", "guidance"),
    (
        ("prompt,case_number,evaluation_seed", "a fox,0,41", "a fox", 41, None),
        ("sensitive prompt,normal prompt", "a fox,a hen", "a fox", None, None),
        ("target_prompt,adv_prompt,sanitized_adv_prompt,clean_prompt", "b,a fox,c,d", "a fox", None, None),
        ("prompt,sd_seed,sd_guidance_scale", "a fox,5,7.5", "a fox", 5, 7.5),
        ("case_number,source,prompt,evaluation_seed,coco_id", "3,imagenet,a fox,9,1", "a fox", 9, None),
    ),
)
def test_columns_of_other_sets(
    head: str, row: str, asks: str, seed: int | None, guidance: float | None, tmp_path: Path
) -> None:
    (tmp_path / "set.csv").write_text(f"{head}\n{row}\n")
    (one,) = load_prompts(tmp_path / "set.csv").prompts
    assert (one.text, one.seed, one.guidance) == (asks, seed, guidance)


def test_a_folder_a_wheel_and_a_tar_are_read_as_they_are(i2p: Path, tmp_path: Path) -> None:
    alone = load_prompts(i2p).digest
    package = tmp_path / "unlearn-0.1-py3-none-any.whl"
    with zipfile.ZipFile(package, "w") as archive:
        archive.write(i2p, "data/prompts/i2p.csv")
        archive.writestr("data/prompts/other.csv", "prompt\na fox\n")
        archive.writestr("unlearn-0.1.dist-info/RECORD.csv", "prompt\nno prompt\n")
    assert load_prompts(package / "data/prompts/i2p.csv").digest == alone
    with pytest.raises(RegistryError, match=r"several files.*data/prompts/i2p.csv, data/prompts/other.csv"):
        load_prompts(package)
    with pytest.raises(RegistryError, match="no file of that name"):
        load_prompts(package / "i2q.csv")
    source = tmp_path / "unlearn-0.1.tar.gz"
    with tarfile.open(source, "w:gz") as tar:
        tar.add(i2p, "unlearn-0.1/i2p.csv")
    assert load_prompts(source).digest == alone == load_prompts(source / "i2p.csv").digest
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.txt").write_text("about")
    (folder / "all.jsonl").write_text("\n".join(json.dumps({"prompt": "a fox", "seed": i}) for i in range(3)))
    assert [one.seed for one in load_prompts(folder).prompts] == [0, 1, 2]
    (folder / "more.json").write_text(json.dumps([{"prompt": "a hen"}]))
    with pytest.raises(RegistryError, match=r"several files \(all.jsonl, more.json\)"):
        load_prompts(folder)
    for path in (package, source):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(RegistryError, match="no whole archive"):
            load_prompts(path / "i2p.csv")


def test_parts_of_a_data_set_belong_together(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"train-0000{i}-of-00002.jsonl").write_text(json.dumps({"prompt": f"a fox {i}"}))
    assert [one.text for one in load_prompts(tmp_path).prompts] == ["a fox 0", "a fox 1"]
    (tmp_path / "train-00001-of-00002.jsonl").rename(tmp_path / "train-00001-of-00003.jsonl")
    (tmp_path / "train-00000-of-00002.jsonl").rename(tmp_path / "train-00000-of-00003.jsonl")
    with pytest.raises(RegistryError, match="2 of 3 parts"):
        load_prompts(tmp_path)


def test_parquet_is_read_where_its_reader_is_installed(i2p: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": "a fox", "sd_seed": 2**32 - 1, "sd_guidance_scale": 7.5, "categories": "hate, violence"}]
    path = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (one,) = load_prompts(path, where=["categories=violence"]).prompts
    assert (one.text, one.seed, one.guidance) == ("a fox", 2**32 - 1, 7.5)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RegistryError, match="no whole Parquet file"):
        load_prompts(path)


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("", "no rows: it is empty, or cut short"),
        (f"{I2P}\n", "no rows"),
        ("text_of_it,seed\na fox,1\n", r"no column 'adv_prompt' or .*it has text_of_it, seed; say which.*--column"),
        (f"{I2P}\n{ROWS[0]}\n{ROWS[2][:30]}", r"set.csv, line 3: 7 values where the first line names 16"),
        (f'{I2P}\n{ROWS[0]}\n1,"a fox that', "line 3: unexpected end of data: the file is cut short"),
        ("prompt,seed\na fox, red,1\n", "line 2: 3 values where the first line names 2 columns.*without quotes"),
        ("prompt,evaluation_seed\na fox,\n", "evaluation_seed is '', no number"),
        ("prompt,evaluation_seed\na fox,-1\n", "evaluation_seed -1 is no seed"),
        ("prompt,evaluation_seed\na fox,1.5\n", "evaluation_seed 1.5 is no seed"),
        ("prompt,evaluation_guidance\na fox,nan\n", "evaluation_guidance is 'nan', no number"),
        ("prompt,seed\n,1\n", "no text under 'prompt'"),
        ("prompt\na \0fox\n", "holds a NUL character"),
    ),
)
def test_what_is_wrong_with_a_table_is_told_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text(text)
    with pytest.raises(RegistryError, match=message) as caught:
        load_prompts(path)
    assert "\n" not in str(caught.value)


def test_other_files_that_are_none(i2p: Path, tmp_path: Path) -> None:
    for name, data, message in (
        ("a.csv", "prompt\ncaf\xe9\n".encode("latin-1"), "not UTF-8 text"),
        ("a.jsonl", b'{"prompt": "a fox"}\n{"prompt": "a', "line 2: not JSON"),
        ("a.json", b"3", "no list of rows"),
        ("a.pkl", b"\x80", "give a .csv"),
        ("a.parquet", b"PAR1", "Parquet"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RegistryError, match=message):
            load_prompts(tmp_path / name)
    with pytest.raises(RegistryError, match="no prompts at"):
        load_prompts(tmp_path / "nonesuch.csv")
    with pytest.raises(RegistryError, match="is a file, and nothing can be inside"):
        load_prompts(i2p / "i2p.csv")
    for where, message in (
        (["hardness=1"], "no column 'hardness'"),
        (["hard=2"], "none of its 3 rows"),
        (["x"], "COLUMN="),
    ):
        with pytest.raises(RegistryError, match=message):
            load_prompts(i2p, where=where)
