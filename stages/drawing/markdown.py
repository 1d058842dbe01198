"""Tables in Markdown: every page, card and report writes its tables here."""

import re
from collections.abc import Iterable, Sequence


def markdown_table(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """The lines of a table, without a newline at the end; with no rows, its heading alone.

    Raises ValueError for a row that has more or fewer cells than there are columns.
    """
    lines = [markdown_row(columns), "|" + "---|" * len(columns)]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"a row of {len(row)} cells in a table of {len(columns)} columns: {list(row)}"
            )
        lines.append(markdown_row(row))
    return "\n".join(lines)


def plain(text: object) -> str:
    """Foreign text that Markdown and HTML show as it is: no link, picture, tag or code."""
    return re.sub(r"([\\`*\[\]<>])", r"\\\1", str(text))


def markdown_row(cells: Sequence[object]) -> str:
    """One line of a table; pipes are escaped, line breaks become spaces."""
    texts = (" ".join(str(cell).splitlines()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(texts)} |"
