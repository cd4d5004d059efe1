"""Maps of images by the models of a cross-validated run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError
from pipeline.data.images import Files
from pipeline.device import num_cores
from pipeline.explain.methods import explainer_of, scaled
from pipeline.explain.source import Mistake, Name
from pipeline.predict.compute import compute_for
from pipeline.predict.nets import Net
from pipeline.predict.tree import Leaf
from reports.run.explain_file import MapInfo, packed

__all__ = ["Maker"]


class Maker:
    """The models of a run on a device, with the method that explains them.

    Parameters
    ----------
    leaf
        The run.
    device, threads
        Device and number of threads; None: those of the run.
    say
        Function that prints one line of the log.
    """

    def __init__(self, leaf: Leaf, *, device: str | None, threads: int | None, say: Say) -> None:
        self.compute = compute_for(leaf.recipe, device=device, threads=threads, say=say)
        torch.set_num_threads(threads or leaf.recipe.threads)
        self.net = Net(leaf.recipe, leaf.weights, self.compute, say)
        self.preprocess = leaf.recipe.preprocess
        size = (self.preprocess.height, self.preprocess.width)
        self.explainer = explainer_of(self.model(0), size, self.compute.device)

    def model(self, index: int) -> torch.nn.Module:
        """Return a module from standardised pixels N x 3 x H x W to the logits of all classes."""
        body = self.net.use(index).requires_grad_(False)
        if not self.net.recipe.frozen:
            return body
        weight_DC, bias_C = self.net.head(index)
        head = torch.nn.Linear(*weight_DC.shape)
        head.weight.data = torch.from_numpy(weight_DC.T).float()
        head.bias.data = torch.from_numpy(bias_C).float()
        head = head.requires_grad_(False).to(self.compute.device)
        return torch.nn.Sequential(OrderedDict(backbone=body, head=head)).eval()

    def pixels(self, table: pd.DataFrame) -> torch.Tensor:
        """Return standardised pixels N x 3 x H x W, as the model got them out of fold.

        Raises UserError for a file that is gone, or that changed since training.
        """
        # Early versions kept no hashes.
        files = Files(table, self.preprocess, verify="content" in table)
        with ThreadPoolExecutor(num_cores()) as pool:
            try:
                stored_NHWC = np.stack([*pool.map(files.__getitem__, range(len(files)))])
            except BadImage as error:
                raise UserError(error.for_test()) from None
        batch = torch.from_numpy(np.ascontiguousarray(self.preprocess.crop(stored_NHWC)))
        pixels = self.preprocess.normalise(batch.to(self.compute.device))
        return pixels.contiguous(memory_format=self.compute.memory_format)

    def maps(
        self, index: int, mistakes: Sequence[Mistake], images: pd.DataFrame
    ) -> dict[Name, MapInfo]:
        """Return the maps of mistakes by one model, for the predicted and the true class.

        Parameters
        ----------
        index
            Number of the model.
        mistakes
            Mistakes of this model.
        images
            Files of the images: path, box and content, by image_id.

        Raises
        ------
        UserError
            If an image cannot be read, or memory runs out.
        """
        model = self.model(index)
        pixels = self.pixels(images.loc[[one.image_id for one in mistakes]])
        labels = [[one.predicted for one in mistakes], [one.label for one in mistakes]]
        heat = []
        for of_side in labels:
            class_N = torch.tensor(of_side, device=self.compute.device)
            try:
                found = self.explainer.maps(model, pixels, class_N)
            except torch.OutOfMemoryError:
                raise UserError(
                    f"--explain: memory ran out with {len(mistakes)} images; free GPU memory"
                ) from None
            heat.append(scaled(found).cpu().numpy())
        return {
            one.name: {
                "image_id": one.image_id,
                "repeat": one.repeat,
                "predicted": packed(heat[0][place], one.predicted),
                "true": packed(heat[1][place], one.label),
            }
            for place, one in enumerate(mistakes)
        }
