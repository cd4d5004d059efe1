"""Further views of finished runs, predicted once per fold by the model of the fold."""

from types import SimpleNamespace

import albumentations
import numpy as np
import pandas as pd
import pytest
import safetensors.torch

from foldblend.errors import UserError
from foldblend.runs.folder import file_hash, read_json, write_json, write_table
from foldblend.runs.run import Run
from pipeline import view_model
from pipeline.fold_files import finished_fold
from pipeline.view_logits import add_views
from tests.makers.edits import rehash
from tta.saved_views import kept_views, saved_rows, view_seconds

LOGITS = [f"logit_{index}" for index in range(18)]


def quiet(_):
    pass


def rows(run, index, view, part="oof"):
    table = saved_rows(run, index, part)
    return table[table["view"] == view].set_index("image_id")[LOGITS]


def test_saved_models_predict_the_logits_of_training(runs_copy):
    """Mirrored logits are bit-equal to those of training, and the folds do not change."""
    alpha = Run(runs_copy / "alpha")
    beta = Run(runs_copy / "beta")
    add_views(alpha.path, ("hflip", "vflip"), say=quiet)
    assert kept_views(alpha) == ("identity", "hflip", "vflip")
    key = alpha.info["run_key"] | {"folds": alpha.info["folds_hash"]}
    assert all(finished_fold(alpha.path, index, key) is not None for index in (0, 1))
    done = read_json(alpha.path / "fold_0" / "done.json")
    written = pd.read_parquet(alpha.path / "tta" / "oof_fold_0.parquet")
    plain = pd.read_parquet(alpha.path / "fold_0" / "oof.parquet")
    # Make the same run one of a single view, so that the other view is predicted.
    state = alpha.info | {"views": ["identity"]}
    write_json(alpha.path / "run.json", state)
    identity = written[written["view"] == "identity"].set_index("image_id")[LOGITS]
    plain[LOGITS] = identity.loc[plain["image_id"]].to_numpy()
    write_table(alpha.path / "fold_0" / "oof.parquet", plain)
    rehash(alpha.path / "fold_0" / "oof.parquet")
    for file in (alpha.path / "tta").iterdir():
        file.unlink()
    add_views(alpha.path, ("hflip",), say=quiet)
    hflip = written[written["view"] == "hflip"].set_index("image_id")[LOGITS]
    pd.testing.assert_frame_equal(rows(Run(alpha.path), 0, "hflip").loc[hflip.index], hflip)
    assert done["files"]["fold_0/best.safetensors"]
    assert kept_views(beta) == ("identity",)


def test_only_missing_views_are_predicted_and_an_interrupted_call_continues(runs_copy, monkeypatch):
    beta = Run(runs_copy / "beta")
    seen = []
    real = view_model._see

    def spy(job, model, table, names, draws, **more):
        seen.append((len(table), tuple(names)))
        if len(seen) == 3:  # the second fold's held-out images
            raise KeyboardInterrupt
        return real(job, model, table, names, draws, **more)

    monkeypatch.setattr(view_model, "_see", spy)
    with pytest.raises(KeyboardInterrupt):
        add_views(beta.path, ("hflip", "scale:1.2"), say=quiet)
    assert kept_views(beta) == ("identity",)
    first = rows(beta, 0, "scale:1.2")
    assert add_views(beta.path, ("hflip", "scale:1.2"), say=quiet) == (
        "identity",
        "hflip",
        "scale:1.2",
    )
    assert len(seen) == 5
    pd.testing.assert_frame_equal(rows(beta, 0, "scale:1.2"), first)
    add_views(beta.path, ("hflip", "gamma:1.5"), say=quiet)
    assert [names for _, names in seen[5:]] == [("gamma:1.5",)] * 4
    assert kept_views(beta) == ("identity", "hflip", "scale:1.2", "gamma:1.5")
    held = beta.oof.groupby("fold")["image_id"].apply(set)
    for fold in (0, 1):
        assert set(rows(beta, fold, "gamma:1.5").index) == held[fold]
        plain = beta.oof[beta.oof["fold"] == fold].set_index("image_id")[LOGITS]
        pd.testing.assert_frame_equal(rows(beta, fold, "identity").loc[plain.index], plain)
    assert add_views(beta.path, ("hflip",), say=quiet) == kept_views(beta)
    assert len(seen) == 9


def test_views_by_random_augmentation(runs_copy, tmp_path):
    beta = Run(runs_copy / "beta")
    file = tmp_path / "mirror.yaml"
    albumentations.save(
        albumentations.Compose([albumentations.HorizontalFlip(p=1.0)]),
        str(file),
        data_format="yaml",
    )
    names = ("hflip", f"albu:{file}#0", "train#0", "train#1")
    add_views(beta.path, names, say=quiet)
    assert view_seconds(beta).keys() == set(names)
    assert min(view_seconds(beta).values()) > 0
    pd.testing.assert_frame_equal(rows(beta, 0, f"albu:{file}#0"), rows(beta, 0, "hflip"))
    drawn = [rows(beta, 1, name, "test").to_numpy() for name in ("identity", "train#0", "train#1")]
    assert not np.allclose(drawn[0], drawn[1])
    assert not np.allclose(drawn[1], drawn[2])
    further = beta.path / "tta" / "further_test_fold_1.parquet"
    again = pd.read_parquet(further)
    again[again["view"] != "train#1"].to_parquet(further, index=False)
    add_views(beta.path, ("train#1",), say=quiet)
    np.testing.assert_array_equal(rows(beta, 1, "train#1", "test").to_numpy(), drawn[2])
    albumentations.save(
        albumentations.Compose([albumentations.VerticalFlip(p=1.0)]), str(file), data_format="yaml"
    )
    with pytest.raises(UserError, match=r"mirror\.yaml: the file has changed since"):
        add_views(beta.path, (f"albu:{file}#0",), say=quiet)


def test_a_pipeline_may_change_until_its_views_are_saved(runs_copy, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("a: [")
    with pytest.raises(UserError, match=r"p\.yaml"):
        add_views(runs_copy / "beta", ("hflip", f"albu:{file}#0"), say=quiet)
    # The pipeline was read before any view was predicted.
    assert kept_views(Run(runs_copy / "beta")) == ("identity",)
    albumentations.save(
        albumentations.Compose([albumentations.HorizontalFlip(p=1.0)]),
        str(file),
        data_format="yaml",
    )
    assert len(add_views(runs_copy / "beta", (f"albu:{file}#0",), say=quiet)) == 2


def test_views_of_a_fold_that_was_trained_again_are_dropped(runs_copy):
    beta = Run(runs_copy / "beta")
    add_views(beta.path, ("vflip",), say=quiet)
    file = beta.path / "fold_1" / "best.safetensors"
    state = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: value.clone() * 1.5 for name, value in state.items()}, file)
    done = read_json(beta.path / "fold_1" / "done.json")
    done["files"]["fold_1/best.safetensors"] = file_hash(file)
    write_json(beta.path / "fold_1" / "done.json", done)
    assert kept_views(beta) == ("identity",)
    before = rows(beta, 0, "vflip")
    add_views(beta.path, ("vflip",), say=quiet)
    assert kept_views(beta) == ("identity", "vflip")
    pd.testing.assert_frame_equal(rows(beta, 0, "vflip"), before)


def test_damaged_files_of_views_are_written_again(runs_copy):
    beta = Run(runs_copy / "beta")
    add_views(beta.path, ("vflip",), say=quiet)
    before = rows(beta, 1, "vflip")
    file = beta.path / "tta" / "further_oof_fold_1.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    assert kept_views(beta) == ("identity",)
    add_views(beta.path, ("vflip",), say=quiet)
    pd.testing.assert_frame_equal(rows(beta, 1, "vflip"), before)


def test_logits_that_are_not_finite_are_not_kept(runs_copy, monkeypatch):
    real = view_model._see

    def broken(*args, **more):
        found, seconds = real(*args, **more)
        return {name: logits * np.nan for name, logits in found.items()}, seconds

    monkeypatch.setattr(view_model, "_see", broken)
    with pytest.raises(UserError, match="fold 0: the logits are not finite"):
        add_views(runs_copy / "beta", ("vflip",), say=quiet)
    assert kept_views(Run(runs_copy / "beta")) == ("identity",)


def test_crop_of_random_views(tmp_path):
    """A pipeline gets the centre crop, the training augmentation a random crop."""
    file = tmp_path / "nothing.yaml"
    albumentations.save(
        albumentations.Compose([albumentations.NoOp()]), str(file), data_format="yaml"
    )
    cut = SimpleNamespace(stored_size=(40, 40), width=32, height=32)
    whole = SimpleNamespace(stored_size=(32, 32), width=32, height=32)
    config = SimpleNamespace(augment=SimpleNamespace(augment="none"))
    job = SimpleNamespace(run=SimpleNamespace(preprocess=cut, config=config))
    assert not view_model._draw(job, f"albu:{file}#0").random_crop
    assert view_model._draw(job, "train#0").random_crop
    with pytest.raises(UserError, match="train#0: the run was trained without augmentation"):
        view_model._draw(
            SimpleNamespace(run=SimpleNamespace(preprocess=whole, config=config)), "train#0"
        )


def test_runs_without_usable_models(runs_copy, tmp_path):
    beta = runs_copy / "beta"

    def refused(*words, folder=beta, names=("vflip",)):
        with pytest.raises(UserError) as caught:
            add_views(folder, names, say=quiet)
        said = str(caught.value)
        assert "\n" not in said
        for word in words:
            assert word in said

    refused("not a run folder", folder=tmp_path)
    refused("changes no pixel", names=("xshift:0.001",))
    checkpoint = beta / "fold_1" / "best.safetensors"
    state = safetensors.torch.load_file(checkpoint)
    kept = checkpoint.read_bytes()
    name = next(iter(state))
    safetensors.torch.save_file(state | {name: state[name] + 1}, checkpoint)
    refused("fold_1/best.safetensors", "has changed since training")
    checkpoint.unlink()
    refused("fold_1/best.safetensors", "the checkpoint is missing")
    checkpoint.write_bytes(kept)
    (beta / "fold_1" / "done.json").unlink()
    refused("fold 1 is not finished", "run_cv.py")
    (tmp_path / "bad.yaml").write_text("a: [")
    refused("bad.yaml", folder=runs_copy / "alpha", names=(f"albu:{tmp_path / 'bad.yaml'}#0",))
