"""Reports: scores with intervals as text, pages and JSON, from arrays and tables."""

import foldblend  # noqa: F401 - finds the other packages, and modules under their former names
