#!/usr/bin/env python
"""Predict images with a finished run or blend, as in `python predict.py outputs/RUN new/`."""

import sys

from foldblend.commands import predict as main

if __name__ == "__main__":
    sys.exit(main())
