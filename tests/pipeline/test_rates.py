"""Tests of --lr auto: the table, the family of a backbone, and runs that keep their numbers."""

from pathlib import Path

import pytest
import torch
import yaml

from foldblend.errors import UserError
from foldblend.runs.run import Run
from pipeline import rates_of_run
from pipeline.as_started import as_started
from pipeline.config.identity import identity_hash, keep_defaults
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, make_config, read_config_file, replace
from pipeline.cv import cross_validate
from pipeline.models.family import family_of, layers_of
from pipeline.models.timm_import import timm
from pipeline.rates_of_run import Before, Rates, auto_again, decide_rates, keep_rates
from pipeline.training.rates import (
    BATCH_NORM,
    KINDS,
    NO_BATCH_NORM,
    TRANSFORMER,
    decay_of,
    kind_of,
    rate_of,
)
from tests.makers.constants import ROOT, TINY

OTHERS = (
    *("adadelta", "adagrad", "adahessian", "adamuon", "kron", "larc", "lars", "madgrad", "mars"),
    *("muon", "novograd"),
)
FAMILIES = {
    BATCH_NORM: "test_resnet test_efficientnet test_byobnet tf_efficientnet_lite0 resnet50_clip"
    " vgg11_bn skresnet18 gc_efficientnetv2_rw_t",
    NO_BATCH_NORM: "test_convnext test_convnext2 test_nfnet test_mambaout convnextv2_atto vgg11"
    " resnet50_gn mixer_s32_224",
    TRANSFORMER: "test_vit test_vit_relpos test_coatnet test_maxvit vit_tiny_patch16_224 levit_128s"
    " xcit_nano_12_p16_224 botnet26t_256 mobilevit_xxs",
}
# Families of names by their start, for all models of timm.
STARTS = {
    BATCH_NORM: "resnet resnext densenet mobilenetv2 mobilenetv3 efficientnet_ efficientnetv2"
    " regnetx regnety tf_efficientnet hrnet ghostnet rexnet dla repvgg",
    NO_BATCH_NORM: "convnext nfnet dm_nfnet eca_nfnet mixer resmlp gmlp poolformer focalnet",
    TRANSFORMER: "vit_ deit beit swin cait crossvit eva eva02 pvt twins xcit maxvit coat_ tiny_vit"
    " hiera_ mvitv2 davit levit mobilevit",
}
# Same name, other normalisation.
EXCEPTIONS = ("_gn", "_evos", "resnetv2", "resnetblur", "_frn", "_evob")


def meta(name):
    with torch.device("meta"):
        return timm.create_model(name, num_classes=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_follows_from_the_modules(family):
    for name in FAMILIES[family].split():
        assert family_of(meta(name)) == family, name


def test_a_model_without_convolutions_is_not_called_a_convnet():
    assert "convnet" not in family_of(meta("mixer_s32_224"))


@pytest.mark.slow
def test_the_family_of_all_backbones_with_a_telling_name():
    seen = dict.fromkeys(STARTS, 0)
    for name in timm.list_models():
        for family, starts in STARTS.items():
            told = name.startswith(tuple(starts.split())) and not any(
                one in name for one in EXCEPTIONS
            )
            # The large ones have the modules of the small ones.
            large = any(one in name for one in ("large", "huge", "giant", "gigantic", "xlarge"))
            if told and not large and seen[family] < 20:
                seen[family] += 1
                assert family_of(meta(name)) == family, name
    assert min(seen.values()) > 15


def test_a_users_own_model_is_known_by_its_modules():
    two = [torch.nn.TransformerEncoderLayer(8, 2) for _ in range(2)]
    assert family_of(torch.nn.Sequential(*two)) == TRANSFORMER
    norms = [torch.nn.BatchNorm2d(3) for _ in range(2)]
    assert family_of(torch.nn.Sequential(*norms, two[0].self_attn)) == BATCH_NORM
    assert family_of(torch.nn.Linear(2, 2)) == NO_BATCH_NORM
    assert layers_of(torch.nn.Linear(2, 2)) is None


def test_the_page_has_the_rates_of_the_table():
    page = (ROOT / "docs" / "training.md").read_text()
    section = page.partition("## Learning rate")[2].partition("## Weights")[0]
    for (family, pretrained), _ in KINDS["adam"].rates.items():
        for optimizer in ("adamw", "sgd"):
            rate = rate_of(optimizer, family, images=32, pretrained=pretrained)
            assert f"| {rate:g} |" in section, (family, pretrained, optimizer, rate)


@pytest.mark.parametrize(
    ("optimizer", "family", "images", "pretrained", "rate"),
    [
        ("adamw", BATCH_NORM, 32, True, 2e-3),
        ("adamw", BATCH_NORM, 16, True, 1.4e-3),
        ("AdamW", BATCH_NORM, 128, False, 2e-3),
        ("adamw", NO_BATCH_NORM, 4096, False, 4e-3),  # ConvNeXt
        ("adamw", NO_BATCH_NORM, 1024, True, 1e-3),
        ("adamw", TRANSFORMER, 1024, False, 1e-3),  # DeiT
        ("adamw", TRANSFORMER, 32, True, 1.8e-4),
        ("lamb", TRANSFORMER, 32, True, 1.8e-4),
        ("lion", BATCH_NORM, 32, True, 4e-4),
        ("rmsproptf", BATCH_NORM, 32, True, 2e-4),
        ("sgd", BATCH_NORM, 256, False, 0.1),  # Goyal et al. 2017
        ("sgd", BATCH_NORM, 512, False, 0.2),
        ("nesterov", TRANSFORMER, 512, True, 0.01),
        ("muon", TRANSFORMER, 512, True, 0.02),
    ],
)
def test_the_table(optimizer, family, images, pretrained, rate):
    found = rate_of(optimizer, family, images=images, pretrained=pretrained, own=0.02)
    assert found == pytest.approx(rate)


def test_every_optimiser_of_timm_has_a_rate():
    for name in timm.optim.list_optimizers():
        if kind_of(name) is None:
            assert any(one in name for one in OTHERS), name
            assert 1e-5 <= rates_of_run._own_rate(name) <= 1, name


def test_deeper_backbones_decay_less_per_layer():
    assert decay_of(BATCH_NORM, layers=13) is None
    assert decay_of(TRANSFORMER, layers=7).layer_decay == 0.75
    for family, published in ((TRANSFORMER, 0.75), (NO_BATCH_NORM, 0.8)):
        deep = decay_of(family, layers=40).layer_decay
        assert deep**40 == pytest.approx(published**13, rel=0.03)


def decided(backbone, *, pretrained, num_rows=10_000, before=None, **settings):
    config = make_config({"batch_size": 32, "epochs": 1, "backbone": backbone, **settings})
    model = timm.create_model(backbone, num_classes=3)
    return decide_rates(
        config, model, pretrained=pretrained, num_rows=num_rows, before=before or Before()
    )


@pytest.mark.parametrize(
    ("backbone", "pretrained", "settings"),
    [
        ("test_resnet", True, (2e-3, None, None)),
        ("test_efficientnet", False, (1e-3, None, None)),
        ("test_convnext", True, (1.8e-4, 0.8, 0.1)),
        ("test_convnext", False, (3.5e-4, None, None)),
        ("test_vit", True, (1.8e-4, 0.75, 0.1)),
        ("test_vit", False, (1.8e-4, None, None)),
        ("test_vit", None, (1.8e-4, None, None)),
    ],
)
def test_what_is_decided(backbone, pretrained, settings):
    found = decided(backbone, pretrained=pretrained)
    names = ("lr", "layer_decay", "drop_path")
    assert found.settings == dict(zip(names, settings, strict=True))
    assert f"learning rate {settings[0]:g}" in found.line
    assert ("layer decay" in found.line) == (settings[1] is not None)


def test_the_images_of_a_step_count_and_not_those_of_a_pass():
    alone = decided("test_vit", pretrained=False, batch_size=64)
    assert decided("test_vit", pretrained=False, grad_accum_steps=2).settings == alone.settings


def test_a_step_has_no_more_images_than_a_fold_trains_on():
    found = decided("test_vit", pretrained=False, num_rows=40, batch_size=4096, grad_accum_steps=9)
    assert found.settings == decided("test_vit", pretrained=False, batch_size=40).settings
    assert "40 images per step" in found.line


def test_what_is_typed_stays():
    found = decided("test_vit", pretrained=True, lr=0.01, layer_decay=1.0, drop_path=0.0)
    assert found.settings == {}
    assert found.record == {}
    assert not found.line
    only = decided("test_vit", pretrained=True, lr=0.01)
    assert only.settings == {"layer_decay": 0.75, "drop_path": 0.1}
    assert "learning rate" not in only.line


def test_a_frozen_run_has_the_numbers_of_earlier_versions():
    found = decided("test_vit", pretrained=True, finetune="head")
    assert found.settings == {"lr": 1e-3, "layer_decay": None, "drop_path": None}
    assert not found.line
    find = decided("test_vit", pretrained=True, finetune="head", lr="find")
    assert find.settings == found.settings
    assert "--lr find has no effect" in find.line


def test_find_starts_from_the_rate_of_auto():
    found = decided("test_vit", pretrained=True, lr="find")
    assert "lr" not in found.settings
    assert found.record["fallback"] == 1.8e-4
    before = Before({"lr": "find"}, {"auto": [], "fallback": 5e-4})
    again = decided("test_vit", pretrained=True, lr="find", before=before)
    assert again.record["fallback"] == 5e-4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"lr": "quick"}, ("--lr quick", "a number, auto or find")),
        ({"lr": "nan"}, ("--lr nan", "more than 0")),
        ({"lr": 0}, ("--lr 0", "more than 0")),
        ({"lr": "inf"}, ("--lr inf", "finite")),
        ({"layer_decay": "find"}, ("--layer-decay find", "a number or auto")),
        ({"layer_decay": 1.5}, ("--layer-decay 1.5",)),
        ({"drop_path": "x"}, ("--drop-path x", "a number or auto")),
        ({"drop_path": 1.0}, ("--drop-path 1.0",)),
        ({"lr": [1]}, ("--lr [1]",)),
    ],
)
def test_wrong_values(flags, words):
    with pytest.raises(UserError) as error:
        make_config(flags)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lr", ["auto", "find"])
def test_the_lowest_rate_is_below_the_one_that_is_decided(lr):
    with pytest.raises(UserError, match=f"--min-lr 0.001: .*--lr 0.00018 .which --lr {lr} takes"):
        decided("test_vit", pretrained=True, lr=lr, min_lr=1e-3)


def test_runs_of_earlier_versions_keep_their_numbers():
    """The config.yaml of a run by commit 0a17d88, whose command gave none of the three."""
    file = Path(__file__).with_name("config_of_0a17d88.yaml")
    written = yaml.safe_load(file.read_text())
    assert (written["lr"], written["layer_decay"], written["drop_path"]) == (1e-3, None, None)
    config = as_started(RunConfig(), written)
    assert (config.train.lr, config.train.layer_decay, config.model.drop_path) == (1e-3, None, None)
    assert keep_rates(config, Before(written)) == config
    # All of its settings, as a command of today would have them, give the key of then.
    given = {name: value for name, value in written.items() if name not in ("lr", "layer_decay")}
    today = keep_defaults(make_config({**given, "config": None}), written)
    assert identity_hash(today) == identity_hash(read_config_file(file))
    assert identity_hash(today) == "bbf512988105c50eb6d4d49939fe2f7f"


def test_what_auto_decided_is_kept_and_what_was_typed_is_not():
    written = {"lr": 5e-4, "layer_decay": 0.7, "drop_path": None}
    before = Before(written, {"auto": ["lr", "layer_decay"], "why": "then"})
    config = keep_rates(RunConfig(), before)
    assert (config.train.lr, config.train.layer_decay) == (5e-4, 0.7)
    assert not config.typed
    again = decided("test_vit", pretrained=True, before=before, lr=5e-4, layer_decay=0.7)
    assert again.record == {"auto": ["lr", "layer_decay", "drop_path"], "why": "then"}
    # Given by the user then: the same command has to give it again.
    assert keep_rates(RunConfig(), Before(written)).train.lr == "auto"
    # Another number than the run has is the user's own.
    other = decided("test_vit", pretrained=True, before=before, lr=1e-4, layer_decay=0.7)
    assert "lr" not in other.record["auto"]


def test_a_run_goes_on_with_its_rate_when_the_table_changes(
    tiny_layout, tmp_path, cv_command, monkeypatch
):
    argv = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_resnet", *TINY]
    argv += ["--batch-size", "8", "--name", "a"]
    first = cv_command(*argv, "--only-folds", "0")
    assert first.code == 0, first.err
    assert "learning rate 0.0005 (auto: convnet with batch norm, random weights" in first.out
    monkeypatch.setattr(rates_of_run, "rate_of", lambda *_, **__: 0.1)
    again = cv_command(*argv)
    assert again.code == 0, again.err
    assert "learning rate 0.0005 (auto" in again.out
    run = Run(tmp_path / "a")
    assert run.settings["lr"] == 5e-4
    assert run.info["rates"]["auto"] == ["lr", "layer_decay", "drop_path"]
    assert "adamw 0.0005 (--lr auto) cosine" in run.info["about"]
    # A run whose number was typed is another one without it.
    assert cv_command(*argv[:-1], "b", "--lr", "0.0007").code == 0
    assert "rates" not in Run(tmp_path / "b").info or "lr" not in Run(tmp_path / "b").info[
        "rates"
    ].get("auto", [])
    cv_command(*argv[:-1], "b").assert_one_line_error("lr 0.0007 -> 0.1")


def test_a_settings_file_with_another_backbone_has_rates_of_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    written = flatten(make_config(backbone="test_vit", lr=1e-4, layer_decay=None, drop_path=0.3))
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    info = {"rates": {"auto": ["lr", "layer_decay"], "why": "then"}}
    (folder / "run.json").touch()
    monkeypatch.setattr(rates_of_run, "read_info", lambda _: info)

    def again(before=None, **flags):
        said = []
        config = make_config(config=str(folder / "config.yaml"), **flags)
        found = flatten(auto_again(config, before or Before(), said.append))
        return (found["lr"], found["layer_decay"], found["drop_path"]), said

    assert again() == again(backbone="test_vit") == ((1e-4, None, 0.3), [])
    found, [line] = again(backbone="test_resnet")
    assert found == ("auto", "auto", 0.3)
    assert line.startswith("--lr, --layer-decay: auto decides again, for another --backbone")
    assert again(backbone="test_resnet", lr=1e-3)[0] == (1e-3, "auto", 0.3)
    # A run that has the numbers of the file keeps them.
    kept = Before({"lr": 1e-4, "layer_decay": None})
    assert again(kept, backbone="test_resnet") == ((1e-4, None, 0.3), [])


def test_the_settings_file_of_a_run_repeats_it(tiny_layout, tmp_path):
    base = make_config(
        data=str(tiny_layout),
        output=str(tmp_path),
        backbone="test_vit",
        img_size=160,
        folds=2,
        epochs=1,
        pretrained="none",
        workers=0,
        threads=1,
        log_pictures=False,
        page=False,
        name="a",
        only_folds="0",
    )
    run = cross_validate(base, say=lambda _: None)
    config = read_config_file(run.path / "config.yaml")
    assert flatten(config)["lr"] == run.settings["lr"]
    assert isinstance(run.settings["lr"], float)
    assert identity_hash(replace(config, name="b")) == run.info["run_key"]["configuration"]


def test_a_line_names_no_stochastic_depth_where_there_is_none():
    record = {"auto": ["lr", "drop_path"], "why": "transformer, drop path 0.2"}
    rates = Rates({"drop_path": 0.1}, record, {"lr": 1e-3, "drop_path": 0.1})
    why = "(auto: transformer, drop path 0.2)"
    assert rates.line == f"learning rate 0.001, drop path 0.1 {why}"
    assert rates.without_depth().line == f"learning rate 0.001 {why}"
    assert rates.without_depth().settings == {"drop_path": None}
