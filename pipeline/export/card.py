"""Model card of an exported file: README.md with the metadata of Hugging Face's cards."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import foldblend
from foldblend.errors import counted, listed
from foldblend.runs.run import Run
from foldblend.scores.metrics import TITLES
from pipeline.export.card_scores import MOST_CLASSES, calibration_lines, cell, score_lines
from pipeline.export.half import Loss
from pipeline.export.prepare import Prepared
from pipeline.predict.open import Predictor
from pipeline.predict.tree import Augmented, Blend, Leaf, Node, leaves_of, needs_of, views_of
from reports.run.card import cost, limits, weights_of
from reports.text import groups_of

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


def _views(node: Node) -> list[str]:
    found = []
    for key, leaf in leaves_of(node).items():
        recipe = leaf.recipe
        size = f"{recipe.preprocess.width}x{recipe.preprocess.height}"
        views = ", ".join(views_of(node)[key])
        kind = "linear heads on one frozen backbone" if recipe.frozen else "fine-tuned"
        found.append(f"{cell(leaf.name)}: {cell(recipe.backbone)} at {size}, {kind}; {views}")
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
            f"Weights have 16 bits; what this changes was not measured ({cell(card.half)})."
        )
    return lines


def _use_lines(card: Card) -> list[str]:
    needs = needs_of(card.prepared.root)
    images = "'images.csv'" if needs else "['image.jpg']"
    given = "images.csv" if needs else "IMAGES"
    more = [f"The table of images must have the columns {listed(needs, most=9)}.", ""]
    return [
        *(more if needs else []),
        "```",
        f"python predict.py {card.file} {given} --out predictions.csv",
        "```",
        "",
        "```python",
        "import foldblend as fb",
        "",
        f"table = fb.load({card.file!r}).predict({images})",
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
        f"- {cell(source)}, licence {cell(licence)}" for source, licence in card.weights.items()
    ]
    parts: dict[str, list[str]] = {
        "Model": _model_lines(card),
        "Data": [
            f"{cell(data['name'])}: {report['num_images']:,} images of {report['num_groups']:,}"
            f" {groups}; {counted(len(run.classes), 'class')}: {cell(_listed(run.classes))}."
        ],
        "Score": score_lines(card.predictor, card.prepared, report),
        "Calibration": calibration_lines(card.predictor, card.run.groups),
        "Not tested on": [f"- {cell(line)}" for line in limits(run, report)],
        "Initial weights": [
            *(of_weights or ["Random weights."]),
            "",
            "Licences of weights and of images may restrict the use of this model.",
        ],
        "Cost": [cost(run) or "Not recorded."],
        "Use": _use_lines(card),
    }
    head = yaml.safe_dump(_metadata(card, report), sort_keys=False, allow_unicode=True)
    lines = [f"# {cell(run.name)}", "", cell(report["about"]), ""]
    for title, body in parts.items():
        lines += [f"## {title}", "", *body, ""]
    return f"---\n{head}---\n\n" + "\n".join(lines).rstrip() + "\n"
