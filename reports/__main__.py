"""The command `python -m reports` of earlier versions, which runs the present commands."""

import sys

from foldblend.cli import parse_flags
from foldblend.commands import renamed
from foldblend.errors import UserError
from reports.commands import ABOUT_BOARD, BoardConfig

REDRAW = "--redraw"

words = sys.argv[1:]
if REDRAW in words:
    words = [word for word in words if word != REDRAW]
    try:
        runs = parse_flags(BoardConfig, words, ABOUT_BOARD).runs
    except UserError:
        # The leaderboard below fails with the same error and prints it.
        runs = ()
    # A report that cannot be written gives an error message and does not stop the leaderboard.
    if runs:
        renamed(f"python -m reports {REDRAW}", "python report.py", "report", runs)
sys.exit(renamed("python -m reports", "python leaderboard.py", "leaderboard", words))
