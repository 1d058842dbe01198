"""The benchmark of tokenizers, for a second each: it runs, and its control is the worst of all."""

import argparse
from pathlib import Path

import pytest
import tokenizers


def test_it_prints_a_row_for_each_variant_and_the_control(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    variants = ["full recipe", "64 px"]
    asked = argparse.Namespace(variants=variants, seconds=1.0, episodes=1, held_out=1)
    tokenizers.run(asked, tmp_path)
    text = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert set(variants) < set(rows)
    control = [cell.strip() for cell in rows["frames with all objects filled in"].split("|")]
    assert float(control[4].removesuffix(" dB")) < 17 and int(control[5].removesuffix("%")) < 60


def test_every_variant_has_a_tokenizer_for_its_size():
    for recipe in tokenizers.VARIANTS.values():
        rows, columns = tokenizers.tiny(recipe.patch).grid(recipe.size, recipe.size)
        assert rows == columns == recipe.size // recipe.patch
