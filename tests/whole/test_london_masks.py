"""Tests of examples/london_masks.py on a small synthetic download."""

import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from examples import london_masks
from folds.data.layout import read_layout

IDS = ("001", "002", "005", "009", "010", "012")
SIZE = 90


def landmarks() -> np.ndarray:
    """Return 189 landmarks; those that the script uses outline a face."""
    point = np.full((london_masks.NUM_LANDMARKS, 2), SIZE / 2)
    angle = np.linspace(0, np.pi, len(london_masks.JAW))
    point[london_masks.JAW] = SIZE / 2 - SIZE / 5 * np.stack([np.cos(angle), -np.sin(angle)], 1)
    point[[111, 118], 0] = SIZE * 0.3
    point[[114, 124], 0] = SIZE * 0.7
    return point


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """Return the unpacked download: six people, one without an age. It is read-only."""
    root = tmp_path_factory.mktemp("download")
    rng = np.random.default_rng(0)
    lines = [f"{x:.3f}\t{y:.3f}" for x, y in landmarks()]
    template = "\n".join([str(len(lines)), *lines, "0"])
    for folder, suffix in (("neutral_front", "03"), ("smiling_front", "08")):
        (root / folder).mkdir()
        for one in IDS:
            pixels = rng.integers(60, 200, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{one}_{suffix}.jpg")
            (root / folder / f"{one}_{suffix}.tem").write_text(template)
    rows = ["face_id,face_age,face_gender,face_eth"]
    rows += [
        f"{one},{20 + 5 * i},{'male' if i % 2 else 'female'},white" for i, one in enumerate(IDS)
    ]
    rows[3] = "005,NA,male,east_asian"
    rows[4] = "009,33,male,east_asian/white"
    (root / "london_faces_info.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def made(download, tmp_path_factory):
    """Return the data set that the script makes. It is read-only."""
    output = tmp_path_factory.mktemp("made") / "london_masks"
    assert london_masks.main([str(download), str(output)]) == 0
    return output


def contents(root):
    """Return the bytes of all files in a folder."""
    return {
        str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()
    }


def packed(download, folder):
    """Return the files of a download with the photographs in zip files, as they are published."""
    shutil.copy(download / "london_faces_info.csv", folder)
    for name in london_masks.PHOTO_ZIPS:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for file in sorted((download / name.removesuffix(".zip")).iterdir()):
                archive.write(file, f"{file.parent.name}/{file.name}")
                archive.writestr(f"__MACOSX/{file.parent.name}/._{file.name}", b"x")
    return sorted(folder.iterdir())


def test_the_layout_is_read_as_a_data_set(made):
    manifest = read_layout(made)
    table = pd.read_csv(made / "train" / "train.csv", dtype=str)
    assert list(table.columns) == ["id", "gender", "race", "age", "path"]
    assert len(table) == 4
    assert len(manifest.train) == 4 * 7
    assert len(pd.read_csv(made / "eval" / "info.csv")) == 7
    asian = table.set_index("id").race == "Asian"
    assert asian[asian].index.isin(["000009"]).all()
    with Image.open(made / "train" / "images" / table.path[0] / "mask1.jpg") as image:
        assert image.size == (384, 512)
    assert "CC BY 4.0" in (made / "README.md").read_text()


def test_the_published_people_are_split_as_in_the_reported_figures():
    people = [london_masks.Person(f"{i:03d}", "male", "Other", 30) for i in range(100)]
    train, test = london_masks.split(people)
    assert (len(train), len(test)) == (80, 20)
    assert [int(one.face_id) for one in train[:4]] == [37, 17, 61, 18]
    assert [int(one.face_id) for one in test[:4]] == [2, 97, 76, 32]


def test_zip_files_give_the_same_bytes(made, download, tmp_path):
    zips = tmp_path / "zips"
    zips.mkdir()
    files = packed(download, zips)
    whole = tmp_path / "5047666.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        for file in files:
            archive.write(file, file.name)
    for name, downloads in (("folder", [zips]), ("files", files), ("whole", [whole])):
        output = tmp_path / name
        assert london_masks.main([*map(str, downloads), str(output)]) == 0
        assert contents(output) == contents(made), name


def test_an_earlier_table_gives_the_same_labels(made, download, tmp_path):
    table = (download / "london_faces_info.csv").read_text().replace("face_gender", "face_sex")
    lines = table.splitlines()
    earlier = "\n".join([lines[0], *("X" + line for line in lines[1:])])
    files = {"london_faces_info.csv": earlier.encode}
    people = london_masks.read_people(files, "download")
    train, _ = london_masks.split(people)
    table = pd.read_csv(made / "train" / "train.csv", dtype=str)
    assert [one.folder for one in train] == list(table.path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda root: (root / "london_faces_info.csv").unlink(),
            ["london_faces_info.csv", "missing"],
        ),
        (
            lambda root: (root / "neutral_front" / "009_03.tem").unlink(),
            ["1 file of neutral_front.zip", "009_03.tem"],
        ),
        (lambda root: shutil.rmtree(root / "smiling_front"), ["5 files of smiling_front.zip"]),
        (
            lambda root: (root / "london_faces_info.csv").write_text("a,b\n1,2\n"),
            ["london_faces_info.csv", "face_id"],
        ),
        (
            lambda root: (root / "neutral_front" / "009_03.tem").write_text("3\n1 2\n"),
            ["009_03.tem", "189 landmarks"],
        ),
        (
            lambda root: (root / "smiling_front" / "001_08.jpg").write_bytes(b"not an image"),
            ["001_08.jpg", "cannot be read"],
        ),
        (lambda root: (root / "neutral_front.zip").write_bytes(b"half"), ["not a complete zip"]),
    ],
)
def test_a_damaged_download_gives_one_line_and_no_output(
    damage, words, download, tmp_path, command_of
):
    root = shutil.copytree(download, tmp_path / "copy")
    damage(root)
    done = command_of(london_masks.main)(root, tmp_path / "out" / "london_masks")
    done.assert_one_line_error(*words)
    assert not list((tmp_path / "out").glob("*"))


def test_files_that_exist_are_kept(download, tmp_path, command_of):
    (tmp_path / "london_masks").mkdir()
    (tmp_path / "london_masks" / "mine.txt").write_text("keep")
    done = command_of(london_masks.main)(download, tmp_path / "london_masks")
    done.assert_one_line_error("london_masks", "exists already")
    assert (tmp_path / "london_masks" / "mine.txt").read_text() == "keep"
    command_of(london_masks.main)(tmp_path / "absent", tmp_path / "new").assert_one_line_error(
        "absent", london_masks.SOURCE
    )
