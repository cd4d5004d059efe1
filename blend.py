#!/usr/bin/env python
"""Blend finished runs into one, as in `python blend.py outputs/*`."""

import sys

from foldblend.commands import blend as main

if __name__ == "__main__":
    sys.exit(main())
