import numpy as np
import pytest

from foldblend.images import read_image
from folds.data.demo import demo_people, make_demo
from folds.data.demo_faces import HEIGHT, WIDTH, draw_image, make_person
from folds.data.layout import read_layout
from folds.data.source import load_manifest
from folds.split import assign_folds
from pipeline.config.settings import make_config
from pipeline.cv import cross_validate


def test_people_have_the_competitions_proportions_and_fill_every_stratum():
    people = demo_people(70, least=5, seed=0)
    assert len(people) == 70
    age_group = np.searchsorted([30, 60], people["age"], side="right")
    counts = people.groupby(["gender", age_group]).size()
    assert len(counts) == 6
    assert counts.min() == 5
    assert counts[("female", 1)] == counts.max()
    assert people["path"].is_unique


def test_all_classes_reach_every_fold():
    people = demo_people(70, least=5, seed=0)
    stratum = people["gender"].eq("female").to_numpy() * 3 + np.searchsorted(
        [30, 60], people["age"], side="right"
    )
    group = np.repeat(people["path"].to_numpy(), 3)
    label = np.concatenate([[s, s + 6, s + 12] for s in stratum])
    fold = assign_folds(label, group, num_folds=5, seed=0)
    for k in range(5):
        assert set(label[fold == k]) == set(range(18))


def test_images_are_seeded_and_of_the_competitions_size():
    images = [
        draw_image(make_person(rng, male=False, age=40), rng, mask="worn")
        for rng in (np.random.default_rng(1), np.random.default_rng(1), np.random.default_rng(2))
    ]
    assert images[0].shape == (HEIGHT, WIDTH, 3) == (512, 384, 3)
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_age_shows_in_wrinkles_and_hair_and_gender_in_features():
    def looks(male, age):
        return [make_person(np.random.default_rng(seed), male=male, age=age) for seed in range(300)]

    def mean(people, what):
        return np.mean([what(person) for person in people])

    young = looks(True, 22)
    middle = looks(True, 45)
    old = looks(True, 68)
    assert (
        mean(young, lambda p: p.wrinkle)
        < mean(middle, lambda p: p.wrinkle)
        < mean(old, lambda p: p.wrinkle)
    )
    assert mean(young, lambda p: p.hair.mean()) < mean(old, lambda p: p.hair.mean()) - 40
    women = looks(False, 22)
    assert mean(women, lambda p: p.long_hair) > 0.8 > 0.2 > mean(young, lambda p: p.long_hair)
    assert mean(women, lambda p: not p.long_hair) > 0  # no single feature decides the gender


@pytest.mark.parametrize(
    ("kind", "nose_is_covered", "chin_is_covered"),
    [("worn", True, True), ("incorrect", False, True)],
)
def test_masks_cover_what_they_should(kind, nose_is_covered, chin_is_covered):
    """A masked and an unmasked image of the same face differ on nose and chin as expected."""
    from folds.data import demo_canvas, demo_faces

    who = make_person(np.random.default_rng(3), male=False, age=25)
    canvas = demo_canvas.Canvas(who.backdrop)
    canvas.shape(demo_faces._face_outline(who), who.skin)
    bare = canvas.pixels.copy()
    demo_faces._draw_mask(canvas, who, np.random.default_rng(0), kind=kind)
    changed = np.abs(canvas.pixels - bare).max(axis=2) > 8

    def at(x, y):
        column, row = ((np.array([x, y]) + demo_canvas.CENTRE) * demo_canvas.SCALE).astype(int)
        return bool(changed[row, column])

    assert at(0, 28) == nose_is_covered
    assert at(0, 112) == chin_is_covered


def test_the_demo_is_made_once_and_read_as_the_layout(tiny_layout):
    before = (tiny_layout / "train" / "train.csv").stat().st_mtime_ns
    assert make_demo(tiny_layout, num_train=12, num_test=6, seed=7) == tiny_layout
    assert (tiny_layout / "train" / "train.csv").stat().st_mtime_ns == before
    manifest = read_layout(tiny_layout)
    assert read_image(manifest.train["path"][0]).shape == (512, 384, 3)
    assert manifest.test["image_id"].str.fullmatch(r"[0-9a-f]{40}\.jpg").all()
    leftovers = [item for item in tiny_layout.parent.iterdir() if item.name.startswith(".")]
    assert leftovers == []


def test_the_demo_is_used_without_data(tmp_path, monkeypatch, tiny_layout):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("folds.data.source.make_demo", lambda: tiny_layout)
    manifest = load_manifest(environ={})
    assert manifest.is_demo
    assert manifest.name == "demo"


@pytest.mark.slow
def test_packaged_weights_beat_a_baseline_that_knows_the_mask(tmp_path):
    """The demo profile with lite0 learns something, if only just."""
    run = cross_validate(make_config(data="demo", output=str(tmp_path)), say=lambda _: None)
    (baseline,) = run.report["baselines"]
    assert baseline["attribute"] == "mask"
    assert baseline["difference"]["low"] > 0
    ages = {row["name"]: row["f1_macro"]["value"] for row in run.report["attributes"]}
    assert min(ages, key=ages.get) == "age"
