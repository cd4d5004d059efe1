#!/usr/bin/env python
"""Check a data set before training, as in `python run_audit.py DATA`."""

import sys

from foldblend.commands import run_audit as main

if __name__ == "__main__":
    sys.exit(main())
