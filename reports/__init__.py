"""What a person reads: scores with intervals, in text and JSON. A leaf: takes arrays and tables
only.
"""

import foldblend  # noqa: F401 - finds the other packages, and modules under their former names
