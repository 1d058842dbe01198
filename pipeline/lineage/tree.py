"""The tree behind a store, drawn with Rich: for the terminal, and for a store's text in Python."""

from collections.abc import Sequence

from rich.markup import escape
from rich.tree import Tree

from pipeline.lineage.graph import Node, source_of
from stages.annotator import EXACT


def lineage_tree(nodes: Sequence[Node], parameters: bool = False) -> Tree:
    """Of the last of the nodes, which the others lead to, as `ancestry` lists them."""
    by_uri = {node.ref.uri: node for node in nodes}
    seen: set[str] = set()

    def grow(tree: Tree, node: Node, role: str) -> None:
        label = f"[bold]{escape(node.manifest.stage)}[/bold] {escape(node.ref.key)}"
        branch = tree.add(
            (f"{role}: " if role and role != node.manifest.stage else "") + label + details(node)
        )
        if node.ref.uri in seen:
            branch.add("[dim](above)[/dim]")
            return
        seen.add(node.ref.uri)
        if parameters:
            for name, value in node.manifest.parameters.items():
                branch.add(f"[dim]{name} = {escape(str(value))}[/dim]", highlight=False)
        for upstream_role, upstream in node.inputs.items():
            grow(branch, by_uri[upstream.uri], upstream_role)
        if node.manifest.kind == "index":
            branch.add(f"episode files: {escape(source_of(list(nodes)))}")

    tree = Tree(escape(nodes[-1].ref.uri), hide_root=False)
    grow(tree, nodes[-1], "")
    return tree


def details(node: Node) -> str:
    """Version, code, weights and stand-ins in one line."""
    manifest = node.manifest
    parts = [f"v{manifest.version}", f"code {manifest.code.get('commit', '?')}", manifest.created]
    parts += [
        f"weights {w['name']} {w['sha256'][:12]} ({w.get('licence') or 'licence?'})"
        for w in manifest.weights
    ]
    if manifest.attributes.get("stand_in_for"):
        parts.append(
            f"stand-in {manifest.attributes['annotator']} for {manifest.attributes['stand_in_for']}"
        )
    if manifest.attributes.get(EXACT):
        parts.append(str(manifest.attributes[EXACT]))
    parts = [escape(part) for part in parts]
    if not node.complete:
        parts.append("[red]incomplete[/red]")
    return "  [dim]" + ", ".join(parts) + "[/dim]"
