"""Tests of suspected labels: planted errors are found, and --corrections removes them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foldblend.attributes import Attribute
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS
from foldblend.scores.rows import Rows
from folds.config import DataConfig
from folds.data.corrections import apply_corrections
from folds.data.labels import AGES, ATTRIBUTES, CLASSES, GENDERS, MASKS, decode, encode
from folds.data.layout import read_layout, relabel_for_training
from folds.data.source import load_manifest
from reports.run import compute as report_module
from reports.run.confident import SLACK, Judged, extreme_pairs, judge_pairs, judge_units
from reports.run.report import suspects_csv, write_report
from reports.run.suspects import _note, find_suspects
from tests.makers.edits import rehash

PEOPLE = 40
STEMS = ["mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal"]
MASK_OF_STEM = np.array([0, 0, 0, 0, 0, 1, 2])


def seen_as(value_N, num_values, *, confidence=0.95, spread=0.03, seed=0):
    """Return probabilities N x Y of Y values, with about `confidence` on the given value."""
    rng = np.random.default_rng(seed)
    confidence_N = np.clip(rng.normal(confidence, spread, len(value_N)), 0.02, 0.98)
    proba_NY = np.repeat((1 - confidence_N[:, None]) / (num_values - 1), num_values, axis=1)
    proba_NY[np.arange(len(value_N)), value_N] = confidence_N
    return proba_NY


def faces(*, age_confidence=0.95, age_spread=0.03, people=PEOPLE, seed=0):
    """Return arguments for people with seven images each, and their true attributes.

    All labels are right. Nobody is 60 or older, so six of the 18 classes do not occur.
    """
    person_N, stem_N = np.divmod(np.arange(7 * people), 7)
    mask_N = MASK_OF_STEM[stem_N]
    gender_N = person_N % 2
    age_N = person_N // 2 % 2
    parts = [seen_as(mask_N, 3, seed=seed), seen_as(gender_N, 2, seed=seed + 1)]
    parts += [seen_as(age_N, 3, confidence=age_confidence, spread=age_spread, seed=seed + 2)]
    proba_NC = np.einsum("nm,ng,na->nmga", *parts).reshape(len(person_N), 18)
    group_N = np.array([f"p{person:02d}" for person in person_N], dtype=object)
    return {
        "label_N": encode(mask_N, gender_N, age_N),
        "proba_NC": proba_NC,
        "group_N": group_N,
        "image_id_N": np.array(
            [f"{group}/{STEMS[stem]}.jpg" for group, stem in zip(group_N, stem_N, strict=True)]
        ),
        "repeat_N": np.zeros(len(person_N), np.int64),
        "classes": CLASSES,
        "attributes": ATTRIBUTES,
        "metric": "f1_macro",
    }


def find(*, label_N, group_N, repeat_N, proba_NC, image_id_N, **rest):
    """Call find_suspects with arrays by name."""
    return find_suspects(
        Rows.of(label_N, group_N, repeat_N=repeat_N),
        proba_NC,
        groups=pd.Series(group_N),
        image_ids=pd.Series(image_id_N),
        **rest,
    )


def lines(found):
    return [(one["kind"], one["target"], one["field"], one["value"]) for one in found["findings"]]


def relabel(args, rows, *, mask=None, gender=None, age=None):
    """Change attributes of some rows' labels, in place."""
    codes = [np.asarray(code).copy() for code in decode(args["label_N"][rows])]
    for code, value in zip(codes, (mask, gender, age), strict=True):
        if value is not None:
            code[:] = value
    args["label_N"][rows] = encode(*codes)


def rows_of(args, person, *stems):
    wanted = [f"{person}/{stem}.jpg" for stem in stems or STEMS]
    return np.flatnonzero(np.isin(args["image_id_N"], wanted))


def most_confident_mask(args, person):
    """Return the most confident image of a person with a mask; others are below the threshold."""
    rows = rows_of(args, person, *STEMS[:5])
    return rows[[args["proba_NC"][rows, args["label_N"][rows]].argmax()]]


def swap_labels(args, person, one, other):
    first = rows_of(args, person, one)[0]
    second = rows_of(args, person, other)[0]
    args["label_N"][[first, second]] = args["label_N"][[second, first]]


def test_nothing_is_reported_where_all_labels_are_right():
    found = find(**faces())
    assert found["findings"] == []
    assert found["summary"] == "none among 40 groups with 280 images"
    assert found["given"] == found["corrected"]
    assert not any("optimistic" in note for note in found["notes"])


def test_each_kind_of_error_is_one_finding_and_the_most_suspicious_comes_first():
    args = faces()
    truth = args["label_N"].copy()
    relabel(args, rows_of(args, "p04"), gender=1)
    bare = most_confident_mask(args, "p07")
    relabel(args, bare, mask=2)
    swap_labels(args, "p11", "incorrect_mask", "normal")
    found = find(**args)
    assert set(lines(found)) == {
        ("group", "p04", "gender", "male"),
        ("picture", args["image_id_N"][bare[0]], "mask", "worn"),
        ("swap", "p11", "swap", "incorrect_mask normal"),
    }
    assert found["summary"] == "1 group, 1 swapped pair, 1 image among 40 groups with 280 images"
    probas = [one["proba"] for one in found["findings"]]
    assert probas == sorted(probas)
    of = {one["kind"]: one for one in found["findings"]}
    assert of["group"]["text"] == "p04: gender female, 7 of 7 images look male"
    assert (of["group"]["given"], of["group"]["suggested"]) == ("female", "male")
    assert of["group"]["image_ids"] == sorted(args["image_id_N"][rows_of(args, "p04")])
    gender_proba = args["proba_NC"].reshape(-1, 3, 2, 3).sum(axis=(1, 3))[rows_of(args, "p04"), 1]
    assert of["group"]["proba"] == pytest.approx(gender_proba.mean())
    assert of["picture"]["text"] == f"{args['image_id_N'][bare[0]]}: mask not worn, looks worn"
    assert of["swap"]["given"] == "not worn and incorrect"
    assert of["swap"]["suggested"] == "incorrect and not worn"
    assert of["swap"]["image_ids"] == ["p11/incorrect_mask.jpg", "p11/normal.jpg"]
    score = METRICS["f1_macro"].score
    assert found["given"]["value"] == pytest.approx(score(args["label_N"], args["proba_NC"]))
    assert found["corrected"]["value"] == pytest.approx(score(truth, args["proba_NC"]))
    warning = next(note for note in found["notes"] if "optimistic" in note)
    assert all(f"{found[key]['value']:.4f}" in warning for key in ("given", "corrected"))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_group_whose_images_do_not_agree_is_not_reported():
    args = faces()
    # Six of seven images look female with high confidence, and one male: these are not nearly all.
    shape = (len(args["label_N"]), 3, 2, 3)
    proba = args["proba_NC"].reshape(shape).copy()
    mirrored = rows_of(args, "p04")[:6]
    proba[mirrored] = proba[mirrored][:, :, ::-1]
    args["proba_NC"] = proba.reshape(-1, 18)
    assert find(**args)["findings"] == []
    proba[rows_of(args, "p04")[6:]] = proba[rows_of(args, "p04")[6:]][:, :, ::-1]
    assert lines(find(**args | {"proba_NC": proba.reshape(-1, 18)})) == [
        ("group", "p04", "gender", "female")
    ]


def test_a_poorly_predicted_attribute_is_left_out_with_a_note():
    args = faces(age_confidence=0.5, age_spread=0.4)
    args["proba_NC"] = args["proba_NC"].reshape(PEOPLE, 7, 18)
    # All images of a person look alike, so that agreement does not help: a third of the people have
    # predictions of the wrong age.
    rng = np.random.default_rng(3)
    age_G = decode(args["label_N"][::7])[2]
    looks_G = rng.random(PEOPLE) < 1 / 3
    looks_N = np.repeat(np.where(looks_G, 1 - age_G, age_G), 7)
    mask_N, gender_N, _ = decode(args["label_N"])
    parts = [
        seen_as(mask_N, 3),
        seen_as(gender_N, 2, seed=1),
        seen_as(looks_N, 3, confidence=0.8, spread=0.1, seed=2),
    ]
    args["proba_NC"] = np.einsum("nm,ng,na->nmga", *parts).reshape(-1, 18)
    relabel(args, rows_of(args, "p05"), gender=0)
    found = find(**args)
    assert lines(found) == [("group", "p05", "gender", "female")]
    left_out = [note for note in found["notes"] if "not reported" in note]
    assert len(left_out) == 1
    assert left_out[0].startswith("age (per group): not reported")


@pytest.mark.parametrize("num_values", [2, 3])
def test_the_reported_power_equals_that_on_single_wrong_labels(num_values):
    rng = np.random.default_rng(num_values)
    unit_N = np.repeat(np.arange(30), rng.integers(1, 5, 30))
    given_U = np.arange(30) % num_values
    given_U[given_U == num_values - 1] = 0
    # Only unit 0 has this value, so nothing would have it if the label of unit 0 were wrong.
    given_U[0] = num_values - 1
    proba_NY = (
        rng.dirichlet(np.full(num_values, 0.4), len(unit_N))
        + 0.5 * np.eye(num_values)[given_U[unit_N]]
    )
    proba_NY /= proba_NY.sum(axis=1, keepdims=True)
    judged = judge_units(given_U[unit_N], proba_NY, unit_N)
    assert 3 < judged.detectable.sum() < 28
    for unit in range(1, 30):
        for other in set(range(num_values)) - {given_U[unit]}:
            wrong_U = given_U.copy()
            wrong_U[unit] = other
            again = judge_units(wrong_U[unit_N], proba_NY, unit_N)
            flagged = bool(again.flagged[unit]) and again.best[unit] == given_U[unit]
            assert flagged == judged.detectable[unit], (unit, other)
    assert not judged.detectable[0]


def judged_as(*, units, flagged, detectable):
    return Judged(np.zeros(units, int), np.arange(units) < flagged, np.arange(units) < detectable)


@pytest.mark.parametrize(
    ("flagged", "detectable", "words"),
    [
        # 11.3 of 1,647 labels would be found if 1 % were wrong, which is more than look wrong.
        (8, 1130, "; if 0.71 % of the labels are wrong, nearly all of these 8 are real."),
        (11, 1130, "; if 0.97 % of the labels are wrong, nearly all of these 11 are real."),
        (12, 1130, "; if 1 % of the labels are wrong, nearly all of these 12 are real."),
        (25, 1200, "; if 1 % of the labels are wrong, about 12.0 of these 25 are real."),
        (1, 1130, "; if 0.088 % of the labels are wrong, this one is probably real."),
        (0, 1130, "This check finds about 69% of wrong ones."),
    ],
)
def test_no_more_labels_are_real_than_look_wrong(flagged, detectable, words):
    note = _note("label", "labels", judged_as(units=1647, flagged=flagged, detectable=detectable))
    assert note.startswith(f"label: {flagged} of 1,647 labels look wrong. This check finds about ")
    assert note.endswith(words)


@pytest.mark.parametrize("seed", range(20))
def test_the_estimate_never_exceeds_the_number_that_looks_wrong(seed):
    rng = np.random.default_rng(seed)
    units = int(rng.integers(50, 3000))
    detectable = int(rng.integers(units // 2, units + 1))
    flagged = int(rng.integers(1, max(detectable // 10, 2)))
    note = _note("x", "labels", judged_as(units=units, flagged=flagged, detectable=detectable))
    share, tail = note.split("; if ")[1].split(" % of the labels are wrong, ")
    assert 0 < float(share) <= 1
    if tail.startswith("about"):
        about, of = tail.removeprefix("about ").removesuffix(" are real.").split(" of these ")
        assert float(about) <= int(of.replace(",", "")) == flagged


def test_a_suggested_value_must_reach_its_threshold():
    # Value 1 rarely has a high probability, so 0.42 is above its threshold. Value 2 has more here,
    # but far less than it usually has.
    proba = (
        [[0.98, 0.01, 0.01]] * 5
        + [[0.3, 0.4, 0.3]] * 5
        + [[0.01, 0.01, 0.98]] * 5
        + [[0.1, 0.42, 0.48]]
    )
    given = np.array([0] * 5 + [1] * 5 + [2] * 5 + [0])
    judged = judge_units(given, np.array(proba), np.arange(16))
    assert not judged.flagged.any()
    proba[-1] = [0.1, 0.48, 0.42]
    judged = judge_units(given, np.array(proba), np.arange(16))
    assert np.flatnonzero(judged.flagged).tolist() == [15]


@pytest.mark.parametrize("seed", range(30))
def test_images_are_judged_as_by_cleanlab(seed):
    issues = pytest.importorskip("cleanlab.filter").find_label_issues
    thresholds = pytest.importorskip("cleanlab.count").get_confident_thresholds
    rng = np.random.default_rng(seed)
    num_values = int(rng.integers(2, 6))
    rows = np.arange(int(rng.integers(num_values, 300)))
    given = rng.permutation(rows) % num_values
    proba = rng.dirichlet(np.full(num_values, rng.choice([0.1, 1, 10])), len(rows))
    # Some labels are likely, some are as likely as another value up to rounding.
    proba[given != rng.integers(num_values, size=len(rows)), given[0]] += rng.choice([0, 0.5])
    proba[::5] = 1 / num_values + rng.uniform(-SLACK, SLACK, proba[::5].shape)
    proba /= proba.sum(axis=1, keepdims=True)
    judged = judge_units(given, proba, rows)
    # Units of one image are judged by the probabilities that cleanlab gets.
    scaled = np.exp(np.log(proba) - np.log(proba).max(axis=1, keepdims=True))
    scaled /= scaled.sum(axis=1, keepdims=True)
    best = scaled.argmax(axis=1)
    sure = scaled[rows, best] >= thresholds(given, scaled)[best] - SLACK
    found = issues(given, scaled, filter_by="confident_learning", n_jobs=1)
    assert judged.flagged.tolist() == (found & sure).tolist()


def pairs_one_by_one(value_N, proba_NE, within_N):
    """Return what `extreme_pairs` does, by comparing all rows of two values."""
    log = np.log(proba_NE)
    found = []
    for group in np.unique(within_N):
        values = np.unique(value_N[within_N == group])
        for one, other in itertools.combinations(values, 2):
            ones, others = (
                np.flatnonzero((within_N == group) & (value_N == value)) for value in (one, other)
            )
            first = ones[(log[ones, other] - log[ones, one]).argmax()]
            second = others[(log[others, one] - log[others, other]).argmax()]
            gains = (log[first, other] - log[first, one], log[second, one] - log[second, other])
            found.append((first, second, sum(gains)))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_best_pair_of_two_values_of_a_group(seed):
    rng = np.random.default_rng(seed)
    num = int(rng.integers(1, 80))
    value = rng.integers(4, size=num)
    within = rng.integers(12, size=num)
    # Rounded, so that some rows are equally good.
    proba = rng.integers(1, 4, size=(num, 4)) / 10
    pairs, gains = extreme_pairs(value, proba, within)
    expected = pairs_one_by_one(value, proba, within)
    assert pairs.tolist() == [[one, other] for one, other, _ in expected]
    assert gains.tolist() == [gain for _, _, gain in expected]


def test_pairs_are_flagged_by_how_much_more_likely_the_exchange_is():
    gains = np.array([-9.0] * 30 + [9.0, 1.0, -1.0])
    judged = judge_pairs(gains)
    assert np.flatnonzero(judged.flagged).tolist() == [30]
    assert judged.detectable.tolist() == [True] * 30 + [False] * 3
    assert judged.is_credible


def test_repeats_are_averaged_before_anything_is_judged():
    args = faces()
    relabel(args, rows_of(args, "p04"), gender=1)
    # The second repeat predicts the wrong label, but with less confidence than the first one
    # predicts the truth.
    other = faces(seed=9)
    gender = args["proba_NC"].reshape(-1, 3, 2, 3)
    second = other["proba_NC"].reshape(-1, 3, 2, 3).copy()
    rows = rows_of(args, "p04")
    second[rows] = 0.3 * gender[rows] + 0.7 * gender[rows][:, :, ::-1]
    second_only = find(**args | {"proba_NC": second.reshape(-1, 18)})
    assert second_only["findings"] == []
    first = 0.999 * gender + 0.001 * gender[:, :, ::-1]
    twice = {
        name: np.concatenate([args[name], args[name]])
        for name in ("label_N", "group_N", "image_id_N")
    }
    twice |= {"repeat_N": np.repeat([0, 1], len(gender))}
    for share, expected in ((0.0, 0), (1.0, 1)):
        third = share * first + (1 - share) * second.reshape(gender.shape)
        proba = np.concatenate([third.reshape(-1, 18), third.reshape(-1, 18)])
        found = find(**args | twice | {"proba_NC": proba})
        assert len(found["findings"]) == expected
        assert found["summary"].endswith("40 groups with 280 images")
    assert len(found["findings"][0]["image_ids"]) == 7
    mixed = np.concatenate([first.reshape(-1, 18), first.reshape(-1, 18)])
    again = find(**args | twice | {"proba_NC": mixed})
    order = np.random.default_rng(0).permutation(len(mixed))
    shuffled = {name: array[order] for name, array in (twice | {"proba_NC": mixed}).items()}
    assert lines(find(**args | shuffled)) == lines(again)


def generic(tmp_path, table, **columns):
    """Read a table as a CSV data set, with a file for each image."""
    for name in table["image"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    table.to_csv(tmp_path / "any.csv", index=False)
    return load_manifest(DataConfig(csv=str(tmp_path / "any.csv"), **columns))


def found_in(manifest, proba_NC):
    train = manifest.train
    return find(
        label_N=train["label"].to_numpy(),
        proba_NC=proba_NC,
        group_N=train["group"].to_numpy(),
        image_id_N=train["image_id"].to_numpy(),
        repeat_N=np.zeros(len(train), np.int64),
        classes=manifest.classes,
        attributes=manifest.attributes,
        metric="f1_macro",
    )


def corrected_by(manifest, found, file):
    file.write_text(suspects_csv({"suspects": found}))
    return apply_corrections(manifest, file).train["label"].to_numpy()


NAMES = ['the "quick", brown', "it's <30", "=SUM(A1)"]


def test_names_with_quotes_and_commas_and_stems_with_spaces_survive_the_file(tmp_path):
    truth_N = np.arange(60) % 3
    labels_N = truth_N.copy()
    labels_N[7] = 0  # predicted as 1
    labels_N[[30, 31]] = truth_N[[31, 30]]  # swapped; p10 has stems with spaces
    labels_N[[12, 13]] = truth_N[[13, 12]]  # swapped; p04 has stems without spaces
    labels_N[[45, 46]] = truth_N[[46, 45]]  # swapped; p15 has one stem twice
    names = [
        f"p{index // 3:02d}/{'a view' if index // 3 == 10 else 'view'} {index % 3}.jpg"
        for index in range(60)
    ]
    names = [name.replace(" ", "_") if "p10" not in name else name for name in names]
    names[45] = "p15/x/view.jpg"
    names[46] = "p15/y/view.png"
    labels_N[[54, 55]] = truth_N[[55, 54]]  # swapped; p18 is called like an image
    groups = np.array([f"p, {index // 3:02d}" for index in range(60)], dtype=object)
    groups[54:57] = names[56]
    table = pd.DataFrame(
        {"image": names, "label": [NAMES[one] for one in labels_N], "group": groups}
    )
    manifest = generic(tmp_path, table, group_col="group")
    code = {name: manifest.classes.index(name) for name in NAMES}
    wanted = dict(zip(names, [code[NAMES[one]] for one in truth_N], strict=True))
    truth = manifest.train["image_id"].map(wanted).to_numpy()
    found = found_in(manifest, seen_as(truth, 3))
    kinds = [(one["kind"], one["field"]) for one in found["findings"]]
    assert sorted(kinds) == [("picture", "label")] * 7 + [("swap", "swap")]
    swap = next(one for one in found["findings"] if one["kind"] == "swap")
    assert (swap["target"], swap["value"]) == ("p, 04", "view_0 view_1")
    file = tmp_path / "suspects.csv"
    assert (corrected_by(manifest, found, file) == truth).all()
    assert (manifest.train["label"] != truth).sum() == 9
    assert pd.read_csv(file).columns.tolist() == ["target", "field", "value", "why"]
    assert suspects_csv({"suspects": {"findings": []}}) is None


def test_no_image_is_in_two_swaps(tmp_path):
    # Three labels are rotated. Each pair of the images is more likely with exchanged labels, but
    # only one pair can be exchanged.
    truth = np.arange(60) % 3
    proba = seen_as(truth, 3)
    labels = truth.copy()
    labels[:3] = [1, 2, 0]
    proba[:3] = [[0.9, 0.0001, 0.0999], [0.0999, 0.9, 0.0001], [0.0001, 0.0999, 0.9]]
    table = pd.DataFrame({"image": [f"{index:02d}.jpg" for index in range(60)], "label": labels})
    manifest = generic(
        tmp_path,
        table.assign(group=[f"g{index // 3:02d}" for index in range(60)]),
        group_col="group",
    )
    found = found_in(manifest, proba)
    assert [one["kind"] for one in found["findings"]].count("swap") == 1
    new = corrected_by(manifest, found, tmp_path / "suspects.csv")
    assert (new[3:] == truth[3:]).all()
    assert found["corrected"]["value"] == pytest.approx(METRICS["f1_macro"].score(new, proba))


def test_a_group_with_the_name_of_an_image_is_corrected_image_by_image(tmp_path):
    # Each group has the name of its first image, so a line for the group would change that image.
    truth = np.arange(80) // 2 % 2
    names = np.array([f"{index:02d}.jpg" for index in range(80)], dtype=object)
    proba = seen_as(truth, 2)
    proba[10:12] = proba.max()
    proba[10:12, 0] = 1 - proba.max()
    labels = np.where(np.isin(np.arange(80), [10, 11]), 0, truth)
    table = pd.DataFrame({"image": names, "label": labels, "group": np.repeat(names[::2], 2)})
    manifest = generic(tmp_path, table, group_col="group")
    found = found_in(manifest, proba)
    assert {one["kind"] for one in found["findings"]} == {"picture"}
    assert (corrected_by(manifest, found, tmp_path / "suspects.csv") == truth).all()


def test_images_without_groups_and_classes_that_do_not_occur(tmp_path):
    truth = np.arange(50) % 2
    table = pd.DataFrame({"image": [f"{index:02d}.jpg" for index in range(50)], "label": truth + 5})
    manifest = generic(tmp_path, table)
    labels = manifest.train["label"].to_numpy().copy()
    proba = seen_as(truth, 2)
    most_confident = int(proba[:, 1].argmax())
    labels[most_confident] = 0
    manifest.train["label"] = labels
    found = found_in(manifest, proba)
    assert lines(found) == [("picture", f"{most_confident:02d}.jpg", "label", "6")]
    assert found["summary"] == "1 image among 50 images"
    assert (corrected_by(manifest, found, tmp_path / "suspects.csv") == truth).all()
    # The same with classes that the data do not have, which hold most of the probability.
    rest = np.full((50, 2), 0.45)
    wide = np.concatenate([rest, proba * 0.1], axis=1)
    args = {
        "group_N": manifest.train["group"].to_numpy(),
        "image_id_N": manifest.train["image_id"].to_numpy(),
    }
    again = find(
        label_N=labels + 2,
        proba_NC=wide,
        **args,
        repeat_N=np.zeros(50, np.int64),
        classes=["a", "b", "5", "6"],
        attributes=(),
        metric="f1_macro",
    )
    assert lines(again) == lines(found)


def test_the_class_is_judged_where_attributes_do_not_determine_it():
    args = faces()
    bare = most_confident_mask(args, "p07")
    name = CLASSES[args["label_N"][bare[0]]]
    relabel(args, bare, mask=2)
    found = find(**args | {"attributes": ATTRIBUTES[:2]})
    assert lines(found) == [("picture", args["image_id_N"][bare[0]], "label", name)]
    # An attribute that equals the class is judged in place of the class, and once per group where
    # the images of a group share it.
    gender = decode(args["label_N"])[1].copy()
    two = args["proba_NC"].reshape(-1, 3, 2, 3).sum(axis=(1, 3))
    gender[rows_of(args, "p04")] = 1
    sex = Attribute(name="sex", values=("m", "f"), of_class=(0, 1))
    given = {"label_N": gender, "proba_NC": two, "classes": GENDERS}
    assert lines(find(**args | given | {"attributes": (sex,)})) == [("group", "p04", "sex", "m")]
    assert lines(find(**args | given | {"attributes": ()})) == [("group", "p04", "label", "male")]


def test_a_value_that_most_groups_share_by_chance_is_judged_per_image():
    # Nine of ten patients have only healthy moles; the ill ones have both kinds.
    group = np.repeat(np.arange(40), 5)
    truth = ((group % 10 == 0) & (np.arange(200) % 5 < 2)).astype(int)
    labels = truth.copy()
    labels[33] = 1
    args = {
        "label_N": labels,
        "proba_NC": seen_as(truth, 2),
        "group_N": group.astype(str).astype(object),
    }
    args |= {"image_id_N": np.array([f"m{index:03d}.jpg" for index in range(200)], dtype=object)}
    args |= {
        "repeat_N": np.zeros(200, np.int64),
        "classes": ["healthy", "ill"],
        "attributes": (),
        "metric": "accuracy",
    }
    assert lines(find(**args)) == [("picture", "m033.jpg", "label", "healthy")]


@pytest.mark.parametrize(
    ("labels", "num_classes"),
    [([0] * 6, 1), ([0] * 6, 3), ([0, 1], 2), ([0, 0, 0, 1], 2), ([0, 1, 2], 5), ([0], 1)],
)
@pytest.mark.parametrize("metric", ["f1_macro", "roc_auc_ovr"])
@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_tiny_data_and_single_classes_do_not_fail(labels, num_classes, metric):
    labels = np.array(labels)
    names = np.array([f"{index}.jpg" for index in range(len(labels))], dtype=object)
    for group in (names, np.array(["one"] * len(labels), dtype=object)):
        proba = np.full((len(labels), num_classes), 1 / num_classes)
        proba[0] = np.eye(num_classes)[-1]
        found = find(
            label_N=labels,
            proba_NC=proba,
            group_N=group,
            image_id_N=names,
            repeat_N=np.zeros(len(labels), np.int64),
            classes=[f"c{index}" for index in range(num_classes)],
            attributes=(),
            metric=metric,
        )
        json.dumps(found, allow_nan=False)


def planted_run(run, truth_N):
    """Rewrite the out-of-fold rows of a run so that its models predict the truth."""
    parts = [
        seen_as(code, size, seed=seed)
        for seed, (code, size) in enumerate(zip(decode(truth_N), (3, 2, 3), strict=True))
    ]
    logits = np.log(np.einsum("nm,ng,na->nmga", *parts).reshape(-1, 18))
    columns = [name for name in run.oof if not str(name).startswith("logit_")]
    table = pd.concat(
        [run.oof[columns], pd.DataFrame(logits.astype(np.float32)).add_prefix("logit_")], axis=1
    )
    table.to_parquet(run.path / "oof.parquet", index=False)
    rehash(run.path / "oof.parquet")
    return Run(run.path)


def test_from_a_run_to_corrected_labels_and_back(runs_copy, tiny_layout):
    run = Run(runs_copy / "alpha")
    manifest = read_layout(tiny_layout)
    rows = run.oof.merge(manifest.train[["image_id", "path"]], on="image_id", how="left")
    truth = rows["label"].to_numpy().copy()
    stems = rows["path"].map(lambda path: Path(path).stem).to_numpy()
    # The predictions imply that the gender of one person and two images of another are wrong in the
    # files.
    person, other = manifest.train["group"].unique()[[2, 5]]
    mask, gender, age = (code.copy() for code in decode(truth))
    gender[rows["group"] == person] = 1 - gender[rows["group"] == person]
    for stem, value in (("incorrect_mask", 2), ("normal", 1)):
        mask[(rows["group"] == other) & (stems == stem)] = value
    truth = encode(mask, gender, age)
    run = planted_run(run, truth)
    text = write_report(run, page=False)
    found = run.report["suspects"]
    assert set(lines(found)) == {
        ("group", person, "gender", GENDERS[gender[rows["group"] == person][0]]),
        ("swap", other, "swap", "incorrect_mask normal"),
    }
    assert "suspected labels: 1 person, 1 swapped pair among 12 people" in " ".join(text.split())
    assert "optimistic" in text
    corrected = apply_corrections(manifest, run.path / "suspects.csv").train.set_index("image_id")[
        "label"
    ]
    assert (corrected[rows["image_id"]].to_numpy() == truth).all()
    assert (
        manifest.train.set_index("image_id")["label"][rows["image_id"]].to_numpy() != truth
    ).sum() == 7 + 2
    # Nothing is suspected any more, so the earlier file is deleted.
    run = planted_run(run, rows["label"].to_numpy())
    write_report(run, page=False)
    assert run.report["suspects"]["findings"] == []
    assert not (run.path / "suspects.csv").exists()


def test_a_file_that_was_edited_stays(runs_copy, monkeypatch):
    run = Run(runs_copy / "alpha")
    truth = run.oof["label"].to_numpy().copy()
    run = planted_run(run, truth)
    rows = run.oof.assign(
        label=np.where(run.oof["group"] == run.oof["group"][0], (truth + 3) % 18, truth)
    )
    rows.to_parquet(run.path / "oof.parquet", index=False)
    rehash(run.path / "oof.parquet")
    run = Run(run.path)
    write_report(run, page=False)
    file = run.path / "suspects.csv"
    written = file.read_bytes()
    write_report(run, page=False)
    assert file.read_bytes() == written
    file.write_text("target,field,value\nmine,gender,flip\n")
    write_report(run, page=False)
    monkeypatch.setattr(report_module, "find_suspects", lambda *_, **__: {"skipped": "not checked"})
    write_report(run, page=False)
    assert file.read_text() == "target,field,value\nmine,gender,flip\n"


def test_labels_are_not_checked_where_folds_split_groups(runs_copy):
    run = Run(runs_copy / "alpha")
    table = run.oof.assign(fold=np.arange(len(run.oof)) % 2)
    table.to_parquet(run.path / "oof.parquet", index=False)
    rehash(run.path / "oof.parquet")
    found = report_module.compute_report(Run(run.path))["suspects"]
    assert "people are split between folds" in found["skipped"]


def test_corrections_accept_age_groups_and_remove_the_age_in_years(layout_copy):
    manifest = read_layout(layout_copy)
    person = manifest.train["group"][0]
    for number, name in enumerate(AGES):
        (layout_copy / "fix.csv").write_text(f"target,field,value\n{person},age,{name}\n")
        fixed = apply_corrections(manifest, layout_copy / "fix.csv")
        theirs = fixed.train["group"] == person
        assert set(decode(fixed.train["label"][theirs].to_numpy())[2]) == {number}
        assert fixed.train["age"][theirs].isna().all()
        assert (fixed.train["age"][~theirs] == manifest.train["age"][~theirs]).all()
        # The earlier age in years must not undo the correction.
        learnt_N = (
            relabel_for_training(fixed, old_from=1, drop_ages=None).train["label_fit"].to_numpy()
        )
        assert set(decode(learnt_N[theirs.to_numpy()])[2]) == {number}
    (layout_copy / "fix.csv").write_text(f"target,field,value\n{person},mask,{MASKS[1]}\n")
    train = apply_corrections(manifest, layout_copy / "fix.csv").train
    assert set(decode(train["label"][train["group"] == person].to_numpy())[0]) == {1}
