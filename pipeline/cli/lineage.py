"""`roboscape lineage`: the tree behind a store, on the terminal."""

from rich.console import Console
from rich.markup import escape

from pipeline.lineage.graph import ancestry, find
from pipeline.lineage.provenance import non_commercial_behind, non_commercial_text
from pipeline.lineage.tree import lineage_tree


def print_lineage(what: str, root: str, out: Console, parameters: bool = False) -> None:
    """Raises LookupError if nothing is named `what`."""
    nodes = ancestry(find(what, root))
    out.print(lineage_tree(nodes, parameters))
    if text := non_commercial_text(non_commercial_behind(node.manifest for node in nodes)):
        out.print(f"[yellow]non-commercial:[/yellow] {escape(text)}")
