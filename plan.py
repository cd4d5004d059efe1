#!/usr/bin/env python
"""Plan and make runs within a time limit, as in `python plan.py photos --time-limit 45m`."""

import sys

from foldblend.commands import plan as main

if __name__ == "__main__":
    sys.exit(main())
