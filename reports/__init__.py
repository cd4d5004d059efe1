"""Reports: scores with intervals as text, pages and JSON, from arrays and tables."""

import logging

import foldblend  # noqa: F401 - finds the other packages, and modules under their former names

# Without a home folder that can be written, matplotlib works as well, only starts more slowly.
HOMELESS = ("Matplotlib created a temporary cache directory", "mkdir -p failed")
logging.getLogger("matplotlib").addFilter(
    lambda record: not record.getMessage().startswith(HOMELESS)
)
