"""Tests that every command of README and docs runs, on small data and with a small model.

`make demo`, `make test` and `make docs` are run by CI or by other tests.
"""

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from foldblend import commands
from foldblend.runs.run import Run
from tests.makers.constants import ROOT
from tests.makers.ray_clusters import ray_nodes
from tests.makers.torchruns import torchrun

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Appended to each run, so that it takes seconds. If a flag is given twice, the last value counts.
SMALL = {
    "--folds": 2,
    "--epochs": 3,
    "--img-size": 32,
    "--pretrained": "none",
    "--batch-size": 8,
    "--workers": 0,
    "--threads": 1,
}
BACKBONES = {
    "tf_efficientnet_lite0": "test_efficientnet",
    "tf_efficientnet_lite1": "test_resnet",
    "tf_efficientnet_lite2": "test_vit",
    "resnet50": "test_resnet",
}
# Commands that another test covers.
ELSEWHERE = {
    "examples/london_masks.py": "tests/whole/test_london_masks.py",
    "-m docs.generate": "tests/whole/test_documentation.py",
    # It goes on until Ctrl-C.
    "leaderboard.py --watch": "tests/reports/test_watch.py",
}


def blocks_of(page, languages):
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```", text, re.M | re.S):
        if found[2] in languages:
            yield found[3]


def commands_of(page, program="python"):
    """Return the commands of a page's blocks: words after the program, without comments."""
    found = []
    for block in blocks_of(page, ("", "sh", "bash")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith(f"{program} "):
                found.append(shlex.split(line.strip(), comments=True)[1:])
    return found


COMMANDS = {page.name: commands_of(page) for page in PAGES}


def write_images(folder, names, rng):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), rng.integers(0, 255, (48, 48, 3), np.uint8))


def write_predictions(prefix, ids, fold_N, test_ids, classes, rng):
    """Write random probabilities as another library does, out of fold and of two test folds."""

    def table(names):
        proba_NC = rng.dirichlet(np.ones(len(classes)), len(names))
        return pd.DataFrame(proba_NC, columns=list(classes)).assign(image_id=list(names))

    table(ids).assign(fold=np.asarray(fold_N)).to_csv(f"{prefix}oof.csv", index=False)
    for fold in (0, 1):
        table(test_ids).to_csv(f"{prefix}test_fold_{fold}.csv", index=False)


@pytest.fixture
def place(tmp_path, tiny_layout, tiny_runs, monkeypatch):
    """Return a folder with the data, runs and files that the commands use."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    Path("london_masks").symlink_to(tiny_layout)
    for name in ("recipes", "examples"):
        Path(name).symlink_to(ROOT / name)
    images = [f"images/{number:03d}.png" for number in range(48)]
    write_images(tmp_path, images, rng)
    write_images(tmp_path, ["new/0001.jpg", "new/0002.jpg"], rng)
    table = pd.DataFrame({"image": images, "label": ["naevus", "melanoma"] * 24})
    table["patient"] = [f"p{number // 4:02d}" for number in range(48)]
    # Columns that a blend may learn from.
    table["age"] = rng.integers(20, 90, len(table))
    table["site"] = [("face", "back", "")[number % 3] for number in range(48)]
    table.to_csv("moles.csv", index=False)
    table[["image"]].head(6).to_csv("moles_test.csv", index=False)
    older = [f"older/{number}.png" for number in range(8)]
    write_images(tmp_path, older, rng)
    extra = pd.DataFrame({"image": older, "label": ["naevus", "melanoma"] * 4})
    extra.assign(patient="p99").to_csv("older_moles.csv", index=False)
    # Patients of one class each, and what another library predicts of them.
    number_N = np.arange(48) // 4
    patients = table.assign(label=np.where(number_N % 2, "naevus", "melanoma"))
    for name in ("patients.csv", "train.csv"):
        patients.to_csv(name, index=False)
    held = [f"new/{number}.png" for number in range(6)]
    write_predictions("", images, number_N // 2 % 2, held, ["melanoma", "naevus"], rng)
    write_images(
        tmp_path,
        [
            f"photos/{kind}/IMG_{'ab'.index(kind)}{n // 2}_{n}.jpg"
            for kind in "ab"
            for n in range(12)
        ],
        rng,
    )
    person = next(iter(sorted((tiny_layout / "train" / "images").iterdir()))).name
    Path("corrections.csv").write_text(f"target,field,value\n{person},gender,flip\n")
    for name in ("RUN", "a"):
        shutil.copytree(tiny_runs / "alpha", f"outputs/{name}")
    run = Run(Path("outputs/RUN"))
    rows = run.oof[["image_id", "fold"]]
    write_predictions("sk_", rows["image_id"], rows["fold"], run.test["image_id"], run.classes, rng)
    shutil.copytree(tiny_runs / "beta", "outputs/b")
    return tmp_path


def small(words):
    """Return the arguments of a command, changed so that it runs in seconds."""
    script, *rest = words
    if script not in ("run_cv.py", "tune.py", "plan.py") or "--plan" in rest:
        return rest
    rest = ["london_masks" if word == "demo" else word for word in rest]
    if "--backbone" in rest:
        at = rest.index("--backbone") + 1
        rest[at] = BACKBONES.get(rest[at], rest[at])
    else:
        rest += ["--backbone", "test_resnet"]
    # A fold file determines the number of folds.
    left_out = {"--folds"} if "--fold-file" in rest else set()
    flags = [str(word) for pair in SMALL.items() if pair[0] not in left_out for word in pair]
    if "--pseudo-from" in rest:
        # Models of a moment are sure of nothing.
        flags += ["--pseudo-threshold", "0.02"]
    few = {"tune.py": ["--trials", "3"], "plan.py": ["--finetune", "head", "--views", "none"]}
    return [*rest, *flags, *few.get(script, []), "--no-page"]


def expanded(words):
    """Return the words with patterns expanded; outputs/* are the two runs of one data set."""
    found = []
    for word in words:
        word = word.replace("/shared/", "").replace("$SLURM_ARRAY_TASK_ID", "0")
        if word == "outputs/*":
            found += ["outputs/a", "outputs/b"]
        elif "*" in word:
            found += sorted(map(str, Path().glob(word)))
        else:
            found.append(word)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, found in COMMANDS.items() if found])
def test_the_commands_of_a_page_run(page, place, capsys, monkeypatch):
    with contextlib.ExitStack() as stack:
        if any("ray" in words for words in COMMANDS[page]):
            monkeypatch.setenv("RAY_ADDRESS", stack.enter_context(ray_nodes(1)).address)
        run_commands(page, capsys)


def run_commands(page, capsys):
    for number, words in enumerate(COMMANDS[page]):
        script = words[0]
        if script in ELSEWHERE or " ".join(words[:2]) in ELSEWHERE:
            continue
        # Benchmarks take minutes, so only their flags are checked.
        if script.startswith("benchmarks/"):
            shown = subprocess.run(
                [sys.executable, script, "--help"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert all(word in shown for word in words[1:] if word.startswith("--")), words
            continue
        argv = expanded(small(words))
        if script.startswith("examples/"):
            fewer = ["96" if word == "2000" else word for word in argv]
            subprocess.run([sys.executable, script, *fewer], check=True)
            continue
        if "blend.yaml" in " ".join(argv):
            made = ["outputs/a", "outputs/b", "--method", "soft", "--name", "blend_1a2b3c4d"]
            assert commands.COMMANDS["blend"]
            assert commands.blend(made) == 0
        if script == "run_cv.py" and "--name" not in argv:
            argv += ["--name", f"run{number}"]
        if script == "tune.py":
            argv += ["--study", f"study{number}"]
        if script in ("blend.py", "run_tta.py"):
            argv += ["--overwrite", "--no-page"]
        if script in ("predict.py", "export_model.py"):
            argv += ["--overwrite"]
        if script == "blend.py" and "--name" not in argv and "--config" not in argv:
            argv += ["--name", f"blend{number}"]
        code = getattr(commands, Path(script).stem)(argv)
        assert code == 0, f"{page}: {' '.join(words)}\n{capsys.readouterr().err}"


@pytest.mark.slow
def test_the_commands_of_torchrun_run(place):
    found = [words for page in PAGES for words in commands_of(page, "torchrun")]
    assert found
    for number, words in enumerate(found):
        flag, num, script, *rest = words
        assert flag == "--nproc-per-node"
        ran = torchrun(int(num), ROOT / script, *small([script, *rest]), "--name", f"of{number}")
        assert ran.returncode == 0, ran.stderr


def test_the_script_of_every_command_exists():
    for page, found in COMMANDS.items():
        for words in found:
            if words[0] != "-m":
                assert (ROOT / words[0]).is_file(), f"{page}: {words[0]}"
