"""A comparison as a page of Markdown, and as CSV and JSON with every number."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from stages.comparison.bootstrap import FEWEST, Estimate
from stages.comparison.contrasts import Comparison, Place, Row, SetValue
from stages.drawing.csv_table import csv_table
from stages.drawing.markdown import markdown_table, plain
from stages.evaluation.columns import COLUMNS
from stages.evaluation.objects import OBJECTS
from stages.evaluation.scores import ESTIMATED_DEPTH, FRAME, TRUE_DEPTH

HEADLINES = ((FRAME, "psnr"), (FRAME, "ssim"), (OBJECTS, "psnr"))
CSV_COLUMNS = (
    "protocol", "reference", "region", "metric", "who",
    "clips", "episodes", "mean", "low", "high",
    "against", "pairs", "difference", "difference_low", "difference_high",
    "better_episodes", "equal_episodes", "of_episodes", "verdict",
)  # fmt: skip


def comparison_page(found: Comparison) -> str:
    first = found.labels[0]
    sections = [
        f"# {' · '.join(plain(label) for label in found.labels)}",
        f"{len(found.clips)} clips of {found.n_episodes} episodes that all were scored on. "
        f"Differences are to **{plain(first)}**, clip by clip.",
        *headline(found),
    ]
    for heading, rows in sections_of(found.rows):
        sections += [f"## {heading}", values_table(rows), differences_table(rows, first)]
    sections += [*set_section(found.of_all)]
    sections.append("\n".join(f"- {line}" for line in notes(found)))
    return "\n\n".join(section for section in sections if section) + "\n"


def headline(found: Comparison) -> Iterator[str]:
    """A sentence for each further model: the free-running video against the camera."""
    for label in found.labels[1:]:
        parts: list[str] = []
        for region, metric in HEADLINES:
            place = Place(metric=metric, region=region)
            row = next((r for r in found.rows if r.place == place and r.who == label), None)
            if row is not None and row.difference is not None:
                parts.append(f"{measure(place)} {in_words(row)}")
        if parts:
            yield f"Free-running, **{plain(label)}** differs by: {'; '.join(parts)}."


def in_words(row: Row) -> str:
    assert row.difference is not None
    shown = difference_text(row.place.metric, row.difference)
    of = f"better in {row.better} of {row.difference.n_episodes} episodes"
    return f"{shown}, {of}, **{row.verdict}**"


def sections_of(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows by protocol and reference, which no table mixes."""
    keys = dict.fromkeys((row.place.protocol, row.place.reference) for row in rows)
    for protocol, reference in keys:
        chosen = [r for r in rows if (r.place.protocol, r.place.reference) == (protocol, reference)]
        yield f"{protocol.capitalize()}, against the {reference}", chosen


def values_table(rows: Sequence[Row]) -> str:
    whos = list(dict.fromkeys(row.who for row in rows))
    by_place: dict[Place, dict[str, Row]] = {}
    for row in rows:
        by_place.setdefault(row.place, {})[row.who] = row
    lines = [
        (measure(place), *(cell_text(here.get(who)) for who in whos))
        for place, here in by_place.items()
    ]
    return markdown_table(("", *(plain(who) for who in whos)), lines)


def differences_table(rows: Sequence[Row], first: str) -> str:
    lines = [
        (
            f"{plain(row.who)}: {measure(row.place)}",
            difference_text(row.place.metric, row.difference),
            f"{row.better} of {row.difference.n_episodes}"
            + (f" ({row.equal} equal)" if row.equal else ""),
            row.verdict,
        )
        for row in sorted(rows, key=lambda row: row.who != first)
        if row.difference is not None
    ]
    if not lines:
        return ""
    return markdown_table(
        ("", f"difference to {plain(first)}", "better in episodes", "verdict"), lines
    )


def set_section(found: Sequence[SetValue]) -> Iterator[str]:
    """What is a number of all clips together."""
    if found:
        whos = list(dict.fromkeys(each.who for each in found))
        yield "## Of all clips together, so without intervals"
        lines = []
        for place in dict.fromkeys(each.place for each in found):
            values = {each.who: each.value for each in found if each.place == place}
            form = COLUMNS[place.metric][1]
            texts = (f"{values[who]:{form}}" if who in values else "–" for who in whos)
            lines.append((f"{COLUMNS[place.metric][0]}, {place.protocol}", *texts))
        yield markdown_table(("", *(plain(who) for who in whos)), lines)


def measure(place: Place) -> str:
    """In words; the reference only where a table could hold another depth beside it."""
    parts = [COLUMNS[place.metric][0]]
    parts += [place.region] if place.region != FRAME else []
    parts += [place.reference] if place.reference in (ESTIMATED_DEPTH, TRUE_DEPTH) else []
    return ", ".join(parts)


def cell_text(row: Row | None) -> str:
    if row is None:
        return "–"
    form = COLUMNS[row.place.metric][1]
    return f"{row.value.mean:{form}}" + interval_text(row.value, form)


def difference_text(metric: str, difference: Estimate) -> str:
    form = "+" + COLUMNS[metric][1].removeprefix("+")
    return f"{difference.mean:{form}}" + interval_text(difference, form)


def interval_text(found: Estimate, form: str) -> str:
    if found.interval is None:
        return ""
    low, high = found.interval
    return f" ({low:{form}} to {high:{form}})"


def notes(found: Comparison) -> Iterator[str]:
    yield (
        "In brackets: 95 % intervals from 10,000 bootstrap samples of episodes, each with all of "
        f"its clips; none with fewer than {FEWEST} episodes. Every clip counts alike."
    )
    yield (
        "Better, worse: the interval of the difference excludes 0; where 1 is the target (→ 1), "
        "that of the difference in distance from 1. Of 20 differences that are none, one does by "
        "chance, so read many of them with care."
    )
    yield (
        "Intervals are over episodes only: another seed of training or sampling is not in them. "
        "`roboscape study` varies seeds."
    )
    for label, clips in found.left_out.items():
        some = ", ".join(clips[:5]) + (", …" if len(clips) > 5 else "")
        yield (
            f"{plain(label)}: {len(clips)} clips that not all were scored on are left out ({some})."
        )
    yield from found.apart


def comparison_csv(found: Comparison) -> bytes:
    rows = [csv_row(row, found.labels[0]) for row in found.rows]
    return csv_table(CSV_COLUMNS, rows + [csv_row_of_all(each, found) for each in found.of_all])


def csv_row(row: Row, first: str) -> tuple[object, ...]:
    place, value, difference = row.place, row.value, row.difference
    start = (place.protocol, place.reference, place.region, place.metric, row.who)
    own = (value.n_clips, value.n_episodes, value.mean, *(value.interval or (None, None)))
    if difference is None:
        return (*start, *own, *[None] * 9)
    return (
        *start,
        *own,
        first,
        difference.n_clips,
        difference.mean,
        *(difference.interval or (None, None)),
        row.better,
        row.equal,
        difference.n_episodes,
        row.verdict,
    )


def csv_row_of_all(each: SetValue, found: Comparison) -> tuple[object, ...]:
    place = each.place
    start = (place.protocol, place.reference, place.region, place.metric, each.who)
    return (*start, len(found.clips), found.n_episodes, each.value, *[None] * 11)


def comparison_json(found: Comparison, stores: dict[str, str]) -> bytes:
    """stores: of each model, where its scores came from."""
    rows = [{**asdict(row), "verdict": row.verdict} for row in found.rows]
    document = {**asdict(found), "stores": stores, "rows": rows}
    return json.dumps(document, indent=1, ensure_ascii=False).encode()
