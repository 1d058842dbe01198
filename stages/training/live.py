"""The page of a running training: curves, newest numbers, newest sample rollout."""

from pathlib import Path

from stages.base import LivePage
from stages.drawing.loss_plot import plot_losses
from stages.drawing.markdown import markdown_table
from stages.training.log import LOG_FILE, LogRow, read_log
from stages.training.mfu import THROUGHPUT_FILE
from stages.training.run import ROLLOUTS


def live_page(folder: Path, title: str) -> LivePage | None:
    """The page of a training's working folder; None before its first step is logged."""
    if not (folder / LOG_FILE).exists():
        return None
    log = read_log(folder / LOG_FILE)
    if len(log) < 2:
        return None
    pictures = {"losses": plot_losses(log, f"{title}: step {log[-1]['step']}")}
    if rollouts := sorted((folder / ROLLOUTS).glob("*.png")):
        pictures["sample rollout"] = rollouts[-1].read_bytes()
    rows = [(name.replace("_", " "), f"{value:.5g}") for name, value in latest(log).items()]
    text = f"# {title}: step {log[-1]['step']}\n\n{markdown_table(('', 'now'), rows)}\n"
    throughput = folder / THROUGHPUT_FILE
    if throughput.exists():
        text += "\n" + throughput.read_text()
    return LivePage(text=text, pictures=pictures)


def latest(log: list[LogRow]) -> dict[str, float]:
    """The newest value of every column."""
    found: dict[str, float] = {}
    for row in log:
        found |= {name: value for name, value in row.items() if name != "step"}
    return found
