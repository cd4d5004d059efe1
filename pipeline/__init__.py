"""One fold, from pixels to logits, and all folds of a run.

Nothing is imported here: configuration and the run store must load without torch.
"""

import foldblend  # noqa: F401 - finds the other packages, and modules under their former names
