"""Many runs' logits -> one prediction, honestly scored. Never imports torch."""

import foldblend  # noqa: F401 - finds the other packages, and modules under their former names
