"""Former command `python -m folds`; it still runs run_audit.py in this version."""

import sys

from foldblend.commands import renamed

sys.exit(renamed("python -m folds", "python run_audit.py", "run_audit"))
