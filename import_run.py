#!/usr/bin/env python
"""Import predictions of another library, as in `python import_run.py --oof oof.csv ...`."""

import sys

from foldblend.commands import import_run as main

if __name__ == "__main__":
    sys.exit(main())
