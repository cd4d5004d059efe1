#!/usr/bin/env python
"""Draw reports again from their run folders: python report.py outputs/RUN"""

import sys

from foldblend.commands import report as main

if __name__ == "__main__":
    sys.exit(main())
