"""The fingerprint of a large data set: the first time, and when nothing or one file has changed.

    python benchmarks/fingerprints.py                      # 100,000 episodes, some minutes
    python benchmarks/fingerprints.py --episodes 2000 --depth-pictures

Renders a few episodes of the demo's kind and repeats them under other numbers, as hard links, so
the files are real and the disk stays small. Reads are therefore answered by memory: what a disk or
a network takes to read them comes on top. Depth pictures, one for each frame, are left out unless
asked for. The control is a bare loop that opens and reads the same files whole.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from measuring import Conditions

from simulation.config import demo_sample
from simulation.dataset import make_sample
from stages.clips.discover import fingerprint
from stages.drawing.markdown import markdown_table
from storage.sources.agibot.tree import list_episodes

ORIGINALS = 16
SETTLES_S = 3.0  # digests of files younger than a tick of the clock are not remembered
FOLDERS = ("observations", "proprio_stats", "parameters")


def repeated(original: Path, root: Path, n_episodes: int, depth_pictures: bool) -> int:
    """Links the original's episodes again and again below `root`; the number of files."""
    chosen: list[list[tuple[Path, str]]] = []  # files and where they go, of each original
    for episode in (e for e in list_episodes(original).episodes if e.has_files):
        folders = [original / name / str(episode.task) / str(episode.episode) for name in FOLDERS]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        chosen.append(
            [
                (path, str(path.relative_to(original)).replace(f"/{episode.episode}/", "/{}/"))
                for path in files
                if depth_pictures or path.suffix != ".png"
            ]
        )
    for number in range(n_episodes):
        for path, place in chosen[number % len(chosen)]:
            to = root / place.format(1_000_000 + number)
            to.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, to)
    return sum(len(chosen[number % len(chosen)]) for number in range(n_episodes))


def bare_s(root: Path) -> tuple[float, int]:
    """Seconds of reading all files whole, one after the other, and their bytes."""
    began, n_bytes = time.perf_counter(), 0
    for folder, _, names in os.walk(root):
        for name in names:
            with open(f"{folder}/{name}", "rb") as file:
                n_bytes += len(file.read())
    return time.perf_counter() - began, n_bytes


def seconds(root: Path) -> tuple[float, str]:
    began = time.perf_counter()
    found = fingerprint(root)
    return time.perf_counter() - began, found


def measured(folder: Path, n_episodes: int, depth_pictures: bool) -> str:
    """The table. Raises RuntimeError if a change is not seen, or none is."""
    os.environ["ROBOSCAPE_CACHE"] = str(folder / "cache")
    sample = replace(demo_sample(), n_episodes=min(ORIGINALS, n_episodes), ground_truth=False)
    make_sample(folder / "original", sample)
    n_files = repeated(folder / "original", folder / "root", n_episodes, depth_pictures)
    time.sleep(SETTLES_S)
    print(f"{n_files} files", file=sys.stderr)
    bare, n_bytes = bare_s(folder / "root")
    first, before = seconds(folder / "root")
    again, same = seconds(folder / "root")
    # One file gets other contents: as a file of its own, not through its links
    changed = next((folder / "root").rglob("*.h5"))
    contents = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    mended, other = seconds(folder / "root")
    if same != before or other == before:
        raise RuntimeError(f"{before[:12]}, unchanged {same[:12]}, changed {other[:12]}")
    remembered = (folder / "cache" / "contents.sqlite").stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = [
        ("first time", f"{first:.1f} s", f"{1e3 * first / n_episodes:.2f} ms"),
        ("nothing changed", f"{again:.1f} s", f"{1e3 * again / n_episodes:.2f} ms"),
        ("one file changed", f"{mended:.1f} s", f"{1e3 * mended / n_episodes:.2f} ms"),
        ("all files read whole, bare loop", f"{bare:.1f} s", f"{1e3 * bare / n_episodes:.2f} ms"),
        ("bytes in the files", f"{n_bytes / 1e9:.1f} GB", f"{n_bytes / n_episodes / 1e3:.0f} KB"),
        ("cache of digests", f"{remembered / 1e6:.0f} MB", f"{remembered / n_episodes:.0f} B"),
        ("peak memory", f"{peak / 1e6:.0f} MB", ""),
    ]
    return markdown_table(
        (f"{n_episodes:,} episodes, {n_files:,} files", "all", "an episode"), rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--depth-pictures", action="store_true", help="120 more files an episode")
    arguments = parser.parse_args()
    conditions = Conditions(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        print(measured(Path(folder), arguments.episodes, arguments.depth_pictures))
    print(conditions)


if __name__ == "__main__":
    main()
