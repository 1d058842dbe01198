"""Scores -> sentences: whether the model beats a copy, keeps objects, and follows actions."""

from collections.abc import Mapping, Sequence

from stages.evaluation.controls import FORM_NAMES, FORMS
from stages.evaluation.numbers import CONTESTS, NUMBERS
from stages.evaluation.objects import scores_at, times_judged
from stages.evaluation.scores import COPY, FREE, MODEL, Cell, ScoredClip, Scores
from stages.evaluation.setting import Setting

# ΔPSNR below which control is weak: Genie, which RoboScape calls so, has 1.99 (arXiv:2506.23135)
WEAK_CONTROL_DB = 2.0


def copy_verdict(
    reference: str, numbers: Mapping[str, float], per_clip: Sequence[Scores], setting: Setting
) -> str:
    """Whether the model beats the copy of its first frame, by each metric that was measured."""
    won: list[str] = []
    lost: list[str] = []
    for contest in CONTESTS[reference]:
        if contest.flag not in numbers:
            continue
        share = better_in(per_clip, NUMBERS[contest.ours], NUMBERS[contest.copied])
        ours, copied = (numbers[name] for name in (contest.ours, contest.copied))
        values = f"{ours:{contest.text}} against {copied:{contest.text}}"
        text = f"{contest.label} ({values}, better in {share})"
        (won if numbers[contest.flag] else lost).append(text)
    start = (
        f"Free-running from one frame, on {setting.n_clips} held-out clips and against the "
        f"{reference}, the world model "
    )
    return won_and_lost(start, won, lost)


def won_and_lost(start: str, won: Sequence[str], lost: Sequence[str]) -> str:
    """Whether something beats copying the first frame. start: of the sentence, with its subject."""
    if not lost:
        return start + f"**beats copying that frame** in {listed(won)}."
    if not won:
        return start + f"**does not beat copying that frame** in {listed(lost, 'or')}."
    start += f"**beats copying that frame** in {listed(won)}, "
    return start + f"but **not** in {listed(lost, 'or')}."


def objects_verdict(clips: Sequence[ScoredClip], setting: Setting) -> str:
    """How many of the objects are there in the prediction, when there is exact truth."""
    watched, lines = [clip.watched for clip in clips], list[str]()
    for frame in times_judged(setting.n_frames).values():
        ours, copied = (scores_at(watched, FREE, m, frame) for m in (MODEL, COPY))
        if ours:
            parts = [
                f"{found.present:.0%} of {found.n} {region} (copying: {copied[region].present:.0%})"
                for region, found in ours.items()
            ]
            lines.append(f"after {frame / setting.rate_hz:g} s {listed(parts)}")
    if not lines:
        return "No masks of objects, or no large ones: whether objects last was not measured."
    return (
        "**Permanence**, objects of all clips together that are there in the prediction, by colour "
        "and place: " + "; ".join(lines) + "."
    )


def actions_verdict(numbers: Mapping[str, float]) -> str:
    """What the model loses under other actions, in each form that was measured."""
    measured = [form for form in FORMS if form in numbers]
    if not measured:
        return "How much the actions matter (ΔPSNR) was not measured: it takes two held-out clips."
    lines = ["**Control**, the PSNR that it loses under other actions (ΔPSNR):"]
    for form in measured:
        change, moving = numbers[form], numbers.get(f"{form}_moving")
        there = f" ({moving:+.2f} dB in the moving region)" if moving is not None else ""
        lines.append(f"- under {FORM_NAMES[form]} {change:+.2f} dB{there}: {control(change)}")
    return "\n".join(lines)


def control(change: float) -> str:
    """What a ΔPSNR says, in dB."""
    if change <= 0:
        return "these actions do **not** steer it."
    if change < WEAK_CONTROL_DB:
        return f"**weak control**, under {WEAK_CONTROL_DB:.1f} dB."
    return "the actions steer it."


def better_in(per_clip: Sequence[Scores], ours: Cell, copied: Cell) -> str:
    measured = [scores for scores in per_clip if ours in scores and copied in scores]
    return f"{sum(scores[ours] > scores[copied] for scores in measured)} of {len(measured)} clips"


def listed(texts: Sequence[str], last: str = "and") -> str:
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + f" {last} {texts[-1]}"
