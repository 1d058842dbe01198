"""Small weights made by this repository's commands; README.md beside them says how."""

from pathlib import Path

FOLDER = Path(__file__).parent


def shipped(name: str) -> Path:
    """The path of shipped weights, such as `rgb_tokenizer`.

    Raises FileNotFoundError that lists the names there are.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        names = sorted(p.stem for p in FOLDER.glob("*.safetensors"))
        raise FileNotFoundError(
            f"no shipped weights '{name}'; there are {names}. {FOLDER / 'README.md'} says which "
            "commands make them"
        )
    return path
