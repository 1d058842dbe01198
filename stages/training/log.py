"""The losses table of a training: one row per step, kept as `losses.csv`."""

import csv
import io
from pathlib import Path

import numpy as np

from stages.drawing.loss_plot import is_loss

LOG_FILE = "losses.csv"
LogRow = dict[str, float | int]  # "step" is an int


def log_csv(log: list[LogRow]) -> bytes:
    """The table as CSV; a column that a row lacks is an empty cell there."""
    columns = list(dict.fromkeys(name for row in log for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)  # Python's text of a float reads back as the same float
    return text.getvalue().encode()


def read_log(path: Path) -> list[LogRow]:
    """The rows of a `losses.csv`, without its empty cells; `step` is an int."""
    with open(path, newline="") as file:
        rows = [
            {name: float(cell) for name, cell in row.items() if cell}
            for row in csv.DictReader(file)
        ]
    return [row | {"step": int(row["step"])} for row in rows]


def summary(log: list[LogRow], n_mean: int = 10) -> dict[str, float]:
    """Losses of the first and the last steps (means over `n_mean`), and on held-out clips."""
    steps = log[1:]
    numbers = {"steps": float(log[-1]["step"])}
    for name in dict.fromkeys(name for row in steps for name in row if is_loss(name)):
        values = [row[name] for row in steps if name in row]
        numbers[f"{name}, first steps"] = float(np.mean(values[:n_mean]))
        numbers[f"{name}, last steps"] = float(np.mean(values[-n_mean:]))
    for name in (name for name in log[0] if name.startswith("val/")):
        numbers[f"{name}, before"], numbers[f"{name}, after"] = log[0][name], log[-1][name]
    return numbers
