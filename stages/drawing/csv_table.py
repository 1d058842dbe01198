"""A table as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """floats have six decimals; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row])
    return text.getvalue().encode()
