"""Further views of finished runs: computed once, by the fold's own model, on the fold's own pictures."""

import albumentations
import numpy as np
import pandas as pd
import pytest
import safetensors.torch

from folds.errors import UserError
from pipeline import view_logits
from pipeline.store import Run, read_table
from pipeline.view_logits import add_views, kept_views, view_seconds

LOGITS = [f"logit_{index}" for index in range(18)]


def quiet(_):
    pass


def rows(run, index, view, part="oof"):
    table = read_table(run.path / "tta" / f"{part}_fold_{index}.parquet")
    return table[table["view"] == view].set_index("image_id")[LOGITS]


def test_saved_models_see_what_they_saw_in_training(runs_copy):
    """Mirrored and plain logits of the stage are those that training wrote, to the bit."""
    alpha = Run(runs_copy / "alpha")
    before = {(index, part, view): rows(alpha, index, view, part)
              for index in (0, 1) for part in ("oof", "test") for view in ("identity", "hflip")}  # fmt: skip
    for file in (alpha.path / "tta").iterdir():
        file.unlink()
    assert kept_views(alpha) == ()  # what is left is a merge of two views
    assert add_views(alpha.path, ("identity", "hflip"), say=quiet) == ("identity", "hflip")
    for (index, part, view), table in before.items():
        pd.testing.assert_frame_equal(rows(alpha, index, view, part), table)


def test_only_what_is_missing_is_computed_and_a_stopped_call_goes_on(runs_copy, monkeypatch):
    beta, seen = Run(runs_copy / "beta"), []
    real = view_logits._see

    def spy(job, model, table, names):
        seen.append((len(table), tuple(names)))
        if len(seen) == 3:  # the second fold's held-out pictures
            raise KeyboardInterrupt
        return real(job, model, table, names)

    monkeypatch.setattr(view_logits, "_see", spy)
    with pytest.raises(KeyboardInterrupt):
        add_views(beta.path, ("hflip", "scale:1.2"), say=quiet)
    assert kept_views(beta) == ("identity",)
    first = rows(beta, 0, "scale:1.2")
    assert add_views(beta.path, ("hflip", "scale:1.2"), say=quiet) == ("identity", "hflip", "scale:1.2")
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


def test_views_drawn_by_augmentations(runs_copy, tmp_path):
    beta = Run(runs_copy / "beta")
    file = tmp_path / "mirror.yaml"
    albumentations.save(albumentations.Compose([albumentations.HorizontalFlip(p=1.0)]), str(file), data_format="yaml")
    names = ("hflip", f"albu:{file}#0", "train#0", "train#1")
    add_views(beta.path, names, say=quiet)
    assert view_seconds(beta).keys() == set(names)
    assert min(view_seconds(beta).values()) > 0
    pd.testing.assert_frame_equal(rows(beta, 0, f"albu:{file}#0"), rows(beta, 0, "hflip"))
    drawn = [rows(beta, 1, name, "test").to_numpy() for name in ("identity", "train#0", "train#1")]
    assert not np.allclose(drawn[0], drawn[1])
    assert not np.allclose(drawn[1], drawn[2])
    again = read_table(beta.path / "tta" / "test_fold_1.parquet")
    again[again["view"] != "train#1"].to_parquet(beta.path / "tta" / "test_fold_1.parquet", index=False)
    add_views(beta.path, ("train#1",), say=quiet)
    np.testing.assert_array_equal(rows(beta, 1, "train#1", "test").to_numpy(), drawn[2])
    albumentations.save(albumentations.Compose([albumentations.VerticalFlip(p=1.0)]), str(file), data_format="yaml")
    with pytest.raises(UserError, match=r"mirror\.yaml: has changed since"):
        add_views(beta.path, (f"albu:{file}#0",), say=quiet)


def test_views_of_a_fold_that_was_trained_again_are_gone(runs_copy):
    alpha, beta = Run(runs_copy / "alpha"), Run(runs_copy / "beta")
    for run in (alpha, beta):
        add_views(run.path, ("hflip", "vflip"), say=quiet)
    table = read_table(beta.path / "fold_1" / "oof.parquet")
    table[LOGITS] += np.float32(1)
    table.to_parquet(beta.path / "fold_1" / "oof.parquet", index=False)
    assert kept_views(alpha) == ("identity", "hflip", "vflip")
    assert kept_views(beta) == ("identity",)
    add_views(beta.path, ("vflip",), say=quiet)
    assert kept_views(beta) == ("identity", "vflip")


def test_runs_that_cannot_be_seen_again(runs_copy, tmp_path):
    beta = runs_copy / "beta"

    def refused(*words, folder=beta, names=("vflip",)):
        with pytest.raises(UserError) as caught:
            add_views(folder, names, say=quiet)
        said = str(caught.value)
        assert "\n" not in said
        for word in words:
            assert word in said

    refused("no run", folder=tmp_path)
    refused("changes no pixel", names=("xshift:0.001",))
    checkpoint = beta / "fold_1" / "best.safetensors"
    state = safetensors.torch.load_file(checkpoint)
    kept = checkpoint.read_bytes()
    name = next(iter(state))
    safetensors.torch.save_file(state | {name: state[name] + 1}, checkpoint)
    refused("fold_1/best.safetensors", "not what the fold wrote")
    checkpoint.unlink()
    refused("fold_1/best.safetensors", "no such checkpoint")
    checkpoint.write_bytes(kept)
    (beta / "fold_1" / "done.json").unlink()
    refused("fold 1 is not finished", "run_cv.py")
    (tmp_path / "bad.yaml").write_text("a: [")
    refused("bad.yaml", folder=runs_copy / "alpha", names=(f"albu:{tmp_path / 'bad.yaml'}#0",))
