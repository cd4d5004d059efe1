#!/usr/bin/env python
"""Write reports again from their run folders, as in `python report.py outputs/RUN`."""

import sys

from foldblend.commands import report as main

if __name__ == "__main__":
    sys.exit(main())
