"""Make the data set `london_masks`: drawn masks on real faces, in the mask competition's layout.

    python examples/london_masks.py DOWNLOAD london_masks
    python run_cv.py --data london_masks --config recipes/quick.yaml

The photographs are the Face Research Lab London Set (DeBruine and Jones 2017, CC BY 4.0). Download
`neutral_front.zip`, `smiling_front.zip` and `london_faces_info.csv` from
https://doi.org/10.6084/m9.figshare.5047666 (about 90 MB). DOWNLOAD is the folder that holds them,
with the zip files as they are or unpacked. Single files work too, and so does the one zip file of
"Download all".

Each of the 100 people whose age is known gets seven images of 384 x 512 pixels: five with a mask,
one with a mask below the nose (`incorrect_mask`) and one without a mask (`normal`, the smiling
photograph). 80 people are the training set, 20 people the test set, whose labels are not written.
The same download always gives the same images, split and labels. It takes about 3 minutes on two
CPU cores.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import io
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, UnidentifiedImageError

from foldblend.cli import run_command
from foldblend.errors import UserError, counted, listed, require
from foldblend.progress import lines_to, track

SOURCE = "https://doi.org/10.6084/m9.figshare.5047666"
PHOTO_ZIPS = ("neutral_front.zip", "smiling_front.zip")
# The second name is the one that the R package webmorphR.stim gives the same table.
INFO_NAMES = ("london_faces_info.csv", "london_info.csv")
NUM_PEOPLE = 100
SPLIT_SEED = 20261121
DRAWING_SEED = 7
TEST_SHARE = 5
WIDTH = 384
HEIGHT = 512

# Indices of the landmarks that the photographs come with; 0-based, 189 for each face.
NUM_LANDMARKS = 189
JAW = np.arange(125, 134)
CHIN = 129
NOSE = 52
# Edge of a worn mask across the nose, from one cheek to the other; a pair means its middle.
WORN_EDGE = ((114,), (58, 59), (52, 53), (111,))
# Edge of a mask that leaves the nose free, along the upper lip.
LOW_EDGE = ((133,), (93, 163), (172,), (170,), (87, 160), (125,))
# From a mask's corner to the ear.
STRAPS = ((111, 118), (114, 124))

Colour = tuple[int, int, int]
CLOTHS: tuple[Colour, ...] = (
    (235, 240, 245),
    (40, 40, 45),
    (120, 180, 220),
    (200, 120, 130),
    (95, 115, 85),
    (190, 170, 140),
)

README = f"""# london_masks

Drawn masks on real faces, in the layout of a mask competition: `train/train.csv` and
`train/images/` with labels, `eval/info.csv` and `eval/images/` without. Made by
`examples/london_masks.py` of foldblend. Nobody is 60 or older, so 12 of the 18 classes occur.

Source: DeBruine, L. and Jones, B. (2017). Face Research Lab London Set. figshare.
{SOURCE}, licensed CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/).
Changes: masks drawn; images cropped, rotated and resized; brightness and colour varied.
"""

Files = dict[str, Callable[[], bytes]]
"""File name -> function that reads the file."""


@dataclass(frozen=True)
class Person:
    """One person of the set, with the labels that the photographs' table gives."""

    face_id: str
    gender: str
    race: str
    age: int

    @property
    def number(self) -> str:
        """The id of six digits that the layout uses."""
        return f"{int(self.face_id):06d}"

    @property
    def folder(self) -> str:
        """The folder of the person's training images."""
        return f"{self.number}_{self.gender}_{self.race}_{self.age}"


def find_files(downloads: Sequence[Path]) -> Files:
    """Return the files of a download by name, including those in zip files."""
    files: Files = {}
    for path in downloads:
        require(path.exists(), f"{path}: does not exist; download the photographs from {SOURCE}")
        if path.is_dir():
            # Unpacked photographs come first, because they are faster to read.
            inside = [file for file in path.rglob("*") if file.is_file()]
            for file in sorted(inside, key=lambda file: (file.name in PHOTO_ZIPS, file)):
                _add_file(files, file, file.name in PHOTO_ZIPS)
        else:
            _add_file(files, path, path.suffix == ".zip")
    return files


def _add_file(files: Files, path: Path, is_zip: bool) -> None:
    if is_zip:
        try:
            _add_zip(files, zipfile.ZipFile(path))
        except zipfile.BadZipFile:
            raise UserError(f"{path}: is not a complete zip file; download it again") from None
    else:
        files.setdefault(path.name, path.read_bytes)


def _add_zip(files: Files, archive: zipfile.ZipFile) -> None:
    for name in archive.namelist():
        base = name.rpartition("/")[2]
        if base in PHOTO_ZIPS:
            _add_zip(files, zipfile.ZipFile(io.BytesIO(archive.read(name))))
        # Archives made on macOS hold a ._ file for each file.
        elif base and not base.startswith("._"):
            files.setdefault(base, functools.partial(archive.read, name))


def read_people(files: Files, where: str) -> list[Person]:
    """Return the people whose age is known, sorted by id."""
    name = next((name for name in INFO_NAMES if name in files), None)
    if name is None:
        raise UserError(f"{where}: {INFO_NAMES[0]} is missing; download it from {SOURCE}")
    people = []
    for row in csv.DictReader(io.StringIO(files[name]().decode("utf-8-sig"))):
        # Earlier versions of the table write X001 for 001, and face_sex for face_gender.
        gender = row.get("face_gender") or row.get("face_sex")
        face_id = (row.get("face_id") or "").strip().removeprefix("X")
        age = (row.get("face_age") or "").strip()
        if not gender or not re.fullmatch(r"\d+", face_id):
            columns = "face_id, face_age, face_gender and face_eth"
            raise UserError(f"{name}: needs the columns {columns}; download it from {SOURCE}")
        if age in ("", "NA"):
            continue
        race = "Asian" if "asian" in (row.get("face_eth") or "") else "Other"
        people.append(Person(face_id, gender, race, int(float(age))))
    return sorted(people, key=lambda person: int(person.face_id))


def check_photographs(files: Files, people: Sequence[Person], where: str) -> None:
    """Raise UserError if a photograph or its landmarks are missing."""
    wanted = {
        PHOTO_ZIPS[0]: [f"{one.face_id}_03{end}" for one in people for end in (".jpg", ".tem")],
        PHOTO_ZIPS[1]: [f"{one.face_id}_08.jpg" for one in people],
    }
    for archive, names in wanted.items():
        missing = [name for name in names if name not in files]
        require(
            not missing,
            f"{where}: {counted(len(missing), 'file')} of {archive} missing ({listed(missing)}); "
            f"download {archive} from {SOURCE}",
        )


def split(people: Sequence[Person]) -> tuple[list[Person], list[Person]]:
    """Return the people of the training set and of the test set, in a fixed random order."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(people))
    train = [people[i] for rank, i in enumerate(order) if rank % TEST_SHARE != TEST_SHARE - 1]
    test = [people[i] for rank, i in enumerate(order) if rank % TEST_SHARE == TEST_SHARE - 1]
    return train, test


def read_landmarks(files: Files, name: str) -> np.ndarray:
    """Return the landmarks of a photograph as x and y in pixels, 189 x 2."""
    lines = files[name]().decode("ascii", "replace").split("\n")
    try:
        points = np.array([[float(v) for v in line.split()[:2]] for line in lines[1:190]])
    except ValueError:
        points = np.empty(0)
    require(
        points.shape == (NUM_LANDMARKS, 2),
        f"{name}: is not a file of {NUM_LANDMARKS} landmarks; download {PHOTO_ZIPS[0]} again",
    )
    return points


def read_photograph(files: Files, name: str) -> Image.Image:
    """Return a photograph in RGB."""
    try:
        return Image.open(io.BytesIO(files[name]())).convert("RGB")
    except (UnidentifiedImageError, OSError):
        raise UserError(f"{name}: cannot be read as an image; download its zip again") from None


def light_of(photo: Image.Image) -> np.ndarray:
    """Return how bright the surroundings of each pixel are, height x width, about 1."""
    blurred = photo.convert("L").filter(ImageFilter.GaussianBlur(25))
    return np.clip(np.asarray(blurred, float) / 160, 0.6, 1.1)


def with_mask(
    photo: Image.Image,
    light: np.ndarray,
    point: np.ndarray,
    colour: Colour,
    rng: np.random.Generator,
    *,
    low: bool,
) -> Image.Image:
    """Return a photograph with a drawn mask of cloth; a low mask leaves the nose free."""
    # The photograph's light and a little noise make the cloth look like cloth.
    noise = rng.normal(0, 4, light.shape)
    shaded = np.array(colour, float) * light[..., None] + noise[..., None]
    cloth = Image.fromarray(np.clip(shaded, 0, 255).astype("uint8"))
    edge = [point[list(pair)].sum(axis=0) / len(pair) for pair in (LOW_EDGE if low else WORN_EDGE)]
    outline = [tuple(corner) for corner in np.vstack([point[JAW], edge])]
    stencil = Image.new("L", photo.size, 0)
    ImageDraw.Draw(stencil).polygon(outline, fill=255)
    masked = photo.copy()
    masked.paste(cloth, (0, 0), stencil.filter(ImageFilter.GaussianBlur(3)))
    if not low:
        canvas = ImageDraw.Draw(masked)
        for corner, ear in STRAPS:
            canvas.line([tuple(point[corner]), tuple(point[ear])], fill=colour, width=5)
    return masked


def snapshot(photo: Image.Image, point: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return a photograph cropped to the face, with random framing, angle, light and colour."""
    face = np.ptp(point[JAW, 0])
    width = face * rng.uniform(1.8, 2.6)
    height = width * HEIGHT / WIDTH
    x = (point[JAW[0], 0] + point[JAW[-1], 0]) / 2 + rng.uniform(-0.15, 0.15) * face
    y = (point[NOSE, 1] + point[CHIN, 1]) / 2 + rng.uniform(-0.15, 0.15) * face
    background = photo.getpixel((3, 3))
    angle = rng.uniform(-7, 7)
    turned = photo.rotate(angle, Image.Resampling.BICUBIC, center=(x, y), fillcolor=background)
    box = (x - width / 2, y - height * 0.55, x + width / 2, y + height * 0.45)
    cut = turned.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
    small = cut.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    lit = ImageEnhance.Brightness(small).enhance(rng.uniform(0.75, 1.2))
    return ImageEnhance.Color(lit).enhance(rng.uniform(0.7, 1.2))


def draw_person(files: Files, person: Person) -> dict[str, Image.Image]:
    """Return the seven images of a person by name."""
    rng = np.random.default_rng([DRAWING_SEED, int(person.face_id)])
    neutral = read_photograph(files, f"{person.face_id}_03.jpg")
    smiling = read_photograph(files, f"{person.face_id}_08.jpg")
    point = read_landmarks(files, f"{person.face_id}_03.tem")
    colours = [CLOTHS[index] for index in rng.permutation(len(CLOTHS))]
    names = [*(f"mask{i}" for i in range(1, 6)), "incorrect_mask"]
    images = {}
    light = light_of(neutral)
    for name, colour in zip(names, colours, strict=True):
        masked = with_mask(neutral, light, point, colour, rng, low=name == "incorrect_mask")
        images[name] = snapshot(masked, point, rng)
    # The landmarks of the neutral photograph are close enough to frame the smiling one.
    images["normal"] = snapshot(smiling, point, rng)
    return images


def hidden_name(person: Person, name: str) -> str:
    """Return the file name of a test image, which does not give its label away."""
    return hashlib.sha1(f"{person.face_id}/{name}".encode()).hexdigest() + ".jpg"


def write_person(files: Files, person: Person, folder: Path, *, is_test: bool) -> list[str]:
    """Write the images of a person into a folder and return their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, image in draw_person(files, person).items():
        names.append(hidden_name(person, name) if is_test else f"{name}.jpg")
        image.save(folder / names[-1], quality=86)
    return names


def write_csv(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    """Write a table whose values need no quotes."""
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_all(files: Files, people: Sequence[Person], root: Path) -> None:
    """Write the whole data set into a folder."""
    train, test = split(people)
    jobs = [(one, root / "train" / "images" / one.folder, False) for one in train]
    jobs += [(one, root / "eval" / "images", True) for one in test]
    # Pillow and NumPy release the interpreter's lock, so threads share the work.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = [pool.submit(write_person, files, one, to, is_test=last) for one, to, last in jobs]
        try:
            written = [one.result() for one in track(work, "draw masks", unit="people")]
        finally:
            pool.shutdown(cancel_futures=True)
    rows = [(one.number, one.gender, one.race, one.age, one.folder) for one in train]
    write_csv(root / "train" / "train.csv", "id,gender,race,age,path", rows)
    test_ids = sorted(name for names in written[len(train) :] for name in names)
    write_csv(root / "eval" / "info.csv", "ImageID,ans", [(name, 0) for name in test_ids])
    (root / "README.md").write_text(README, encoding="utf-8")


def make_london_masks(downloads: Sequence[Path], output: Path) -> None:
    """Make the data set `london_masks`; `output` appears only when it is complete.

    Parameters
    ----------
    downloads
        The folder of the download, or its files.
    output
        The folder to make. It must not exist yet, or be empty.

    Raises
    ------
    foldblend.errors.UserError
        If files are missing or cannot be read, or if `output` holds files.
    """
    where = ", ".join(map(str, downloads))
    in_use = output.exists() and not (output.is_dir() and not any(output.iterdir()))
    require(not in_use, f"{output}: exists already; delete it or write to another folder")
    files = find_files(downloads)
    people = read_people(files, where)
    require(len(people) >= TEST_SHARE, f"{where}: fewer than {TEST_SHARE} people with an age")
    check_photographs(files, people, where)
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with lines_to(print):
            write_all(files, people, draft)
        os.replace(draft, output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    num_test = len(people) // TEST_SHARE
    print(f"{output}: {len(people) - num_test} people to train, {num_test} people to test")
    if len(people) != NUM_PEOPLE:
        print(f"the published table has {NUM_PEOPLE} people with an age, so this split differs")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and make the data set; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("download", type=Path, nargs="+", help="folder of the download, or files")
    parser.add_argument("output", type=Path, help="folder to make, such as london_masks")
    args = parser.parse_args(argv)
    return run_command(
        lambda: make_london_masks(args.download, args.output), place="OUTPUT", resumes=False
    )


if __name__ == "__main__":
    sys.exit(main())
