"""`python -m folds`, as earlier versions had it; it goes on for this version."""

import sys

from foldblend.commands import renamed

sys.exit(renamed("python -m folds", "python run_audit.py", "run_audit"))
