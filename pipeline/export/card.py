"""Model card of an exported file: README.md with the metadata of Hugging Face's cards."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import foldblend
from foldblend.errors import counted
from foldblend.runs.oof import OofArrays, oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, TITLES
from foldblend.scores.score import score_interval
from pipeline.export.half import Loss
from pipeline.export.prepare import Prepared
from pipeline.predict.open import Predictor
from pipeline.predict.tree import Augmented, Blend, Leaf, Node, leaves_of, views_of
from reports.run.card import cost, limits, weights_of
from reports.text import groups_of, num, span

__all__ = ["Card", "licence_texts", "model_card"]

# Names of metrics at Hugging Face.
HUB_METRICS = {
    "f1_macro": "f1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "roc_auc_ovr": "roc_auc",
    "log_loss": "log_loss",
    "kappa_quadratic": "cohen_kappa",
    "mean_cost": "mean_cost",
}
MOST_CLASSES = 100


@dataclass(frozen=True)
class Card:
    """Facts that a model card is made of."""

    predictor: Predictor
    prepared: Prepared
    file: str
    """Name of the exported file."""
    half: Loss | str | None
    """What weights of 16 bits change, or why it was not measured; None for 32 bits."""

    @property
    def run(self) -> Run:
        assert self.predictor.run is not None
        return self.predictor.run

    @property
    def weights(self) -> dict[str, str]:
        """Licence of the initial weights, by their source."""
        found = {}
        for leaf in self.predictor.leaves.values():
            origin = weights_of(Run(leaf.weights.folder))  # type: ignore[attr-defined]
            if origin is not None:
                found[str(origin.get("source", "unknown"))] = str(origin.get("licence", "unknown"))
        return found


def _own_licence() -> str:
    """Return the text of foldblend's licence."""
    file = Path(foldblend.__file__).resolve().parents[1] / "LICENSE"
    return file.read_text(encoding="utf-8") if file.is_file() else _licence_in("foldblend") or "MIT"


def _licence_in(distribution: str) -> str | None:
    """Return the text of the licence of an installed package."""
    try:
        files = importlib.metadata.distribution(distribution).files or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    for one in files:
        if one.name.upper().startswith(("LICENSE", "LICENCE")):
            text = one.read_text(encoding="utf-8")
            return text if text.strip() else None
    return None


def licence_texts(card: Card) -> dict[str, str]:
    """Return the licence texts of a file, by the name of their entry."""
    lines = [f"{source}: {licence}\n" for source, licence in sorted(card.weights.items())] or [
        "The models started from random weights.\n"
    ]
    found = {
        "licences/foldblend.txt": _own_licence(),
        "licences/weights.txt": "".join(["Initial weights and their licences\n\n", *lines]),
    }
    for source in sorted(card.weights):
        # Weights that are installed as a package are named by it; its licence is there too.
        name = source.partition(" ")[0]
        text = _licence_in(name) if re.fullmatch(r"[\w.-]+ [\w.]+", source) else None
        if text is not None:
            found[f"licences/{name}.txt"] = text
    return found


def _hub_licence(licences: Iterable[str]) -> str:
    # Random weights have the licence "none".
    known = {one.lower() for one in licences} - {"none"}
    if not known or known == {"unknown"}:
        return "unknown"
    return known.pop() if len(known) == 1 else "other"


def _metadata(card: Card, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of the card, as Hugging Face's cards have them."""
    scores = dict(report["scores"])
    metric = report["metric"]
    scores = {metric: report["headline"]["value"]} | scores
    names = [name for name in scores if name in HUB_METRICS and scores[name] is not None]
    data = str(card.run.info["data"]["name"])
    slug = re.sub(r"[^a-z0-9_.-]+", "-", data.lower()).strip("-") or "data"
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": slug, "name": data, "split": "out-of-fold"},
        "metrics": [
            {
                "type": HUB_METRICS[name],
                "value": float(scores[name]),
                "name": f"{TITLES[name]}, out of fold",
            }
            for name in names
        ],
    }
    tags = ["image-classification", "cross-validation", "foldblend"]
    return {
        "license": _hub_licence(card.weights.values()),
        "library_name": "foldblend",
        "pipeline_tag": "image-classification",
        "tags": tags + (["ensemble"] if isinstance(card.predictor.root, Blend) else []),
        "metrics": list(dict.fromkeys(HUB_METRICS[name] for name in names)),
        "model-index": [{"name": card.run.name, "results": [result]}],
    }


def _cell(value: object) -> str:
    """Return a text that stays in one cell of a Markdown table and is no markup there."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_<>#|~])", r"\\\1", text)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *([_cell(one) for one in row] for row in rows)]
    return ["", *(f"| {' | '.join(line)} |" for line in lines), ""]


def _accuracy(arrays: OofArrays, chosen_N: np.ndarray, right_N: np.ndarray) -> str:
    """Return the share of right predictions among rows with its interval, as text."""
    rows = arrays.rows.take(chosen_N)
    # As classes 1 (right) and 0, of which 1 is always the truth.
    is_right = right_N[chosen_N].astype(int)
    rows = type(rows)(
        np.ones(len(rows), int), rows.group_N, rows.repeat_N, rows.fold_N, rows.group_name
    )
    found = score_interval(METRICS["accuracy"], rows, np.eye(2)[is_right])
    return f"{num(found.value)} {span(found.as_dict())}"


def _score_lines(card: Card, report: Mapping[str, Any]) -> list[str]:
    run = card.run
    arrays = oof_arrays(run)
    label_N = arrays.rows.label_N
    predicted_N = arrays.logits_NC.argmax(axis=1)
    groups = groups_of(report)
    metric = TITLES[report["metric"]]
    lines = [
        f"**{metric} {num(report['headline']['value'])}** {span(report['headline'])}"
        f" ({report['interval']}), accuracy {num(report['scores']['accuracy'])}.",
        "",
        f"All scores are out of fold: each image is predicted by models that were trained on other"
        f" {groups}.",
    ]
    if run.info["kind"] == "blend":
        lines.append(
            "What the blend has fitted was fitted on the other folds for each of them. The notes"
            " below say how optimistic the choice among methods may be, where that is known."
        )
    if card.prepared.models and any(
        len(kept) < leaf.num_models
        for leaf, kept in zip(
            card.predictor.leaves.values(), card.prepared.models.values(), strict=True
        )
    ):
        lines.append(
            "The file has some of the run's models only, so on new images it may do a little"
            " worse than all of them."
        )
    lines += [f"- {_cell(note)}" for note in ["", *report["notes"]] if note]
    if report.get("test_score") is not None:
        test = report["test_score"]
        lines.append("")
        lines.append(f"On the labelled test images: {_cell(_test_sentence(test, metric))}")
    shown = sorted(report["per_class"], key=lambda one: one["recall"])[:MOST_CLASSES]
    shown.sort(key=lambda one: one["class"])
    rows = []
    for one in shown:
        of_class = label_N == one["class"]
        recall = _accuracy(arrays, of_class, predicted_N == label_N)
        rows.append((one["name"], one["support"], one["groups"], recall, num(one["f1"])))
    lines += _table(("class", "images", groups, "recall, 95 % interval", "F1"), rows)
    if len(shown) < len(report["per_class"]):
        lines.append(f"These are the {MOST_CLASSES} classes with the lowest recall.")
    for attribute in run.attributes:
        value_of_class = np.asarray(attribute.of_class)
        rows = []
        for value, name in enumerate(attribute.values):
            chosen_N = value_of_class[label_N] == value
            if not chosen_N.any():
                rows.append((name, 0, 0, "none", "none"))
                continue
            right = value_of_class[predicted_N] == value_of_class[label_N]
            rows.append(
                (
                    name,
                    int(chosen_N.sum()) // arrays.rows.num_repeats,
                    len(np.unique(arrays.rows.group_N[chosen_N])),
                    _accuracy(arrays, chosen_N, right),
                    _accuracy(arrays, chosen_N, predicted_N == label_N),
                )
            )
        header = (_cell(attribute.name), "images", groups)
        lines += _table((*header, f"{_cell(attribute.name)} is right", "class is right"), rows)
    return lines


def _test_sentence(test: Mapping[str, Any], metric: str) -> str:
    score = test.get("score") or test.get("headline") or {}
    number = test.get("num_images", "?")
    return f"{metric} {num(score.get('value'))} {span(score)} on {number} images."


def _calibration_lines(card: Card) -> list[str]:
    found = card.predictor.calibration
    if found.why_not is None:
        lines = [
            f"Probabilities are those of logits divided by {found.temperature:.3g}. On held-out"
            f" {card.run.groups}, this changes the log loss from {found.log_loss:.4f} to"
            f" {num(found.log_loss_after)} and the expected calibration error from"
            f" {found.ece:.4f} to {num(found.ece_after)}."
        ]
    else:
        lines = [
            f"Probabilities are not corrected, since {found.why_not}. Log loss"
            f" {found.log_loss:.4f}, expected calibration error {found.ece:.4f}, out of fold."
        ]
    root = card.predictor.root
    if isinstance(root, Blend) and root.has_offsets:
        lines.append(
            "The class is decided with offsets, which are no part of the probabilities, so the"
            " class need not be the most probable one."
        )
    return lines


def _views(node: Node) -> list[str]:
    found = []
    for key, leaf in leaves_of(node).items():
        recipe = leaf.recipe
        size = f"{recipe.preprocess.width}x{recipe.preprocess.height}"
        views = ", ".join(views_of(node)[key])
        kind = "linear heads on one frozen backbone" if recipe.frozen else "fine-tuned"
        found.append(f"{_cell(leaf.name)}: {_cell(recipe.backbone)} at {size}, {kind}; {views}")
    return found


def _listed(names: Sequence[str]) -> str:
    """Return names with semicolons between them, as names of classes may have commas."""
    shown = "; ".join(names[:MOST_CLASSES])
    rest = len(names) - MOST_CLASSES
    return shown if rest <= 0 else f"{shown}; and {rest} more"


def _of(node: Node) -> str:
    if isinstance(node, Leaf):
        return "a cross-validated run"
    if isinstance(node, Augmented):
        return "a cross-validated run with test-time augmentation"
    assert isinstance(node, Blend)
    return f"a blend ({node.parameters.method}) of {counted(len(node.members), 'run')}"


def _model_lines(card: Card) -> list[str]:
    num_models = sum(map(len, card.prepared.models.values()))
    lines = [
        f"{_of(card.prepared.root).capitalize()}, with {counted(num_models, 'model')} in all.",
        "",
        *(f"- {line}" for line in _views(card.prepared.root)),
        "",
    ]
    if isinstance(card.half, Loss):
        lines.append(f"Weights have 16 bits: {card.half.sentence()}.")
    elif card.half is not None:
        lines.append(
            f"Weights have 16 bits; what this changes was not measured ({_cell(card.half)})."
        )
    return lines


def _use_lines(card: Card) -> list[str]:
    return [
        "```",
        f"python predict.py {card.file} IMAGES --out predictions.csv",
        "```",
        "",
        "```python",
        "import foldblend as fb",
        "",
        f"table = fb.load({card.file!r}).predict(['image.jpg'])",
        "```",
        "",
        "Nothing in the file is executed. `sha256sum -c SHA256SUMS` checks an unpacked copy;"
        " foldblend checks the file itself.",
    ]


def model_card(card: Card) -> str:
    """Return the model card of a run as Markdown, with metadata for Hugging Face."""
    run = card.run
    report = run.report
    data = run.info["data"]
    groups = groups_of(report)
    of_weights = [
        f"- {_cell(source)}, licence {_cell(licence)}" for source, licence in card.weights.items()
    ]
    parts: dict[str, list[str]] = {
        "Model": _model_lines(card),
        "Data": [
            f"{_cell(data['name'])}: {report['num_images']:,} images of {report['num_groups']:,}"
            f" {groups}; {counted(len(run.classes), 'class')}: {_cell(_listed(run.classes))}."
        ],
        "Score": _score_lines(card, report),
        "Calibration": _calibration_lines(card),
        "Not tested on": [f"- {_cell(line)}" for line in limits(run, report)],
        "Initial weights": [
            *(of_weights or ["Random weights."]),
            "",
            "Licences of weights and of images may restrict the use of this model.",
        ],
        "Cost": [cost(run) or "Not recorded."],
        "Use": _use_lines(card),
    }
    head = yaml.safe_dump(_metadata(card, report), sort_keys=False, allow_unicode=True)
    lines = [f"# {_cell(run.name)}", "", _cell(report["about"]), ""]
    for title, body in parts.items():
        lines += [f"## {title}", "", *body, ""]
    return f"---\n{head}---\n\n" + "\n".join(lines).rstrip() + "\n"
