"""The page of one data set version in the Prefect UI: its whole lineage, as a markdown artifact.

It holds the graph of everything upstream (each node with its key and a link to its own page),
parameters, weights, code, how many clips were kept and rejected, and thumbnails. Rejects and CSV
files become table artifacts. A reused stage publishes its page again, so that every run has one.
"""

import base64
import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from pipeline.lineage.artifacts import Owner, create
from pipeline.lineage.doubts import doubts
from pipeline.lineage.graph import Node, ancestry, source_of
from pipeline.lineage.provenance import non_commercial, non_commercial_behind, non_commercial_text
from stages.annotator import EXACT
from stages.drawing.markdown import markdown_table, plain
from stages.label_noise import SPOILED
from storage.files import open_files
from storage.stores import store
from storage.stores.records import StoreRef
from storage.stores.results import Result, open_result
from storage.stores.rows import open_rows

PICTURE_WIDTH = 880
PICTURE_BYTES = 90_000  # artifacts are kept in the server's database: pages stay under 300 kB
PICTURE_ASPECT = 0.75  # height over width; taller sheets are cropped, or nobody could read them
PICTURES = 3
TABLE_ROWS = 100
COLOURS = {"Completed": "#2f9e6e", "Cached": "#8a97a8", "Reused": "#8a97a8"}
PREVIEW = "preview.png"


def publish(
    ref: StoreRef, state: str, artifacts: dict[str, str], owner: Owner | None = None
) -> str:
    """Publishes the version's page and tables, and returns the page's id.

    artifacts: uri -> id of the pages so far, for links; the new one is added. owner: the run and
    task that show them, by default those that this code runs in. Raises PrefectGone if the server
    is gone.
    """
    result = None if store.read_manifest(ref).kind == "clips" else open_result(ref)
    page = markdown(ref, state, artifacts, result)
    key = ref.stage.replace("_", "-")
    made = create(
        "markdown",
        page,
        key=key,
        description=f"{ref.stage} {ref.key}: {state.lower()}",
        owner=owner,
    )
    artifacts[ref.uri] = made
    if result is None:
        publish_rejects(ref, key, owner)
    else:
        publish_tables(result, key, owner)
    return made


def markdown(ref: StoreRef, state: str, artifacts: Mapping[str, str], result: Result | None) -> str:
    nodes = ancestry(ref)
    own = nodes[-1]
    sections = [
        f"# {own.manifest.stage} `{ref.key}`",
        f"**{state}** · made {own.manifest.created or '?'} · `{ref.uri}`",
        *stand_in_note(nodes),
        *exact_note(nodes),
        *spoiled_note(nodes),
        *licence_note(nodes),
        mermaid(nodes, state, artifacts),
        *pictures(ref, result),
        counts(ref) if result is None else numbers(result.numbers),
        *doubts(nodes),
        *notes(result),
        upstream_table(nodes, artifacts),
        f"**Source**: {plain(source_of(nodes))}",
        table("Parameters", flatten(own.manifest.parameters)),
        *attributes(own),
        *weights(nodes),
        table("Code", own.manifest.code),
    ]
    return "\n\n".join(section for section in sections if section)


def stand_in_note(nodes: Sequence[Node]) -> list[str]:
    """A note on every page downstream of labels that a stand-in made."""
    found = [n.manifest.attributes for n in nodes if n.manifest.attributes.get("stand_in_for")]
    return [
        f"> Labels made by the stand-in **{a['annotator']}**, not by {a['stand_in_for']}."
        for a in found
    ]


def exact_note(nodes: Sequence[Node]) -> list[str]:
    """A note on every page downstream of labels that the simulation itself gave."""
    found = [n.manifest for n in nodes if n.manifest.attributes.get(EXACT)]
    return [f"> **Exact labels**: stage {m.stage} has {m.attributes[EXACT]}." for m in found]


def spoiled_note(nodes: Sequence[Node]) -> list[str]:
    """A note on every page downstream of labels that a study spoiled."""
    found = [n.manifest for n in nodes if n.manifest.attributes.get(SPOILED)]
    return [f"> **Labels spoiled on purpose**: {m.attributes[SPOILED]}." for m in found]


def licence_note(nodes: Sequence[Node]) -> list[str]:
    """A note on every page downstream of weights that are not for commercial use."""
    text = non_commercial_text(non_commercial_behind(node.manifest for node in nodes))
    return [f"> **Non-commercial**: {plain(text)}."] if text else []


def mermaid(nodes: Sequence[Node], state: str, artifacts: Mapping[str, str]) -> str:
    """The graph of the version's ancestry, left to right, as a Mermaid block."""
    names = {node.ref.uri: f"n{i}" for i, node in enumerate(nodes)}
    lines = ["```mermaid", "graph LR"]
    for node in nodes:
        name, current = names[node.ref.uri], node is nodes[-1]
        label = f"{mermaid_text(node.manifest.stage)}<br/>{mermaid_text(node.ref.key[:8])}"
        lines.append(f'  {name}["{label}"]')
        colour = COLOURS.get(state, "#2f9e6e") if current else "#dfe5ec"
        text = "#ffffff" if current else "#1c2733"
        lines.append(f"  style {name} fill:{colour},color:{text},stroke:#5b6b7c")
        if node.ref.uri in artifacts:
            lines.append(f'  click {name} "../../artifacts/artifact/{artifacts[node.ref.uri]}"')
        lines += [f"  {names[each.uri]} --> {name}" for each in node.inputs.values()]
    return "\n".join([*lines, "```"])


def mermaid_text(text: str) -> str:
    """Foreign text that can stand in a quoted label."""
    return re.sub(r"[^\w .:/-]", lambda match: f"#{ord(match[0])};", text)


def upstream_table(nodes: Sequence[Node], artifacts: Mapping[str, str]) -> str:
    if len(nodes) == 1:
        return ""
    rows = []
    for node in nodes[:-1]:
        page = artifacts.get(node.ref.uri)
        link = f"[page](../../artifacts/artifact/{page})" if page else ""
        rows.append((node.manifest.stage, f"`{node.ref.key}`", node.manifest.created, link))
    return "## Made from\n" + markdown_table(("stage", "key", "made", ""), rows)


def counts(ref: StoreRef) -> str:
    """How many clips were kept, and how many left out for which reason."""
    seal = store.read_complete(ref)
    reasons = Counter((r.reason, r.kind) for r in open_rows(ref).rejected)
    text = f"## Clips\n**{seal['made']}** kept, **{seal['rejected']}** left out"
    if reasons:
        rows = [(reason, kind, n) for (reason, kind), n in reasons.most_common()]
        text += "\n\n" + markdown_table(("left out because", "kind", "clips"), rows)
    return text


def numbers(values: Mapping[str, float]) -> str:
    return table("Numbers", {name: f"{value:.5g}" for name, value in values.items()})


def table(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    rows = [(plain(name), plain(shortened(str(value)))) for name, value in values.items()]
    return f"## {title}\n" + markdown_table(("", ""), rows)


def shortened(text: str) -> str:
    return text if len(text) < 200 else text[:197] + "..."


def attributes(node: Node) -> list[str]:
    return [table("About", flatten(node.manifest.attributes))] if node.manifest.attributes else []


def weights(nodes: Sequence[Node]) -> list[str]:
    """Weights files used anywhere upstream: a licence also binds what is made from the results."""
    used = [(n.manifest.stage, w) for n in nodes for w in n.manifest.weights]
    if not used:
        return []
    rows = [
        (plain(stage), plain(w["name"]), f"`{w['sha256'][:16]}`", licence_cell(w))
        for stage, w in used
    ]
    return ["## Weights\n" + markdown_table(("used by", "file", "SHA-256", "licence"), rows)]


def licence_cell(weights: Mapping[str, Any]) -> str:
    limit = ", **non-commercial**" if non_commercial([weights]) else ""
    return plain(weights.get("licence") or "?") + limit


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def notes(result: Result | None) -> list[str]:
    """Markdown files that the stage wrote, their headings one level lower."""
    if result is None:
        return []
    texts = [result.file(name).read_text() for name in sorted(result.files) if name.endswith(".md")]
    return [re.sub(r"^#(?=#* )", "##", text, flags=re.MULTILINE).strip() for text in texts]


def pictures(ref: StoreRef, result: Result | None) -> list[str]:
    """The version's pictures as embedded thumbnails."""
    if result is None:
        files = open_files(ref.uri)
        found = {PREVIEW: files.read(PREVIEW)} if files.exists(PREVIEW) else {}
    else:
        names = sorted(name for name in result.files if name.endswith(".png") and "/" not in name)
        found = {name: result.file(name).read_bytes() for name in names[:PICTURES]}
    limit = PICTURES * PICTURE_BYTES // max(1, len(found))  # fewer pictures may be larger
    return [f"![{name}]({thumbnail(data, limit)})" for name, data in found.items()]


def thumbnail(png: bytes, limit: int = PICTURE_BYTES) -> str:
    """A data URI of the picture's top, shrunk to at most `limit` bytes; the store has all of it."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, round(PICTURE_ASPECT * image.width))))
    width = min(PICTURE_WIDTH, image.width)
    while True:
        small = image.resize(
            (width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS
        )
        out = io.BytesIO()
        small.save(out, "JPEG", quality=82)
        if out.tell() <= limit or width < 200:
            return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
        width = int(width * 0.8)


def publish_rejects(ref: StoreRef, key: str, owner: Owner | None) -> None:
    rejects = open_rows(ref).rejected
    if not rejects:
        return
    rows = [
        {
            "clip": r.clip_id,
            "row": r.row,
            "kind": r.kind,
            "reason": r.reason,
            "detail": r.detail.partition("\n")[0][:200],
        }
        for r in rejects[:TABLE_ROWS]
    ]
    more = f" (first {TABLE_ROWS} of {len(rejects)})" if len(rejects) > TABLE_ROWS else ""
    about = f"{ref.stage} {ref.key}: clips left out{more}"
    create("table", rows, key=f"{key}-rejects", description=about, owner=owner)


def publish_tables(result: Result, key: str, owner: Owner | None) -> None:
    """Publishes each CSV file of the result as a table; of long ones, every n-th row."""
    for name in sorted(n for n in result.files if n.endswith(".csv") and "/" not in n):
        with result.file(name).open(newline="") as lines:
            rows: list[dict[str, Any]] = list(csv.DictReader(lines))
        step = -(-len(rows) // TABLE_ROWS)
        if rows:
            stem = name.removesuffix(".csv").replace("_", "-").lower()
            thinned = f", every {step}th row" if step > 1 else ""
            about = f"{name} of {key}{thinned}"
            shown = rows[:: max(step, 1)]
            create("table", shown, key=f"{key}-{stem}", description=about, owner=owner)
