"""`roboscape compare`: scores of runs, evaluations and scored videos in one table."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pipeline.cli.clips import stage_store
from pipeline.lineage.graph import find
from pipeline.orchestration.journal import find_journal, names_run
from pipeline.orchestration.services import prefect_answers
from pipeline.settings import Settings
from stages.comparison.contrasts import Comparison, compare
from stages.comparison.page import comparison_csv, comparison_json, comparison_page, headline
from stages.comparison.pictures import draw_most_different, plot_horizon
from stages.comparison.score_table import ScoreTable
from storage.atomic import write_file
from storage.stores.key import content_key
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import ClipRows, open_rows


def write_comparison(
    names: Sequence[str], settings: Settings, out: Console, folder: Path | None
) -> Path:
    """Compares what the names, `[LABEL=]STORE` or `[LABEL=]RUN`, stand for; returns the folder.

    Raises LookupError for a name that there is not, ValueError for scores that do not compare.
    """
    tables = [table for name in names for table in read_tables(name, settings)]
    found = compare(tables)
    stores = {table.label: table.store for table in tables}
    folder = folder or settings.home / "comparisons" / content_key(stores)
    folder.mkdir(parents=True, exist_ok=True)
    page = comparison_page(found)
    write_file(folder / "comparison.md", page.encode())
    write_file(folder / "comparison.csv", comparison_csv(found))
    write_file(folder / "comparison.json", comparison_json(found, stores))
    pictures = draw(found, tables, settings.stores)
    for name, png in pictures.items():
        write_file(folder / name, png)
    for line in headline(found):
        out.print(line.replace("**", ""), markup=False)
    for label, clips in found.left_out.items():
        out.print(f"{label}: {len(clips)} clips left out, not scored by all", markup=False)
    published = publish(found, page, pictures, settings)
    out.print(f"Tables and pictures: {folder}{published}", markup=False, soft_wrap=True)
    return folder


def read_tables(name: str, settings: Settings) -> list[ScoreTable]:
    """Of one store; several if it scored variants."""
    label, given, what = name.rpartition("=")
    ref, default = scored(what, settings)
    if given and not label:
        raise ValueError(f"'{name}': expected LABEL=STORE, or a store alone")
    return ScoreTable.read_all(open_result(ref), label or default)


def scored(what: str, settings: Settings) -> tuple[StoreRef, str]:
    """The store that holds the scores, and a label for it."""
    if not names_run(what):
        ref = find(what, settings.stores)
        return ref, f"{ref.stage} {ref.key[:8]}"
    journal = find_journal(settings.runs, what)
    return stage_store(journal, "evaluation"), f"{journal.request.get('experiment')} {journal.id}"


def draw(found: Comparison, tables: Sequence[ScoreTable], root: str) -> dict[str, bytes]:
    clips = open_rows(StoreRef.under(root, tables[0].inputs["clip"]))
    assert isinstance(clips, ClipRows), clips
    pictures = {"horizon.png": plot_horizon(tables, found.clips, clips.rate_hz)}
    first, last = found.labels[0], found.labels[-1]
    title = f"from the largest gain of {last} over {first} in PSNR to its largest loss"
    if sheet := draw_most_different(tables, found.clips, clips, title):
        pictures["clips.png"] = sheet
    return pictures


def publish(found: Comparison, page: str, pictures: dict[str, bytes], settings: Settings) -> str:
    """Shows the page in the Prefect UI if its server is up; says where."""
    if not prefect_answers(settings):
        return ""
    from pipeline.lineage.artifacts import create
    from pipeline.lineage.page import thumbnail
    from pipeline.lineage.reach import PrefectGone

    shown = [f"![{name}]({thumbnail(png)})" for name, png in pictures.items()]
    title = " against ".join(found.labels)
    try:
        made = create("markdown", "\n\n".join([page, *shown]), key="comparison", description=title)
    except PrefectGone:
        return "; the Prefect server went away, so they are not in its UI"
    return f"; in Prefect: {settings.ui_url}/artifacts/artifact/{made}"
