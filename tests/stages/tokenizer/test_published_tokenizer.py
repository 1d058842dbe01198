"""A published tokenizer in place of a trained one, from a small file in the published layout."""

from pathlib import Path

import pytest
import torch
from small_stores import opened, run_stage
from small_trainings import TOKENIZER, Stores, make_stores, rows_of

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig
from model.magvit2.published import ema_name
from model.training.checkpoint import load_model, read_header
from model.training.device import seeded
from stages.tokenizer import published as published_tokenizer
from stages.tokenizer.decode import load_tokenizer
from stages.tokenizer.measure import (
    PICTURE_FILE,
    TOKENIZER_FILE,
    held_out_frames,
    reconstruction_scores,
)
from stages.tokenizer.published import PublishedTokenizer
from stages.training.result import NOTE_FILE
from storage.weights.ref import WeightsRef


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Stores:
    return make_stores(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def raw() -> MagvitTokenizer:
    with seeded(1):
        return MagvitTokenizer(TOKENIZER).eval()


@pytest.fixture(scope="module")
def averaged() -> MagvitTokenizer:
    with seeded(2):
        return MagvitTokenizer(TOKENIZER).eval()


@pytest.fixture
def file(
    tmp_path: Path, raw: MagvitTokenizer, averaged: MagvitTokenizer, monkeypatch
) -> WeightsRef:
    """A file with both kinds of weights under their published names, and a discriminator."""
    small = {"1x": (TOKENIZER, "raw"), "tencent": (TOKENIZER, "ema")}
    monkeypatch.setattr(published_tokenizer, "LAYOUTS", small)
    entries = dict(raw.state_dict()) | {
        ema_name(name): value for name, value in averaged.state_dict().items()
    }
    torch.save(
        {"state_dict": entries | {"loss.discriminator.weight": torch.zeros(3)}},
        tmp_path / "magvit2.ckpt",
    )
    return WeightsRef.of(tmp_path / "magvit2.ckpt", name="magvit2-1x", licence="Apache-2.0")


@pytest.mark.parametrize("source", ["rgb", "depth"])
@pytest.mark.parametrize("layout", ["1x", "tencent"])
def test_each_layout_takes_the_weights_that_its_tokens_come_from(
    tmp_path, stores, file, raw, averaged, layout, source
):
    stage = PublishedTokenizer(
        source=source, weights=file, layout=layout, n_val_clips=2, device="cpu"
    )
    result = run_stage(tmp_path, stage, rows_of(stage, stores))
    assert set(result.files) == {TOKENIZER_FILE, PICTURE_FILE, NOTE_FILE}
    found, config = load_model(result.file(TOKENIZER_FILE), MagvitTokenizer, MagvitConfig)
    expected = raw if layout == "1x" else averaged
    assert config == TOKENIZER
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    held_out = held_out_frames(source, opened(rows_of(stage, stores)), 2)
    assert result.numbers == {
        f"val/{name}": value
        for name, value in reconstruction_scores(source, expected, held_out).items()
    }
    card = read_header(result.file(TOKENIZER_FILE))["card"]
    assert card["published"]["sha256"] == file.sha256 and card["weights"] == (
        "raw" if layout == "1x" else "ema"
    )
    assert f"| val/psnr | {result.numbers['val/psnr']:.4g} |" in result.file(NOTE_FILE).read_text()
    load_tokenizer(result, source)  # what the stage of tokens asks of it


def test_a_file_of_another_layout_is_refused_by_its_entries(tmp_path, stores, file, monkeypatch):
    other = MagvitConfig(**{**vars(TOKENIZER), "adaptive_decoder": True})
    monkeypatch.setattr(published_tokenizer, "LAYOUTS", {"tencent": (other, "ema")})
    stage = PublishedTokenizer(source="rgb", weights=file, layout="tencent", device="cpu")
    with pytest.raises(ValueError, match=r"magvit2\.ckpt: the ema weights do not fit .*adaptive"):
        run_stage(tmp_path, stage, rows_of(stage, stores))
