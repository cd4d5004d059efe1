"""Settings from flags, YAML files and keywords, and their one-line errors."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from foldblend.cli import cli_flags, typed_settings
from foldblend.commands import COMMANDS
from foldblend.errors import UserError
from foldblend.flags import Flag, flag_name, flags_of
from foldblend.help import About, texts_of
from foldblend.runs.run import Run
from pipeline.config.command_line import parse_run_config
from pipeline.config.identity import changed_keys, identity_hash, keep_defaults
from pipeline.config.run import RunConfig, parse_size
from pipeline.config.settings import flatten, make_config, read_config_file, replace
from pipeline.config.train import AugmentConfig, LossConfig, TrainConfig
from tests.makers.constants import TINY

ROOT = Path(__file__).resolve().parents[2]


def parse(*argv):
    return parse_run_config(argv, About("run_cv.py"))


def test_every_flag_of_training_is_documented():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    groups = (TrainConfig, LossConfig, AugmentConfig)
    names = [field.name for group in groups for field in dataclasses.fields(group)]
    assert not [name for name in names if flag_name(name) not in text]


def test_flags_override_the_file_which_overrides_defaults(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("epochs: 7\nlr: 1e-4\nbackbone: resnet18\n")
    config = parse("--config", str(file), "--epochs", "9")
    assert (config.train.epochs, config.train.lr, config.model.backbone) == (9, 1e-4, "resnet18")
    assert config.train.batch_size == RunConfig().train.batch_size
    assert parse(f"--config={file}").train.epochs == 7
    assert parse(f"-c{file}").train.epochs == 7
    assert parse("-b8").typed == {"batch_size"}


def test_aliases_and_underscores():
    config = parse("--model", "resnet18", "-b", "8", "-j", "0", "--drop_path", "0.1", "--no-amp")
    assert (config.model.backbone, config.train.batch_size, config.machine.workers) == (
        "resnet18",
        8,
        0,
    )
    assert config.model.drop_path == 0.1
    assert not config.machine.amp


def test_settings_are_equal_after_writing_and_reading_yaml(tmp_path):
    config = make_config(epochs=3, img_size=64, drop_path=0.1, workers=0, amp=False, lr=1)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(flatten(config)))
    assert read_config_file(tmp_path / "a.yaml") == config


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--foldz", "3"], ["--foldz", "did you mean --folds"]),
        (["--folds", "1"], ["--folds 1", "at least 2"]),
        (["--folds", "x"], ["--folds"]),
        (["--sched", "cosin"], ["cosin", "cosine"]),
        (["--img-size", "12"], ["--img-size 12"]),
        (["--img-size", "64x"], ["--img-size 64x", "width x height"]),
        (["--lr", "-1"], ["--lr -1"]),
        (["--group-col", "a", "--pretrained", "none"], ["--group-col", "--data"]),
        (["--warmup-epochs", "inf"], ["--warmup-epochs inf"]),
        (["--name", "a/b"], ["--name a/b"]),
        (["--config", "/nowhere.yaml"], ["/nowhere.yaml"]),
        (["-c/nowhere.yaml"], ["/nowhere.yaml"]),
        (["--config="], ["--config", "names no file"]),
        (["--epochs"], ["--epochs"]),
        (["outputs"], ["outputs"]),
    ],
)
def test_wrong_flags_are_one_line_errors(argv, words, cv_command):
    cv_command(*argv).assert_one_line_error(*words)


def test_off_without_quotes_in_yaml_is_off(tmp_path):
    (tmp_path / "a.yaml").write_text("cache: off\ncompile: on\namp: off\n")
    machine = read_config_file(tmp_path / "a.yaml").machine
    assert (machine.cache, machine.compile, machine.amp) == ("off", "on", False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", "unknown setting 'epoch'; did you mean epochs"),
        ("epochs: many", "--epochs many: expected int"),
        ("amp: 3", "--amp 3: expected bool"),
        ("[1, 2]", "expected `name: value` lines"),
        ("a: [", "not valid YAML"),
    ],
)
def test_errors_in_files_have_the_files_name(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_config_file(tmp_path / "a.yaml")
    assert words in str(error.value)
    assert "a.yaml" in str(error.value)


def test_flags_and_file_are_combined_before_the_check(tmp_path, cv_command):
    (tmp_path / "a.yaml").write_text("group_col: who\n")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xd8\xff")
    done = cv_command(
        "--config", tmp_path / "a.yaml", "--csv", tmp_path / "none.csv", "--pretrained", "none"
    )
    done.assert_one_line_error("none.csv", "no such file")
    cv_command("--config", tmp_path / "bad.yaml").assert_one_line_error(
        "bad.yaml", "not a text file"
    )


def test_size():
    assert parse_size("120x160") == (120, 160)
    assert parse_size(224) == (224, 224)


def test_identity_is_the_settings_that_decide_the_logits():
    config = make_config(epochs=3)
    same_logits = [
        {"workers": 3},
        {"name": "x"},
        {"output": "y"},
        {"metric": "accuracy"},
        {"data": "/elsewhere"},
    ]
    same_logits += [{"save_every": 1.0}, {"wandb": True}, {"log_pictures": False}, {"seeds": 3}]
    same_logits += [{"cache": "ram"}, {"cache_dir": "/elsewhere"}, {"parallel_folds": "3"}]
    other_logits = [
        {"epochs": 4},
        {"threads": 1},
        {"validation_batch_size": 1},
        {"split_seed": 1},
        {"tta": "hflip"},
    ]
    other_logits += [
        {"decode": "full"},
        {"crop_pct": 0.9},
        {"augment_on": "device"},
        {"compile": "on"},
        {"deterministic": True},
    ]
    other_logits += [
        {"loss": "focal"},
        {"mixup": 0.2},
        {"select": "inner"},
        {"crop": "center"},
        {"head": "attributes"},
    ]
    other_logits += [{"finetune": "head"}, {"head_l2": "1"}, {"feature_views": 1}]
    for same in same_logits:
        assert identity_hash(replace(config, **same)) == identity_hash(config), same
    for other in other_logits:
        assert identity_hash(replace(config, **other)) != identity_hash(config), other
    # --select inner chooses the epoch by the metric.
    chosen = replace(config, select="inner")
    assert identity_hash(replace(chosen, metric="log_loss")) != identity_hash(chosen)
    assert changed_keys(flatten(config), replace(config, epochs=4, workers=1)) == "epochs 3 -> 4"


def run_python(code, *argv):
    return subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )


OTHERS = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in COMMANDS
    if name not in ("run_cv", "blend")
]


@pytest.mark.parametrize("name", ["run_cv", "blend", *OTHERS])
def test_help_loads_nothing_heavy(name):
    code = (
        f"import sys, {name}\n"
        f"try: {name}.main(['--help-all'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'timm', 'pandas', 'pyarrow', 'scipy', 'sklearn', 'matplotlib',"
        " 'cleanlab', 'cv2'} & set(sys.modules)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    if name == "run_cv":
        titles = [
            text for name, text in texts_of(RunConfig).items() if name not in ("typed", "read_back")
        ]
        assert all(title.rstrip(".") in done.stdout for title in titles)
        for flag in cli_flags(RunConfig):
            assert flag in done.stdout


@pytest.mark.slow
def test_blend_never_loads_torch(tiny_runs, tmp_path):
    code = (
        "import sys, blend; code = blend.main(sys.argv[1:]); assert 'torch' not in sys.modules;"
        " sys.exit(code)"
    )
    done = run_python(code, *map(str, sorted(tiny_runs.iterdir())), "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr


def as_if(monkeypatch, **flags):
    """Change properties of flags, as a later version might."""
    known = flags_of(RunConfig) | flags
    for module in ("settings", "identity"):
        monkeypatch.setattr(f"pipeline.config.{module}.flags_of", lambda _: known)


def test_a_later_setting_has_its_earlier_value_in_older_runs(monkeypatch, tmp_path):
    config = make_config(epochs=3)
    file = tmp_path / "config.yaml"
    older = {name: value for name, value in flatten(config).items() if name != "smoothing"}
    file.write_text(yaml.safe_dump(older))
    as_if(monkeypatch, smoothing=Flag(before=0.0))
    assert read_config_file(file).loss.smoothing == 0.0
    assert identity_hash(read_config_file(file)) == identity_hash(replace(config, smoothing=0.0))
    assert identity_hash(read_config_file(file)) != identity_hash(config)
    without = {name: value for name, value in flatten(config).items() if name != "smoothing"}
    assert changed_keys(without, config) == "smoothing 0.0 -> 0.1"
    assert keep_defaults(config, older).loss.smoothing == 0.0
    assert keep_defaults(replace(config, smoothing=0.1), older).loss.smoothing == 0.1
    assert keep_defaults(config, {}).loss.smoothing == 0.1
    # A file that a user wrote: settings that are not in it have their default.
    file.write_text("epochs: 3\n")
    assert read_config_file(file).loss.smoothing == 0.1


def test_a_new_setting_at_its_former_value_keeps_the_run_key(monkeypatch):
    """Runs of earlier versions can be resumed: their keys were hashed without its name."""
    config = make_config(epochs=3)
    known = flags_of(RunConfig)
    text = {
        name: value
        for name, value in flatten(config).items()
        if known[name].identity and value != known[name].before
    }
    del text["smoothing"]
    before = hashlib.blake2b(json.dumps(text, sort_keys=True).encode(), digest_size=16).hexdigest()
    as_if(monkeypatch, smoothing=Flag(before=0.1))
    assert identity_hash(config) == before


def test_a_run_is_resumed_with_the_defaults_it_was_started_with(monkeypatch):
    as_if(monkeypatch, lr=Flag(formerly=(0.01,)))
    assert keep_defaults(RunConfig(), {"lr": 0.01}).train.lr == 0.01
    assert keep_defaults(parse("--lr", "0.001"), {"lr": 0.01}).train.lr == 0.001
    # 0.5 was never a default, so the user gave it then.
    assert keep_defaults(RunConfig(), {"lr": 0.5}).train.lr == RunConfig().train.lr


def test_an_unfinished_run_with_another_default_is_resumed(
    runs_copy, tiny_layout, cv_command, monkeypatch
):
    argv = [
        "--data",
        tiny_layout,
        "--output",
        runs_copy,
        "--name",
        "slow",
        "--backbone",
        "test_resnet",
        *TINY,
    ]
    assert cv_command(*argv, "--lr", "0.002").code == 0
    before = Run(runs_copy / "slow")
    oof = before.oof
    key = before.info["run_key"]
    (runs_copy / "slow" / "fold_1" / "done.json").unlink()
    cv_command(*argv).assert_one_line_error("lr 0.002 -> 0.001", "--name")
    as_if(monkeypatch, lr=Flag(formerly=(0.002,)))
    assert cv_command(*argv).code == 0
    again = Run(runs_copy / "slow")
    assert again.info["run_key"] == key
    pd.testing.assert_frame_equal(again.oof, oof, check_exact=True)


def test_given_settings_are_recorded(tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 7\n")
    config = parse(
        "--model",
        "resnet18",
        "-b=8",
        "--no-amp",
        "--drop_path=0.1",
        "--config",
        str(tmp_path / "a.yaml"),
    )
    assert config.typed == {"backbone", "batch_size", "amp", "drop_path", "config", "epochs"}
    assert typed_settings(RunConfig, ["--lr", "-1"]) == {"lr"}
    assert make_config(epochs=3).typed == {"epochs"}
    assert replace(make_config(epochs=3), lr=0.1).typed == {"epochs", "lr"}


def test_a_setting_of_a_later_version_is_ignored_in_the_difference():
    config = make_config(epochs=3)
    assert "epochs 3 -> 4" in changed_keys(
        {**flatten(config), "later_flag": 3}, replace(config, epochs=4)
    )


def test_the_run_key_of_an_earlier_version():
    """The config.yaml of a run by commit 0a17d88, and the hash that this commit computed."""
    file = Path(__file__).with_name("config_of_0a17d88.yaml")
    assert identity_hash(read_config_file(file)) == "bbf512988105c50eb6d4d49939fe2f7f"
