"""`python -m reports`, as earlier versions had it; it goes on for this version."""

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
        runs = ()  # the leaderboard says what is wrong
    if runs:  # one that cannot be drawn is told, and keeps nobody from the board
        renamed(f"python -m reports {REDRAW}", "python report.py", "report", runs)
sys.exit(renamed("python -m reports", "python leaderboard.py", "leaderboard", words))
