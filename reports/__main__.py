"""`python -m reports`, as earlier versions had it; it goes on for this version."""

import sys

from foldblend.commands import renamed

REDRAW = "--redraw"

words = sys.argv[1:]
code = 0
if REDRAW in words:
    words.remove(REDRAW)
    folders = [word for word in words if not word.startswith("-")]
    code = renamed(f"python -m reports {REDRAW}", "python report.py", "report", folders)
sys.exit(renamed("python -m reports", "python leaderboard.py", "leaderboard", words) or code)
