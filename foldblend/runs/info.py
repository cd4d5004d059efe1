"""Types of the content of run.json; docs/run.schema.json is generated from them."""

# `from __future__ import annotations` would hide Required from __required_keys__.
from typing import Annotated, Any, Literal, Required, TypedDict

from foldblend.runs.checked import between, filled, inside, plain_name
from foldblend.runs.preprocess_info import PreprocessInfo

__all__ = [
    "MOST_IMAGES",
    "MOST_MODELS",
    "MOST_SECONDS",
    "AttributeInfo",
    "DataInfo",
    "EnvironmentInfo",
    "FoldInfo",
    "FoldLabelsInfo",
    "FormInfo",
    "FoundRateInfo",
    "ImportInfo",
    "LabelsInfo",
    "MemberInfo",
    "OriginInfo",
    "PlanInfo",
    "RatesInfo",
    "RefitInfo",
    "RunInfo",
    "SearchInfo",
]

MOST_MODELS = 10_000
"""Most folds times repeats of a run."""
# A number of images or a time of day that is larger is no such thing.
MOST_IMAGES = 1_000_000_000
MOST_SECONDS = 1e12

Name = Annotated[str, filled()]
FileName = Annotated[str, plain_name()]
FilePath = Annotated[str, inside()]
Count = Annotated[int, between(0, MOST_IMAGES)]
Models = Annotated[int, between(1, MOST_MODELS)]
Seconds = Annotated[float, between(0, MOST_SECONDS)]
# Until the year 9892: later times have no date.
Time = Annotated[int, between(0, 250_000_000_000)]
# Peak learning rate.
Rate = Annotated[float, between(1e-30, 1e30)]
Label = Annotated[int, between(0, MOST_IMAGES)]


class AttributeInfo(TypedDict, total=False):
    """A property that each class implies (see `foldblend.attributes.Attribute`)."""

    name: Required[Name]
    values: Required[list[Name]]
    of_class: Required[list[Label]]
    """Place of the value of each class in `values`."""
    ordered: bool
    """Whether the values have an order."""


class DataInfo(TypedDict, total=False):
    """The data set of a run."""

    name: Required[str]
    hash: str
    """Hash of labels and pixels."""
    train_ids_hash: str
    """Hash of the names of the labelled images; equal for runs on the same data set."""
    num_images: Count
    num_training_only: Count
    """Number of labelled images that are never scored (fold -1, and --extra-csv)."""
    num_groups: Count
    group_name: str
    """What a group is, in the singular; "group" where the key is absent."""
    num_test: Count
    is_demo: bool


class EnvironmentInfo(TypedDict, total=False):
    """Hardware and versions (env.json); it has further keys."""

    processor: str
    gpus: list[str]
    weights: dict[str, Any] | None
    """Source and licence of the pretrained weights."""


class FoldInfo(TypedDict, total=False):
    """A finished fold (its done.json)."""

    repeat: Annotated[int, between(0, MOST_MODELS)]
    fold: Annotated[int, between(0, MOST_MODELS)]
    run_key: dict[str, str]
    environment: EnvironmentInfo
    padded: bool
    """Whether short batches were filled up; they were not where the key is absent."""
    files: dict[FilePath, str]
    """Hash of each file of the fold, by file name."""
    score: float | None
    seconds: Seconds
    train_images_per_s: Seconds
    infer_images_per_s: Seconds | None
    micro_batch: Count
    """Images per forward pass in training, at the end of the fold."""
    inference_chunk: Count
    """Images per forward pass in inference, where these were fewer than a batch."""
    engine: Literal["torch", "compile", "onnx", "openvino"]
    """Engine of the forward passes at inference; torch where the key is absent."""
    compiled: bool
    """Whether training steps were compiled; absent where that was not wanted."""
    processes: Count
    """Number of processes that trained the fold together (torchrun); 1 where the key is absent."""
    gpu_memory: Count
    """Largest number of bytes of GPU memory that the fold had reserved."""
    epoch: Count
    l2: Seconds
    seen_score: float | None
    """Score of a soup of folds on the labelled images, which its models have seen."""
    soup: list[Count]
    """Seeds whose mean weights the model has, with --soup."""
    seed_scores: list[float | None]
    """Score of each seed on the groups that chose them, in the order of the seeds."""
    soup_score: float | None
    """Score of the mean weights on these groups."""
    seed_epochs: list[Count]
    """Epoch that --select inner chose for each seed."""
    lr: Rate
    """Peak learning rate that --lr find took."""
    lr_found: bool
    """Whether the fold's test found it; the rate of auto was taken otherwise."""


class RefitInfo(TypedDict):
    """Models of all rows, which share in the test logits of a run (see `foldblend.runs.refit`)."""

    kind: Literal["full", "soup"]
    """full: trained on all rows; soup: with the mean weights of the models of the folds."""
    share: Annotated[float, between(0, 1)]
    """Share of their mean in the test logits and predictions."""
    models: list[FoldInfo]
    """The done.json of each."""


class OriginInfo(TypedDict, total=False):
    """A run that another run was made from, such as the one that was augmented."""

    name: Required[FileName]
    oof: Required[str]
    """Hash of its oof.parquet."""
    refit: str
    """Mark of its refits; absent without any."""


class FoldLabelsInfo(TypedDict, total=False):
    """Labels of another run's models for the training of a fold (labels/fold_K.json)."""

    key: Required[str]
    """Hash of those models, their out-of-fold rows and the images."""
    file: Required[str]
    """Hash of the table beside it."""
    num_left_out: Required[Count]
    """Number of images without labels that are left out, as they show what is held out."""
    temperature: Annotated[float, between(1e-3, 1e3)]
    """Divides the logits before pseudo-labels are chosen; fitted on the other folds."""
    num_sure: Count
    """Number of rows of the other folds whose probability reaches the threshold."""
    num_right: Count
    """Number of those whose class is right."""


class LabelsInfo(TypedDict, total=False):
    """Labels that the folds of a run have from the models of another run."""

    kind: Required[Literal["teacher", "pseudo"]]
    """teacher: probabilities in place of labels; pseudo: labels of further images."""
    of: Required[OriginInfo]
    """The other run, whose folder may be gone."""
    num_unlabelled: Required[Count]
    """Number of images without labels, of which each fold learns some."""
    num_scored_test: Count
    """Number of test images among these whose known labels score the run; absent for none."""
    share: Annotated[float, between(0, 1)]
    """Share of the teacher's probabilities in what labelled images teach."""
    temperature: Annotated[float, between(0, 1e30)]
    """Divides the teacher's logits."""
    threshold: Annotated[float, between(0, 1)]
    """Calibrated probability from which a pseudo-label is used."""


class MemberInfo(TypedDict, total=False):
    """A member of a blend."""

    name: Required[FileName]
    oof: Required[str]
    """Hash of the member's oof.parquet."""
    test: str
    refit: str
    """Mark of its refits (see `foldblend.runs.refit.refit_mark`); absent without any."""
    run_key: dict[str, str]
    weight: float | None


class FormInfo(TypedDict):
    """Columns of submission.csv; submission_ids.csv lists the rows where they are given."""

    id_column: Name
    columns: list[Name]
    """Names of the columns of values."""
    kind: Literal["labels", "probabilities"]
    classes: list[Label]
    """For probabilities, the class of each column of values."""


class ImportInfo(TypedDict, total=False):
    """Source of the predictions of an imported run."""

    files: Required[list[str]]
    """The files of out-of-fold predictions, then of test predictions, as they were given."""
    values: Required[Literal["probabilities", "logits"]]
    """Kind of the values in the files."""
    raised: Count
    """Number of probabilities of (nearly) 0 that were raised to `floor`."""
    floor: Annotated[float, between(0, 1)]


class ScoreInfo(TypedDict):
    """A score or a difference of scores with its 95 % interval; null where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


class OptimismInfo(TypedDict):
    """By how much a score is expected to be too high, with the standard error of this estimate.

    It could not be estimated where the error is null. Earlier versions then wrote a value of 0.
    """

    value: float | None
    error: float | None


class SearchInfo(TypedDict, total=False):
    """A search that chose the settings of a run on the same folds that score it."""

    study: Required[FileName]
    trial: Required[Name]
    """Name of the chosen trial; "default" is the one with the settings of the command."""
    num_trials: Required[Count]
    """Number of finished trials, those that failed or were stopped included."""
    num_configurations: Required[Count]
    """Number of different settings with all folds, among which the choice was made."""
    num_pruned: Count
    """Number of trials that were stopped early."""
    num_failed: Count
    sampler: Name
    """What proposed the settings."""
    settings: dict[str, Any]
    """The chosen settings that the space has."""
    score: ScoreInfo
    """The score of the chosen trial, which is too high."""
    optimism: OptimismInfo
    expected: ScoreInfo
    """The score less its optimism; absent where that is not known."""
    default: ScoreInfo
    """The score with the settings of the command."""
    gain: ScoreInfo
    """The paired difference of the chosen trial and the settings of the command."""
    nested: ScoreInfo
    """The score of the whole search, nested; absent without --nested."""


class StoppedInfo(TypedDict):
    """A run that a plan stopped early, and by how much the best one led over it."""

    folds: Models
    """Number of its folds."""
    lead: float
    error: float
    """Standard error of the lead over groups."""


class PlanInfo(TypedDict, total=False):
    """The plan whose runs a blend averages, and what it chose on the folds that score them."""

    runs: Required[list[FileName]]
    stopped: Required[dict[str, StoppedInfo]]
    optimism: OptimismInfo
    """Of the best run of the plan, since it was picked on the rows that score it."""


class RatesInfo(TypedDict, total=False):
    """Settings of the learning rate that auto decided; absent where it decided nothing."""

    auto: list[Literal["drop_path", "layer_decay", "lr"]]
    """Settings of config.yaml that auto decided; the run keeps them where its table changes."""
    why: str
    """The family of the backbone and whatever else decided."""
    fallback: Rate
    """Learning rate of the folds in which --lr find finds none."""


class FoundRateInfo(TypedDict):
    """The learning rate that --lr find took in a fold (its lr.json)."""

    run_key: dict[str, str]
    lr: Rate
    found: bool
    """Whether the test found it; the rate of auto otherwise."""
    why: str
    """Rule by which it was chosen, or why none was found."""
    curve: list[list[float]]
    """Learning rate and training loss of each step of the test."""
    seconds: Seconds


class RunInfo(TypedDict, total=False):
    """Content of run.json of a run, a TTA'd run, a blend or an imported run.

    Required keys are those that every reader of a run needs.
    """

    format: Required[int]
    kind: Required[Literal["cv", "blend", "tta", "import"]]
    status: Required[Literal["running", "done"]]
    data: Required[DataInfo]
    classes: Required[list[Name]]
    """Names of the classes, in label order."""
    attributes: Required[list[AttributeInfo]]
    num_folds: Required[Models]
    num_repeats: Required[Models]
    metric: Required[str]
    """Name of the metric of the run."""
    score_by: Literal["image", "group"]
    """Whether the main score counts images or groups; images where the key is absent."""
    group_pool: Literal["mean", "max", "noisy-or"]
    """How the predictions for a group's images are pooled, if the main score counts groups."""
    leaks: Required[bool]
    """Whether groups are split between folds, so that the score is too optimistic."""
    views: Required[list[Name]]
    """Views of test-time augmentation; empty for a blend or an imported run."""
    fewest_repeats: Models
    """Repeats of the member of a blend that has fewest; its rows stand for further repeats too."""
    name: FileName
    run_key: dict[str, str]
    """Hashes that identify the run: another run of the same name has other hashes."""
    sources: dict[str, dict[str, str]]
    """Hashes of the source of each own part (module:name), by module."""
    answers: list[int | str]
    """Value that a submission has for each class."""
    ordered: bool
    """Whether the classes have an order; unknown where the key is absent."""
    submission: FormInfo
    """Form of submission.csv; the columns are ImageID and ans where the key is absent."""
    has_test: bool
    num_test_folds: Annotated[int, between(0, MOST_MODELS)]
    optimistic: bool
    """Whether epochs were chosen on the rows that are scored, so that the score is optimistic."""
    preprocess: PreprocessInfo
    rates: RatesInfo
    started: Time
    """Start time in seconds since 1970; `finished` is the end time."""
    finished: Time
    seconds: Seconds | None
    """Seconds of computation, over all folds."""
    padded: bool
    """Whether short batches are filled up for logits that are kept; they are not where absent."""
    folds_hash: str
    files: dict[FilePath, str]
    """Hash of each table and of config.yaml, by file name; those of a fold are in `folds`."""
    folds: list[FoldInfo]
    refit: RefitInfo
    about: str
    notes: list[str]
    # Keys of blends, TTA'd runs and imported runs only.
    costs: list[list[float]]
    """Cost of each predicted class (column) for each true class (row); only for mean_cost."""
    passes: Count
    """Forward passes per test image, over all models and views."""
    picture_seconds: Seconds | None
    """Seconds per test image, over all models and views; null where not measured."""
    device: str | None
    members: list[MemberInfo]
    test_is_mean: bool
    """Whether test logits are means over folds, so that nothing fitted is applied to them."""
    imported: ImportInfo
    imported_runs: list[FileName]
    """The imported runs that this run is made of: itself, or members. Their models are not here."""
    imported_means: list[FileName]
    """Those of them that have test predictions as means over folds only."""
    of: OriginInfo
    """The run that was augmented."""
    plan: PlanInfo
    """The plan that made a blend and its members."""
    labels: LabelsInfo
    """Labels that its folds have from the models of another run, if there are any."""
    search: SearchInfo
    """The search that chose the settings on these folds, if one did."""
    searches: dict[FileName, SearchInfo]
    """Such searches of the runs that a blend or a TTA'd run is made of, or that gave a run labels,
    by the name of the run.
    """
    test_learned_by: list[FileName]
    """Names of such runs that learned test images, on which they are scored."""
    tta: dict[str, Any]
    policy: dict[str, Any]
    parts: list[dict[str, Any]]
