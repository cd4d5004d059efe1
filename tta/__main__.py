"""`python -m tta`, as earlier versions had it; it goes on for this version."""

import sys

from foldblend.commands import renamed

sys.exit(renamed("python -m tta", "python run_tta.py", "run_tta"))
