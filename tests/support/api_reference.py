"""The reference part of docs/api.md, made from signatures and docstrings.

PYTHONPATH=. python tests/support/api_reference.py          prints it
PYTHONPATH=. python tests/support/api_reference.py --write  puts it into docs/api.md
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import roboscape as rs
from roboscape.dataset import ClipDataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
MARK = "<!-- From here on: made from the docstrings by tests/support/api_reference.py --write -->\n"
FUNCTIONS: tuple[tuple[str, Callable], ...] = (
    ("roboscape.open", rs.open),
    ("roboscape.run", rs.run),
    ("roboscape.metrics.compare", rs.metrics.compare),
    ("roboscape.metrics.frame_psnr", rs.metrics.frame_psnr),
    ("roboscape.metrics.flicker", rs.metrics.flicker),
    ("roboscape.metrics.fvd", rs.metrics.fvd),
)
CLASSES: tuple[tuple[str, type], ...] = (
    ("ws", rs.Workspace),
    ("clips", rs.Clips),
    ("clip", rs.Clip),
    ("dataset", ClipDataset),
    ("model", rs.WorldModel),
    ("video", rs.Video),
    ("scores", rs.metrics.Scores),
    ("lineage", rs.Lineage),
)
OPERATORS = {"__len__": "len({0})", "__getitem__": "{0}[{1}]", "__iter__": "iter({0})"}


def reference() -> str:
    parts = ["## Functions"]
    for name, function in FUNCTIONS:
        parts += [f"### `{name}{parameters(function)}`", markdown(function)]
    parts.append("## Classes")
    for variable, cls in CLASSES:
        parts += [f"### {cls.__name__}", markdown(cls), *members(variable, cls)]
    parts += [f"### {rs.RejectedClip.__name__}", markdown(rs.RejectedClip)]
    return "\n\n".join(parts) + "\n"


def members(variable: str, cls: type) -> Iterator[str]:
    """A table of the properties, then each operator and method."""
    found = {n: m for n, m in vars(cls).items() if not n.startswith("_") or n in OPERATORS}
    properties = {n: m for n, m in found.items() if isinstance(m, property | cached_property)}
    rows = [
        f"| `{variable}.{name}` | {kind(member)} | {' '.join(doc(member).split())} |"
        for name, member in properties.items()
    ]
    if rows:
        yield "\n".join(["| | | |", "|---|---|---|", *rows])
    for name, member in found.items():
        if name in properties:
            continue
        if name in OPERATORS:
            arguments = [p for p in inspect.signature(member).parameters if p != "self"]
            call = OPERATORS[name].format(variable, *arguments)
        else:
            call = f"{variable}.{name}{parameters(member)}"
        if doc(member):
            yield f"#### `{call}`"
            yield markdown(member)


def parameters(function: Callable) -> str:
    """As one calls it: without annotations and `self`."""
    signature = inspect.signature(function)
    plain = [
        p.replace(annotation=inspect.Parameter.empty)
        for name, p in signature.parameters.items()
        if name != "self"
    ]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def kind(member: Any) -> str:
    """The type of a property; of an array its dtype and axes."""
    function = member.fget if isinstance(member, property) else member.func
    annotation = inspect.signature(function).return_annotation
    options = (
        getattr(annotation, "__args__", ()) if type(annotation).__name__ == "UnionType" else ()
    )
    return " or ".join(one_kind(each) for each in options or (annotation,))


def one_kind(annotation: Any) -> str:
    if hasattr(annotation, "dim_str"):
        name = annotation.__name__.partition("[")[0].lower()
        return f"{name} ({', '.join(annotation.dim_str.split())})"
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    text = str(annotation).replace("typing.", "")
    return text.partition("[")[0] if "ndarray" in text else f"`{text}`"


def doc(member: Any) -> str:
    return inspect.getdoc(member) or ""


def markdown(member: Any) -> str:
    """The docstring, with a list where it explains arguments."""
    arguments = set() if isinstance(member, type) else set(inspect.signature(member).parameters)
    out: list[str] = []
    for block in doc(member).split("\n\n"):
        if block.startswith("    "):
            out.append(f"```python\n{textwrap.dedent(block)}\n```")
            continue
        lines: list[str] = []
        for line in block.split("\n"):
            named = re.match(r"((?:[a-z_]+, )*[a-z_]+): ", line)
            in_list = bool(lines) and lines[-1].startswith(("- ", "  "))
            if named and arguments.issuperset(named[1].split(", ")):
                lines.append(f"- `{named[1]}`: {line[named.end() :]}")
            elif in_list and line.startswith(("Raises ", "Returns ")):
                lines += ["", line]
            else:
                lines.append(f"  {line}" if in_list else line)
        out.append("\n".join(lines))
    return "\n\n".join(out)


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + "\n" + reference())
    else:
        print(reference(), end="")
