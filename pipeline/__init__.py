"""Training and inference of a run, from images to out-of-fold and test logits.

This file imports no submodule, because configuration and run folders must load without torch.
"""

import foldblend  # noqa: F401 - makes the other packages and former module names importable
