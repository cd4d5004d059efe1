#!/usr/bin/env python
"""Augment a finished run at test time, as in `python run_tta.py outputs/RUN`."""

import sys

from foldblend.commands import run_tta as main

if __name__ == "__main__":
    sys.exit(main())
