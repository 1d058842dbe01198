"""Scores -> tables of Markdown that never mix protocols or references."""

from stages.drawing.markdown import markdown_table
from stages.evaluation.columns import COLUMNS, table_order
from stages.evaluation.objects import OBJECT_REGIONS
from stages.evaluation.scores import CAMERA, DECODED, EDGES, FRAME, STILL, Cell, Scores
from stages.evaluation.setting import Setting, TableSetting, in_words

STEADINESS_REGIONS = (STILL, EDGES)
OWN_TABLES = (*STEADINESS_REGIONS, *OBJECT_REGIONS)  # regions that are not in the main ones


def table(means: Scores, protocol: str, reference: str, setting: Setting) -> list[str]:
    """A heading and a table: one protocol, one reference. Empty where nothing was measured."""
    here = {
        cell: value
        for cell, value in means.items()
        if cell[:2] == (protocol, reference) and cell.region not in OWN_TABLES
    }
    found = {cell.metric for cell in here}
    if reference in (CAMERA, DECODED):
        found.add("lpips")  # the column shows that weights are missing
    if reference == CAMERA:
        found.add("fvd")
    heading = f"## {protocol.capitalize()}, against {in_words(reference, setting)}"
    return rows_of(here, found, heading, protocol, reference, setting)


def steadiness_table(means: Scores, protocol: str, setting: Setting) -> list[str]:
    """The same of flicker and edges: a row for each method."""
    here = {
        cell._replace(region=FRAME): value
        for cell, value in means.items()
        if cell.protocol == protocol and cell.region in STEADINESS_REGIONS
    }
    heading = f"## {protocol.capitalize()}, flicker and edges, against the {CAMERA}"
    return rows_of(here, {cell.metric for cell in here}, heading, protocol, CAMERA, setting)


def object_table(means: Scores, protocol: str, setting: TableSetting) -> list[str]:
    """The same of objects, against the camera's frames."""
    here = {
        cell: value
        for cell, value in means.items()
        if cell.protocol == protocol and cell.region in OBJECT_REGIONS
    }
    heading = f"## {protocol.capitalize()}, objects, against the {CAMERA}"
    return rows_of(here, {cell.metric for cell in here}, heading, protocol, CAMERA, setting)


def rows_of(
    here: Scores,
    found: set[str],
    heading: str,
    protocol: str,
    reference: str,
    setting: TableSetting,
) -> list[str]:
    """The heading and a row for each region and method; empty without cells."""
    if not here:
        return []
    columns = [name for name in COLUMNS if name in found]
    rows = dict.fromkeys((cell.region, cell.method) for cell in sorted(here, key=table_order))
    lines = []
    for region, method in rows:
        label = f"{method}, {region}" if len({r for r, _ in rows}) > 1 else method
        values = [here.get(Cell(protocol, reference, region, method, name)) for name in columns]
        texts = [shown(name, value, setting) for name, value in zip(columns, values, strict=True)]
        lines.append((label, *texts))
    return [heading, markdown_table(("", *(COLUMNS[name][0] for name in columns)), lines)]


def shown(metric: str, value: float | None, setting: TableSetting) -> str:
    if value is not None:
        return f"{value:{COLUMNS[metric][1]}}"
    has_weights = {"lpips": setting.has_lpips, "fvd": setting.has_fvd}
    return "–" if has_weights.get(metric, True) else "no weights"
