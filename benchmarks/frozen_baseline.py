"""Frozen ImageNet features with one logistic regression a fold: the figure that training must beat.

    python benchmarks/frozen_baseline.py outputs/RUN --data DATA [--img-size 168x224]

Takes the folds of a finished run, so that the two are paired, and prints one table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from folds.config import DataConfig
from folds.source import load_manifest
from pipeline.config import MachineConfig, ModelConfig
from pipeline.dataset import ImageDataset, eval_loader
from pipeline.device import compute_of
from pipeline.infer import predict
from pipeline.model import build_model, check_backbone, preprocess_of
from pipeline.pictures import PictureSource
from pipeline.reporting import oof_arrays
from pipeline.store import Run
from pipeline.weights import load_pretrained
from reports.summary import compare
from reports.text import comparison_lines


def frozen_probabilities(run: Run, *, data: str, backbone: str, img_size: str) -> np.ndarray:
    """Return out-of-fold probabilities N x C, in the order of the run's rows."""
    manifest = load_manifest(DataConfig(data=data))
    table = manifest.train.set_index("image_id").loc[run.oof["image_id"]].reset_index()
    preprocess = preprocess_of(ModelConfig(backbone=backbone, img_size=img_size), check_backbone(backbone))
    compute = compute_of(MachineConfig(device="cpu", amp=False, threads=torch.get_num_threads()))
    model = build_model(backbone, num_classes=0, kwargs={}, weights=load_pretrained(backbone))
    model = model.to(memory_format=compute.memory_format)
    dataset = ImageDataset(table, PictureSource(preprocess, "off"))
    features = predict(model, eval_loader(dataset, batch_size=64, workers=1), preprocess, compute, [lambda x: x])[0]
    label, fold, repeat = (run.oof[name].to_numpy() for name in ("label", "fold", "repeat"))
    proba = np.zeros((len(label), len(run.classes)))
    for this, held_out in {*zip(repeat.tolist(), fold.tolist(), strict=True)}:
        train, held = (repeat == this) & (fold != held_out), (repeat == this) & (fold == held_out)
        head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
        head.fit(features[train], label[train])
        proba[np.ix_(held, head.classes_)] = head.predict_proba(features[held])
    return proba


def main() -> None:
    """Print the baseline beside the run, with the paired difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--img-size", default="168x224")
    args = parser.parse_args()
    start, run = time.perf_counter(), Run(args.run)
    proba = frozen_probabilities(run, data=args.data, backbone=args.backbone, img_size=args.img_size)
    arrays = oof_arrays(run)
    name = f"frozen {args.backbone} {args.img_size} + logistic regression"
    rows = compare(
        label_N=arrays.label_N,
        group_N=arrays.group_N,
        repeat_N=arrays.repeat_N,
        proba_of={name: proba, run.name: arrays.proba_NC},
        against=name,
        attributes=run.attributes,
        metric="f1_macro",
    )
    print("\n".join(comparison_lines(rows)))
    print(json.dumps({"seconds": round(time.perf_counter() - start, 1), "accuracy": rows[0]["accuracy"]}))


if __name__ == "__main__":
    main()
