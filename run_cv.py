#!/usr/bin/env python
"""Cross-validate an image classifier, as in `python run_cv.py --folds 5`."""

import sys

from foldblend.commands import run_cv as main

if __name__ == "__main__":
    sys.exit(main())
