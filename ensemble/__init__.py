"""Blend the logits of many finished runs into one scored prediction, without torch."""

import foldblend  # noqa: F401 - finds the other packages, and modules under their former names
