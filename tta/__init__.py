"""More views of the same image for better logits."""

import foldblend  # noqa: F401 - finds the other packages, and modules under their former names
