"""Small weights that this repository's own commands made; README.md beside them says how, from what
and how good.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def shipped(name: str) -> Path:
    """The file of these weights, such as `rgb_tokenizer`. Raises FileNotFoundError naming what
    there is.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        there = sorted(p.stem for p in FOLDER.glob("*.safetensors"))
        how = f"{FOLDER / 'README.md'} says which commands make them"
        raise FileNotFoundError(f"no shipped weights '{name}'; there are {there}. {how}")
    return path
