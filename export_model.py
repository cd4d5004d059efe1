#!/usr/bin/env python
"""Export a finished run as one file, as in `python export_model.py outputs/RUN --to model.zip`."""

import sys

from foldblend.commands import export_model as main

if __name__ == "__main__":
    sys.exit(main())
