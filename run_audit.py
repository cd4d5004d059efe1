#!/usr/bin/env python
"""Audit a data set before training on it: python run_audit.py DATA"""

import sys

from foldblend.commands import run_audit as main

if __name__ == "__main__":
    sys.exit(main())
