#!/usr/bin/env python
"""Compare finished runs, as in `python leaderboard.py outputs/*`."""

import sys

from foldblend.commands import leaderboard as main

if __name__ == "__main__":
    sys.exit(main())
