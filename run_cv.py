#!/usr/bin/env python
"""Cross-validate an image classifier: python run_cv.py --folds 5 --backbone efficientnet_b3"""

import sys

from foldblend.commands import run_cv as main

if __name__ == "__main__":
    sys.exit(main())
