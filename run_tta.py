#!/usr/bin/env python
"""Augment a finished run at test time: python run_tta.py outputs/RUN --views hflip,scale:1.15"""

import sys

from foldblend.commands import run_tta as main

if __name__ == "__main__":
    sys.exit(main())
