"""Blends read from their folders: the bits of test.parquet, refits of older ones, damaged files."""

import doctest
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.numpy
import yaml

import foldblend as fb
from ensemble import saved
from ensemble.blend import blend
from ensemble.methods import trees
from ensemble.methods.registry import METHODS
from ensemble.parameters_file import KEY, PARAMETERS, VERSION, content_hash
from ensemble.saved import load_blend
from foldblend.errors import UserError
from foldblend.files import write_bytes
from foldblend.runs.folder import lock_folder
from foldblend.runs.run import Run
from tests.makers.constants import ROOT
from tests.makers.edits import edit_run, edit_table
from tests.makers.synthetic_runs import write_synthetic_run

NUM_FOLDS = 5
ALL = [
    *[{"method": name} for name in METHODS],
    {"method": "tempered", "budget": "2x"},
    {"method": "rank", "budget": "2x"},
    {"weights": (1.0, 0.0, 3.0)},
    {"method": "hard", "weights": (1.0, 2.0, 3.0)},
]
MEAN_OF_METHODS = {"method": "auto"}
DROPPED = {"method": "tempered", "budget": "2x", "drop_harmful": True}
WITHIN_BUDGET = {"method": "auto", "budget": "2x"}


def called(settings):
    return "-".join(str(one).replace(" ", "") for one in settings.values())


def quiet(_):
    pass


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Return a folder with three runs of 24 groups and 20 test images; read-only."""
    folder = tmp_path_factory.mktemp("runs")
    for name, strength, seed in (("a", 1.1, 0), ("b", 1.0, 1), ("c", 0.5, 2)):
        write_synthetic_run(folder / name, num_people=24, num_test=20, strength=strength, seed=seed)
    return folder


@pytest.fixture(autouse=True)
def _some_trees(monkeypatch):
    """Let trees have ten rounds, as on data where they help; choosing the number is slow."""
    monkeypatch.setattr(trees, "_best_rounds", lambda *_: 10)


@pytest.fixture
def make(outputs, tmp_path):
    """Return a function that blends the runs into a folder of their copies."""
    copies = shutil.copytree(outputs, tmp_path / "outputs")

    def make_(**settings):
        runs = [copies / name for name in "abc"]
        return blend(runs, page=False, say=quiet, **({"name": "blended"} | settings)).path

    return make_


def given(folders, fold):
    """Return the test logits of the runs' models of a fold; their means for None."""
    for one in map(Run, folders):
        yield one.logits(one.test if fold is None else one.test_fold(fold))


def blended_test(loaded, outputs, folds=range(NUM_FOLDS)):
    folders = [outputs / one.name for one in loaded.members]
    ids = Run(folders[0]).test["image_id"]
    return loaded.table(ids, [given(folders, fold) for fold in folds])


@pytest.mark.parametrize("settings", [*ALL, MEAN_OF_METHODS], ids=called)
def test_a_blend_applied_from_its_folder_alone_gives_its_test_logits_to_the_bit(
    make, outputs, tmp_path, settings
):
    folder = make(**settings)
    alone = shutil.copytree(folder, tmp_path / "alone" / "blended")
    shutil.rmtree(tmp_path / "outputs")
    loaded = load_blend(alone)
    assert [one.name for one in loaded.members] == ["a", "b", "c"]
    assert sum(loaded.shares) == pytest.approx(1)
    pd.testing.assert_frame_equal(blended_test(loaded, outputs), Run(alone).test, check_exact=True)
    for fold in range(NUM_FOLDS):
        logits_NC = loaded.apply(given([outputs / name for name in "abc"], fold))
        assert logits_NC.dtype == np.float64
        expected_NC = Run(alone).logits(Run(alone).test_fold(fold))
        np.testing.assert_array_equal(logits_NC.astype(np.float32), expected_NC)


@pytest.mark.parametrize("settings", [{"method": "soft"}, {"method": "hard"}], ids=called)
def test_members_with_different_numbers_of_folds_are_blended_by_their_means(
    make, tmp_path, settings
):
    of = {"name": "z", "oof": "0"}
    edit_run(tmp_path / "outputs" / "b", kind="tta", of=of, passes=5, num_test_folds=4)
    folder = make(**settings)
    loaded = load_blend(folder)
    found = blended_test(loaded, folder.parent, folds=[None])
    pd.testing.assert_frame_equal(found, Run(folder).test, check_exact=True)
    assert refitted_bytes(folder) == (folder / PARAMETERS).read_bytes()


def refitted_bytes(folder):
    """Return the parameters that a refit writes in their place."""
    said = []
    (folder / PARAMETERS).unlink()
    load_blend(folder, say=said.append)
    assert len(said) == 1
    assert "refitted from its members, and the file was written" in said[0]
    load_blend(folder, say=said.append)
    assert len(said) == 1
    return (folder / PARAMETERS).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [*ALL, DROPPED, WITHIN_BUDGET], ids=called)
def test_an_older_blend_is_refitted_once_to_the_same_bytes(make, settings):
    folder = make(**settings)
    before = (folder / PARAMETERS).read_bytes()
    assert refitted_bytes(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rank", "stack", "trees"])
def test_a_repeated_blend_writes_the_same_parameters(make, name):
    first = make(method=name, name="first")
    second = make(method=name, name="second", config=str(first / "blend.yaml"))
    assert (first / PARAMETERS).read_bytes() == (second / PARAMETERS).read_bytes()


@pytest.mark.slow
def test_another_blend_in_the_folder_leaves_no_parameters_of_the_first(make):
    folder = make(method="rank")
    make(method="soft", overwrite=True)
    assert load_blend(folder).parameters.method == "soft"
    # The same blend again, as an earlier version would write it: without a parameter file.
    ranked = make(method="rank", name="ranked")
    shutil.copy(ranked / PARAMETERS, folder / PARAMETERS)
    with pytest.raises(UserError, match="it is of another blend; remove"):
        load_blend(folder)
    make(method="soft")
    assert load_blend(folder).parameters.method == "soft"


def test_a_folder_that_cannot_be_written_is_read_all_the_same(make, monkeypatch):
    folder = make(method="weights")
    before = load_blend(folder).parameters
    (folder / PARAMETERS).unlink()

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    said = []
    with monkeypatch.context() as patch:
        patch.setattr(saved, "write_bytes", fail)
        assert load_blend(folder, say=said.append).parameters.fitted == before.fitted
    assert "could not be written (Permission denied)" in said[0]
    with lock_folder(folder):
        assert load_blend(folder, say=said.append).parameters.fitted == before.fitted
    assert "could not be written" in said[1]
    assert not (folder / PARAMETERS).exists()


def test_a_refit_while_another_blend_is_written_there_writes_nothing(make, monkeypatch):
    folder = make(method="weights")
    (folder / PARAMETERS).unlink()
    refit = saved.refitted

    def meanwhile(run):
        parameters = refit(run)
        settings = folder / "blend.yaml"
        write_bytes(settings, settings.read_text() + "# changed\n")
        return parameters

    monkeypatch.setattr(saved, "refitted", meanwhile)
    load_blend(folder, say=quiet)
    assert not (folder / PARAMETERS).exists()


def edit_settings(folder, change):
    file = folder / "blend.yaml"
    settings = yaml.safe_load(file.read_text())
    change(settings)
    file.write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: shutil.rmtree(folder.parent / "b"), ["/b is gone", "put these run"]),
        (
            lambda folder: [shutil.rmtree(folder.parent / name) for name in "ac"],
            ["/a, ", "/c are gone"],
        ),
        (
            lambda folder: edit_table(
                folder.parent / "b" / "oof.parquet", lambda table: table.assign(logit_0=0.0)
            ),
            ["/b: its out-of-fold logits changed"],
        ),
        (lambda folder: (folder / "blend.yaml").unlink(), ["blend.yaml: absent", "make it again"]),
        (lambda folder: (folder / "blend.yaml").write_text("{oops"), ["blend.yaml: absent"]),
        (
            lambda folder: edit_settings(folder, lambda made: made.pop("found")),
            ["without the fitted method"],
        ),
        (
            lambda folder: edit_settings(folder, lambda made: made["found"].update(offsets=[0.0])),
            ["blend.yaml: absent, damaged"],
        ),
        (
            lambda folder: edit_settings(folder, lambda made: made["found"].update(method="mean")),
            ["method, mean, is unknown", "python blend.py --config", "--name blended"],
        ),
        (
            lambda folder: edit_settings(folder, lambda made: made["found"].update(method="log")),
            ["gives other logits", "python blend.py --config"],
        ),
        (
            lambda folder: edit_table(
                folder / "test.parquet", lambda table: table.assign(logit_1=1.0)
            ),
            ["gives other logits"],
        ),
    ],
)
def test_a_blend_that_cannot_be_refitted(make, change, words):
    folder = make(method="weights")
    (folder / PARAMETERS).unlink()
    change(folder)
    with pytest.raises(UserError) as error:
        load_blend(folder)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert not (folder / PARAMETERS).exists()


def rewrite(file, change):
    """Change the header and the arrays of a parameter file."""
    with safetensors.safe_open(file, framework="np") as opened:
        header = json.loads(opened.metadata()[KEY])
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(header, arrays)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header["hash"] = content_hash(header.get(KEY), arrays)
    file.write_bytes(safetensors.numpy.save(arrays, {KEY: json.dumps(header)}))


def fields(header):
    return header[KEY]["fields"]


STACK = f"{KEY}.fitted.weight_MCE"
DAMAGE = [
    (lambda header, _: header.update(version=VERSION + 1), ["newer version", "install"]),
    (lambda header, _: header.update(key="other"), ["another blend"]),
    (lambda header, _: header.pop(KEY), ["damaged"]),
    (lambda header, _: header.pop("version"), ["damaged"]),
    (lambda header, _: header.update({KEY: [1]}), ["it is not a blend"]),
    (lambda header, _: fields(header)["fitted"].update(kind="os.system"), ["os.system", "unknown"]),
    (lambda header, _: fields(header)["fitted"].update(kind="rank"), ["rank", "damaged"]),
    (lambda header, _: fields(header)["fitted"]["fields"].pop("spread"), ["spread"]),
    (lambda header, _: fields(header)["fitted"]["fields"].update(more=1), ["more"]),
    (lambda header, _: fields(header).update(fitted=None), ["damaged"]),
    (lambda _, arrays: arrays.pop(STACK), [STACK, "missing"]),
    (lambda _, arrays: arrays.update({STACK: arrays[STACK] + np.nan}), [STACK, "not finite"]),
    (lambda _, arrays: arrays.update({STACK: arrays[STACK] * 1e308}), ["damaged"]),
    (lambda _, arrays: arrays.update({STACK: arrays[STACK][:, 1:]}), ["2 members, not 3"]),
    (lambda _, arrays: arrays.update({STACK: arrays[STACK].ravel()}), ["damaged"]),
    (
        lambda _, arrays: arrays.update({f"{KEY}.offsets_C": np.zeros(4)}),
        ["offsets_C has 4 C, not 18"],
    ),
    (
        lambda _, arrays: arrays.update({f"{KEY}.fitted.class_E": 99 + arrays[STACK][0, 0]}),
        ["damaged"],
    ),
    (
        lambda _, arrays: arrays.update({f"{KEY}.fitted.bias_E": np.zeros(2)}),
        ["bias_E has 2 E, not"],
    ),
    (
        lambda header, _: fields(header)["fitted"]["fields"].update(temperatures=[1.0, 1.0]),
        ["damaged"],
    ),
]


@pytest.fixture(scope="module")
def stacked(outputs, tmp_path_factory):
    """Return a blend by stacking; read-only."""
    runs = [outputs / name for name in "abc"]
    where = str(tmp_path_factory.mktemp("blend"))
    return blend(runs, method="stack", name="stacked", output=where, page=False, say=quiet).path


@pytest.fixture
def stack_copy(stacked, tmp_path):
    return shutil.copytree(stacked, tmp_path / "stacked")


def assert_refused(folder, words):
    with pytest.raises(UserError) as error:
        load_blend(folder)
    message = str(error.value)
    assert "\n" not in message
    for word in (PARAMETERS, *words):
        assert word in message, message


@pytest.mark.parametrize(("change", "words"), DAMAGE)
def test_a_damaged_parameter_file(stack_copy, change, words):
    rewrite(stack_copy / PARAMETERS, change)
    assert_refused(stack_copy, words)


def test_a_parameter_file_that_is_cut_or_foreign(stack_copy):
    file = stack_copy / PARAMETERS
    whole = file.read_bytes()
    for content in (b"", whole[:7], whole[:60], whole[:-1], b"x" * 100, whole[:8] + b"\xff" * 900):
        file.write_bytes(content)
        assert_refused(stack_copy, ["damaged", "remove parameters.safetensors"])
    file.write_bytes(safetensors.numpy.save({"weight": np.zeros(3)}))
    assert_refused(stack_copy, ["damaged"])


def test_any_changed_byte_is_refused_in_a_line(stack_copy):
    file = stack_copy / PARAMETERS
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*rng.integers(0, 2000, 60), *rng.integers(0, len(whole), 20)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        assert_refused(stack_copy, [])


def test_parameters_of_another_fit_are_refused(stack_copy):
    """Check a file that an earlier version left when it wrote the same blend again."""
    edit_settings(stack_copy, lambda made: made["found"]["fitted"].update(spread=0.05))
    assert_refused(stack_copy, ["not of the blend in blend.yaml"])


@pytest.mark.slow
def test_the_example_of_the_documentation(make):
    copies = make(method="soft").parent
    text = (ROOT / "docs" / "blending.md").read_text(encoding="utf-8").replace("```", "")
    names = {"fb": fb, "outputs": copies, "say": quiet, "quiet": quiet}
    test = doctest.DocTestParser().get_doctest(text, names, "blending.md", None, 0)
    assert len(test.examples) > 4
    assert doctest.DocTestRunner().run(test).failed == 0


def test_folders_that_are_no_blends(outputs, tmp_path):
    with pytest.raises(UserError, match="not a blend; pass the folder of a blend"):
        load_blend(outputs / "a")
    with pytest.raises(UserError, match="not a run folder"):
        load_blend(tmp_path)


def test_logits_that_are_not_those_of_the_members(stacked):
    loaded = load_blend(stacked)
    good = np.zeros((4, 18))
    for logits_MNC, words in (
        ([good] * 2, "of 2 members were given; pass those of 3, in this order: a, b, c"),
        ([good] * 4, "of more members"),
        ([], "of 0 members"),
        ([good, good[:2], good], "logits of b are 2 x 18, not 4 x 18"),
        ([good, good, good[:, 1:]], "logits of c are 4 x 17, not 4 x 18"),
        ([good, good[0], good], "logits of b are 18, not"),
        ([good, good, good + np.inf], "logits of c are not finite"),
    ):
        with pytest.raises(UserError, match=words):
            loaded.apply(logits_MNC)
    assert loaded.apply(iter([good] * 3)).shape == (4, 18)


def test_a_member_knows_where_its_folder_was(make):
    loaded = load_blend(make(method="soft", name="here"))
    for one, name in zip(loaded.members, "abc", strict=True):
        assert one.path == loaded.path.parent / name
        assert one.record["oof"] == Run(one.path).oof_hash
