"""Reading of CSV files as text."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from foldblend.errors import UserError

__all__ = ["read_csv_text"]


def read_csv_text(file: Path) -> pd.DataFrame:
    """Return a CSV table with every cell as text; empty cells are "".

    Raises
    ------
    UserError
        If the file cannot be read or is not a UTF-8 CSV.
    """
    try:
        return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; check the path") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as CSV ({error}); save it as UTF-8 CSV") from None
