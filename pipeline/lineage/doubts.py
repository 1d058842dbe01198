"""What a version's page says of doubts: its own flags, and everything that was doubted upstream.

Of the index: what was left out, by reason. Of stores of clips: rejected and flagged clips. Of the
tokens behind it: the verdict of stage `token_quality`, which is not upstream itself.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pipeline.lineage.graph import Node, newest_complete
from stages.drawing.markdown import markdown_table
from stages.flag_counts import flag_counts
from stages.flags import FLAGS, flagged
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import open_result
from storage.stores.rows import open_rows

LEFT_OUT = "left_out_"  # numbers of the index by reason
TOKENS, VERDICT = "rgb_tokens", "token_quality"

Doubt = tuple[str, str, str, str]  # stage, what, how many, what it means


def doubts(nodes: Sequence[Node]) -> list[str]:
    """A section for the page; nothing if nothing was doubted.

    nodes: the version's ancestry, itself last. Its own rejected clips are in the page's counts.
    """
    rows = [row for node in nodes[:-1] for row in doubts_of(node)]
    rows += [row for row in doubts_of(nodes[-1]) if not row[1].startswith("rejected")]
    rows += verdicts(nodes)
    if not rows:
        return []
    table = markdown_table(("stage", "what", "how many", "meaning"), rows)
    return [f"## Doubts\nLeft out, flagged or not good, here and upstream.\n\n{table}"]


def doubts_of(node: Node) -> list[Doubt]:
    if not node.complete:
        return [(node.manifest.stage, "not complete any more", "?", "what it doubted is not known")]
    return list(_doubts(node.ref, node.manifest.kind, node.manifest.created))


@lru_cache(maxsize=256)  # each page of a run has all that is upstream
def _doubts(ref: StoreRef, kind: str, created: str) -> tuple[Doubt, ...]:
    if kind == "index":
        numbers = store.read_complete(ref)["numbers"]
        found = {n.removeprefix(LEFT_OUT): v for n, v in numbers.items() if n.startswith(LEFT_OUT)}
        return tuple(
            (ref.stage, f"left out: {reason}", f"{n:.0f}", "see `left_out.parquet`")
            for reason, n in found.items()
        )
    return tuple(_doubted_clips(ref)) if kind == "clips" else ()


def _doubted_clips(ref: StoreRef) -> list[Doubt]:
    rows = open_rows(ref)
    reasons = Counter(r.reason for r in rows.rejected if r.kind != "upstream")
    found = [
        (ref.stage, f"rejected: {reason}", f"{n} of {rows.n} clips", "not used downstream")
        for reason, n in reasons.most_common()
    ]
    made = np.flatnonzero(rows.ok)
    for name, n in flag_counts(flagged(rows, made)).items():
        about = FLAGS[name].about if name in FLAGS else ""
        found.append((ref.stage, f"flagged: {name}", f"{n} of {len(made)} clips", about))
    rows.close()
    return found


def verdicts(nodes: Sequence[Node]) -> list[Doubt]:
    """Where `token_quality` found the RGB tokens behind this version not good."""
    if nodes[-1].manifest.stage == VERDICT:
        return []
    return [row for node in nodes if node.manifest.stage == TOKENS for row in _verdict(node.ref)]


def _verdict(tokens: StoreRef) -> list[Doubt]:
    judged = (
        each
        for each in newest_complete(tokens.root, VERDICT)
        if each.input_keys.get(TOKENS) == tokens.key
    )
    newest = next(judged, None)
    if newest is None:
        return []
    result = open_result(StoreRef.at(tokens.root, VERDICT, newest.key))
    if result.numbers.get("good", 1.0):
        return []
    n, of = (result.numbers[name] for name in ("clips_flagged", "clips"))
    return [
        (VERDICT, "tokens not good", f"{n:.0f} of {of:.0f} clips out of a limit", "see its page")
    ]
