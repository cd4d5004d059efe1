#!/usr/bin/env python
"""Search for good settings, as in `python tune.py --space recipes/space.yaml --finetune head`."""

import sys

from foldblend.commands import tune as main

if __name__ == "__main__":
    sys.exit(main())
