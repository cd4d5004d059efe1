"""Entry point of `python -m tta`, which earlier versions had; deprecated, use run_tta.py."""

import sys

from foldblend.commands import renamed

sys.exit(renamed("python -m tta", "python run_tta.py", "run_tta"))
