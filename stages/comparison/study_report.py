"""The report of a study: what came out, what it says about each claim, and how to make it again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from stages.comparison.bootstrap import estimate
from stages.comparison.contrasts import CONTROL, DEPTH, ESTIMATED, PSNR, Comparison, Place, compare
from stages.comparison.control_horizon import control_table
from stages.comparison.page import difference_text, interval_text, measure
from stages.comparison.score_table import ScoreTable
from stages.comparison.verdicts import Claim, Settled, own_values, seed_means, settle
from stages.drawing.csv_table import csv_table
from stages.drawing.markdown import markdown_table, plain
from stages.evaluation.columns import COLUMNS
from stages.evaluation.objects import OBJECTS
from stages.evaluation.scores import PSEUDO_DEPTH, Cell
from stages.evaluation.verdict_lines import WEAK_CONTROL_DB

# The columns of the first table, beside what the claims are about: RoboScape's, and objects
SHOWN: tuple[Place, ...] = (
    PSNR,
    Place(metric="ssim"),
    Place(metric="lpips"),
    Place(metric="psnr", region=OBJECTS),
    CONTROL,
    DEPTH,
    ESTIMATED,
    Place(metric="delta1", reference=PSEUDO_DEPTH),
)


@dataclass(frozen=True, kw_only=True)
class VariantScores:
    """by_seed: the seeds that completed. numbers: of other stages, by what they are, in words."""

    name: str
    about: str
    by_seed: Mapping[int, ScoreTable]
    numbers: Mapping[str, str] = field(default_factory=dict)

    @property
    def tables(self) -> list[ScoreTable]:
        return list(self.by_seed.values())


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A run of the study.

    state: completed, cached (it was there), failed or skipped; why: of the last two. run: its id.
    command: that makes it alone.
    """

    name: str
    state: str
    why: str
    run: str
    seconds: float
    command: str


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """settled: by claim, in their order.

    compared: the variants' means over seeds; None if fewer than two variants have any.
    """

    title: str
    question: str
    setting: Sequence[str]
    variants: Sequence[VariantScores]
    claims: Sequence[Claim]
    runs: Sequence[RunLine]
    rate_hz: float
    settled: Sequence[Settled]
    compared: Comparison | None

    @classmethod
    def of(
        cls,
        *,
        title: str,
        question: str,
        setting: Sequence[str],
        variants: Sequence[VariantScores],
        claims: Sequence[Claim],
        runs: Sequence[RunLine],
        rate_hz: float,
    ) -> "StudyReport":
        by_name = {variant.name: variant for variant in variants}
        pooled = [ScoreTable.pooled(v.tables, v.name) for v in variants if v.tables]
        return cls(
            title=title,
            question=question,
            setting=setting,
            variants=variants,
            claims=claims,
            runs=runs,
            rate_hz=rate_hz,
            settled=[verdict_on(claim, by_name) for claim in claims],
            compared=compare(pooled) if len(pooled) > 1 else None,
        )

    @property
    def there(self) -> list[VariantScores]:
        return [variant for variant in self.variants if variant.tables]

    @property
    def missing(self) -> list[RunLine]:
        return [run for run in self.runs if run.why]


def verdict_on(claim: Claim, variants: Mapping[str, VariantScores]) -> Settled:
    """From the seeds that both variants have."""
    better, than = (variants[name].by_seed for name in (claim.better, claim.than))
    seeds = [seed for seed in better if seed in than]
    if not seeds:
        return Settled(difference=None, by_seed=[], verdict="not measured")
    return settle([better[s] for s in seeds], [than[s] for s in seeds], claim.place)


def report_page(report: StudyReport) -> str:
    sections = [
        f"# {plain(report.title)}",
        plain(report.question),
        "\n".join(f"- {line}" for line in report.setting),
        *missing_section(report.missing),
        "## What came out",
        results_table(report.there, report.claims),
        *numbers_table(report.there),
        *claims_section(report),
        *control_section(report),
        *control_note(report.there),
        "## How to read it",
        "\n".join(f"- {line}" for line in reading_notes()),
        *runs_section(report.runs),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def missing_section(missing: Sequence[RunLine]) -> Iterator[str]:
    if missing:
        yield f"**Runs that are missing: {len(missing)}**, so parts below are from fewer seeds:"
        yield "\n".join(f"- {plain(f'{run.name}: {run.state}, {run.why}')}" for run in missing)


def runs_section(runs: Sequence[RunLine]) -> Iterator[str]:
    yield "## Runs"
    rows = [
        (plain(run.name), run.state, f"{run.seconds:.0f}" if run.run else "–", f"`{run.run}`")
        for run in runs
    ]
    yield markdown_table(("", "state", "seconds", "run"), rows)
    yield "Each one alone, also again: `roboscape run` makes only what is missing."
    yield "\n\n".join(f"{plain(run.name)}:\n```bash\n{run.command}\n```" for run in runs)


def results_table(variants: Sequence[VariantScores], claims: Sequence[Claim]) -> str:
    """A row a variant: mean over seeds with its interval over episodes, and the seeds' range."""
    wanted = sorted({*SHOWN, *(claim.place for claim in claims)}, key=lambda place: place.order)
    places = [p for p in wanted if any(seed_means(v.tables, p) for v in variants)]
    columns = ("", "seeds", *(measure(place) for place in places))
    rows = [
        (
            f"**{plain(v.name)}** ({plain(v.about)})",
            len(v.tables),
            *(value_text(v, place) for place in places),
        )
        for v in variants
    ]
    return markdown_table(columns, rows)


def numbers_table(variants: Sequence[VariantScores]) -> Iterator[str]:
    """Numbers of other stages than the evaluation: a row each, a column a variant."""
    names = dict.fromkeys(name for variant in variants for name in variant.numbers)
    if names:
        rows = [(name, *(v.numbers.get(name, "–") for v in variants)) for name in names]
        yield markdown_table(("", *(plain(v.name) for v in variants)), rows)


def value_text(variant: VariantScores, place: Place) -> str:
    table = ScoreTable.pooled(variant.tables, variant.name)
    values = own_values(table, place)
    if not values:
        return "–"
    form = COLUMNS[place.metric][1]
    found = estimate(list(values.values()), [table.episodes[clip] for clip in values])
    text = f"{found.mean:{form}}" + interval_text(found, form)
    means = seed_means(variant.tables, place)
    if len(means) > 1:
        text += f"; seeds {min(means):{form}} to {max(means):{form}}"
    return text


def claims_section(report: StudyReport) -> Iterator[str]:
    if not report.claims:
        return
    yield "## Claims"
    rows = []
    for claim, settled in zip(report.claims, report.settled, strict=True):
        difference = "–"
        if settled.difference is not None:
            difference = difference_text(claim.place.metric, settled.difference)
        form = "+" + COLUMNS[claim.place.metric][1].removeprefix("+")
        rows.append(
            (
                plain(claim.text) + (f" ({plain(claim.source)})" if claim.source else ""),
                f"{plain(claim.better)} − {plain(claim.than)}: {measure(claim.place)}",
                difference,
                ", ".join(f"{value:{form}}" for value in settled.by_seed),
                f"**{settled.verdict}**",
            )
        )
    columns = ("claim", "measured by", "difference (95 %)", "each seed", "at this scale")
    yield markdown_table(columns, rows)


def control_section(report: StudyReport) -> Iterator[str]:
    """Where control is lost; empty for evaluations that have no ΔPSNR by frame."""
    pooled = [ScoreTable.pooled(variant.tables, variant.name) for variant in report.there]
    table = control_table(pooled, report.rate_hz)
    if table:
        yield "## Control over the horizon"
        yield table
        yield (
            "ΔPSNR (dB) of the frame at that time. Steered: the longest time through which its "
            "interval lies above 0 in every frame."
        )


def control_note(variants: Sequence[VariantScores]) -> Iterator[str]:
    weak = [
        variant.name
        for variant in variants
        if (means := seed_means(variant.tables, CONTROL))
        and sum(means) / len(means) < WEAK_CONTROL_DB
    ]
    if weak:
        yield (
            f"**Weak control**: under another clip's actions {', '.join(map(plain, weak))} lose "
            f"less than {WEAK_CONTROL_DB:g} dB."
        )


def reading_notes() -> Iterator[str]:
    yield (
        "Free-running: all frames from frame 0. In brackets: 95 % intervals from 10,000 bootstrap "
        "samples of episodes, of each clip's mean over seeds."
    )
    yield (
        "A claim is supported, or refuted, where the interval of the difference excludes 0 and "
        "every seed lies on the same side; otherwise it is undecided. It holds for these networks, "
        "trained for this long on these episodes, and for nothing larger."
    )


def report_csv(report: StudyReport) -> bytes:
    """A row for each variant, seed, clip and cell."""
    columns = ("variant", "seed", "clip", "episode", "protocol", "reference", "region", "metric")
    rows = (
        (v.name, number, clip, table.episodes[clip], *_place(cell), value)
        for v in report.there
        for number, table in v.by_seed.items()
        for cell in table.own()
        for clip, value in table.scores[cell].items()
    )
    return csv_table((*columns, "value"), rows)


def _place(cell: Cell) -> tuple[str, str, str, str]:
    return cell.protocol, cell.reference, cell.region, cell.metric


def report_document(report: StudyReport) -> dict[str, object]:
    """For JSON: claims with their numbers, and where each table came from."""
    return {
        "title": report.title,
        "question": report.question,
        "setting": list(report.setting),
        "claims": [
            {**asdict(claim), **asdict(settled)}
            for claim, settled in zip(report.claims, report.settled, strict=True)
        ],
        "stores": {
            v.name: {seed: table.store for seed, table in v.by_seed.items()}
            for v in report.variants
        },
        "runs": [asdict(run) for run in report.runs],
    }
