import csv
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from PIL import Image
from small_stores import opened, square_clips, write_clips, write_index
from small_trainings import (
    FEW,
    TOKENIZER,
    TRAIN_IDS,
    VAL_IDS,
    log_of,
    rows_of,
    tokenizer_stage,
    train_stage,
)

from model.lpips import Lpips
from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig
from model.magvit2.losses import TokenizerLossConfig
from model.training.checkpoint import load_model, read_header, save_model
from model.training.device import seeded
from model.training.loop import NonFiniteLoss, TrainConfig
from stages.lpips_weights import LpipsWeights
from stages.tokenizer.images import images_of, moving_mask
from stages.tokenizer.measure import (
    TOKENIZER_FILE,
    TokenizerBatch,
    held_out_frames,
    reconstruction_scores,
)
from stages.tokenizer.train import DiscriminatorConfig, TrainTokenizer
from stages.training.result import NOTE_FILE, PLOT_FILE
from storage.stores.results import Result
from storage.weights.ref import WeightsRef

FILES = {TOKENIZER_FILE, "losses.csv", PLOT_FILE, "reconstruction.png", NOTE_FILE}
PARTS = {"total", "l1", "l2", "token_entropy", "batch_entropy", "commitment"}
SCORES = {
    "psnr", "psnr moving", "psnr detail", "psnr chroma", "colours kept",
    "codes used (bits 0-8)", "codes used (bits 9-17)",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(root, stores) -> Result:
    return train_stage(root, tokenizer_stage(), stores)


@pytest.fixture(scope="module")
def start(trained) -> WeightsRef:
    return WeightsRef.of(trained.file(TOKENIZER_FILE), name="before")


def network(result: Result) -> MagvitTokenizer:
    """In the memory layout of training: in another, sums differ in the last bit on some CPUs."""
    saved = load_model(result.file(TOKENIZER_FILE), MagvitTokenizer, MagvitConfig)[0]
    return saved.to(memory_format=torch.channels_last)


def test_it_writes_a_checkpoint_tables_and_pictures(trained, stores):
    assert set(trained.files) == FILES
    for name in (PLOT_FILE, "reconstruction.png"):
        with Image.open(trained.file(name)) as picture:
            assert picture.width > 300 and len(set(picture.convert("L").tobytes())) > 16, name
    header = read_header(trained.file(TOKENIZER_FILE))
    assert header["config"]["base_channels"] == TOKENIZER.base_channels
    card = header["card"]
    assert (card["source"], card["image_size"], card["started_from"]) == (
        "rgb",
        [32, 32],
        "random weights",
    )
    assert card["training"]["steps"] == 5 and card["training"]["seed"] == 0
    assert stores["clip"].key in card["data"] and stores["discover"].key in card["data"]
    assert card["numbers"] == trained.numbers


def test_its_numbers_are_those_of_its_checkpoint(trained, stores):
    """The reported scores are those of the saved network on whole clips of `val`."""
    stage = tokenizer_stage()
    held_out = held_out_frames(stage.source, opened(rows_of(stage, stores)), stage.n_val_clips)
    after = {
        f"val/{name}, after": value
        for name, value in reconstruction_scores("rgb", network(trained), held_out).items()
    }
    with seeded(0):
        fresh = MagvitTokenizer(TOKENIZER).eval().to(memory_format=torch.channels_last)
    before = reconstruction_scores("rgb", fresh, held_out)
    assert after.items() <= trained.numbers.items()
    assert {
        f"val/{name}, before": value for name, value in before.items()
    }.items() <= trained.numbers.items()
    assert (
        f"| psnr | {before['psnr']:.4g} | {after['val/psnr, after']:.4g} |"
        in trained.file(NOTE_FILE).read_text()
    )


def test_losses_csv_holds_every_part_at_every_step(trained):
    with open(trained.file("losses.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == list("012345")
    assert all(float(row[name]) == float(row[name]) for row in rows[1:] for name in PARTS)
    loss = TokenizerLossConfig()
    for row in log_of(trained)[1:]:
        entropy = row["token_entropy"] - row["batch_entropy"]
        total = row["l1"] + row["l2"] + loss.entropy * entropy + loss.commitment * row["commitment"]
        assert row["total"] == pytest.approx(total, rel=1e-5)
    assert {name.removeprefix("val/") for name in rows[0] if name.startswith("val/")} == SCORES


@pytest.mark.parametrize(
    ("kills", "changes"),
    [
        ((1,), {}),
        ((3, 5), {"source": "depth"}),
        (
            (4,),
            {
                "discriminator": DiscriminatorConfig(base_channels=8, n_layers=1),
                "loss": TokenizerLossConfig(adversarial_start=2),
                "training": replace(FEW, grad_accum_steps=2, ema=0.9),
            },
        ),
    ],
    ids=["before-the-first-save", "twice", "with-discriminator"],
)
def test_a_killed_training_ends_as_an_undisturbed_one(root, stores, kills, changes):
    stage = tokenizer_stage(**changes)
    whole = train_stage(root, stage, stores, run="whole")
    torch.rand(3)  # the next process's random state is another one
    again = train_stage(root, stage, stores, run="killed", kills=kills)
    assert log_of(again) == log_of(whole)
    for name in (TOKENIZER_FILE, NOTE_FILE, "reconstruction.png"):
        assert again.files[name] == whole.files[name], f"{name}: other bytes"


def test_the_discriminator_joins_at_its_step(root, stores):
    discriminator, late = (
        DiscriminatorConfig(base_channels=8, n_layers=1),
        TokenizerLossConfig(adversarial_start=3),
    )
    plain = log_of(train_stage(root, tokenizer_stage(), stores, run="plain"))
    log = log_of(train_stage(root, tokenizer_stage(discriminator=discriminator, loss=late), stores))
    assert log[:4] == plain[:4], "before its step it changes nothing"
    assert [{"adversarial", "discriminator/total"} <= row.keys() for row in log] == [False] * 4 + [
        True
    ] * 2
    assert log[5]["l1"] != plain[5]["l1"]


def test_a_perceptual_loss_is_counted_where_its_weights_are(root, stores, tmp_path):
    with seeded(0):
        state = Lpips().state_dict()
    trunk = {name: value for name, value in state.items() if name.startswith("features.")}
    linear = {f"lin{i}.model.1.weight": state[f"linear.{i}.weight"].abs() for i in range(5)}
    torch.save(trunk, tmp_path / "trunk.pth")
    torch.save(linear, tmp_path / "linear.pth")
    weights = LpipsWeights(
        trunk=WeightsRef.of(tmp_path / "trunk.pth"), linear=WeightsRef.of(tmp_path / "linear.pth")
    )
    few = replace(FEW, steps=1)
    row = log_of(train_stage(root, tokenizer_stage(lpips=weights, training=few), stores))[1]
    plain = log_of(train_stage(root, tokenizer_stage(training=few), stores))[1]
    assert row["perceptual"] > 0
    assert row["total"] == pytest.approx(plain["total"] + row["perceptual"], rel=1e-5)


def test_channels_last_changes_the_memory_layout_only(root, stores, trained, monkeypatch):
    kernels = [weight for weight in tokenizer_stage().build().parameters() if weight.ndim == 4]
    assert kernels and all(
        weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels
    )
    build = TrainTokenizer.build
    monkeypatch.setattr(
        TrainTokenizer,
        "build",
        lambda stage: build(stage).to(memory_format=torch.contiguous_format),
    )
    plain = train_stage(root, tokenizer_stage(), stores, run="contiguous")
    for row, expected in zip(log_of(trained), log_of(plain), strict=True):
        assert row == pytest.approx(expected, rel=1e-4), f"step {row['step']}"


def test_part_decoder_keeps_the_encoder_and_so_the_tokens(root, stores, start, trained):
    heavy = TrainConfig(steps=3, learning_rate=0.01, warmup_steps=0, weight_decay=0.5, ema=0.9)
    stage = tokenizer_stage(part="decoder", start_from=start, training=heavy)
    before, after = network(trained), network(train_stage(root, stage, stores))
    for name, value in before.encoder.state_dict().items():
        assert torch.equal(after.encoder.state_dict()[name], value), name
    pairs = zip(before.decoder.parameters(), after.decoder.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)
    images = held_out_frames(stage.source, opened(rows_of(stage, stores)), stage.n_val_clips).images
    assert torch.equal(before.to_ids(images), after.to_ids(images))


def test_start_from_starts_with_those_weights_and_is_named(root, stores, start, trained):
    result = train_stage(root, tokenizer_stage(start_from=start), stores)
    assert result.numbers["val/psnr, before"] == trained.numbers["val/psnr, after"]
    card = read_header(result.file(TOKENIZER_FILE))["card"]
    assert card["started_from"] == f"before (SHA-256 {trained.files[TOKENIZER_FILE]['sha256']})"
    assert card["steps_before"] == 5
    note = result.file(NOTE_FILE).read_text()
    assert card["started_from"] in note and "after 5 steps elsewhere; trained 5 steps here" in note


def test_weights_of_another_layout_or_kind_are_refused(root, stores, start, tmp_path):
    wider = replace(TOKENIZER, base_channels=16)
    with pytest.raises(
        ValueError, match=r"rgb_tokenizer: .*base_channels=8.*the stage asks for .*base_channels=16"
    ):
        train_stage(root, tokenizer_stage(model=wider, start_from=start), stores)
    save_model(tmp_path / "other.safetensors", torch.nn.Linear(1, 1), FEW)
    with pytest.raises(
        ValueError, match="TrainConfig, expected MagvitConfig: this is another kind of network"
    ):
        train_stage(
            root, tokenizer_stage(start_from=WeightsRef.of(tmp_path / "other.safetensors")), stores
        )


def test_it_trains_on_train_and_measures_on_val(stores):
    stage = tokenizer_stage()
    rows = opened(rows_of(stage, stores))
    batch_at = stage.batches(rows)
    assert {clip_id for i in range(20) for clip_id in batch_at(i).clip_ids} == TRAIN_IDS
    assert set(held_out_frames(stage.source, rows, stage.n_val_clips).clip_ids) == VAL_IDS


@pytest.mark.parametrize("source", ["rgb", "depth"])
def test_a_batch_holds_drawn_frames_of_the_clips_that_it_names(tmp_path, source):
    role, arrays = (
        ("clip", square_clips(4)["clip"])
        if source == "rgb"
        else ("depth", square_clips(4)["depth"])
    )
    for t in range(16):  # a slow square leaves frames equal: here each has a corner of its own
        arrays["rgb" if source == "rgb" else "inverse_depth"][:, t, 0, 0] = (
            0.6 + 0.05 * t if source == "depth" else t
        )
    index = write_index(tmp_path, ["train"] * 4)
    stage = tokenizer_stage(source=source, frames_per_clip=3)
    batch_at, drawn = (
        stage.batches(opened({"discover": index, role: write_clips(index, role, arrays)})),
        [],
    )
    for i in range(4):
        batch = batch_at(i)
        assert batch.number == i and batch.images.abs().max() <= 1
        images, moving = (
            rearrange(x, "(b j) ... -> b j ...", j=3) for x in (batch.images, batch.moving)
        )
        for clip_id, frames, masks in zip(batch.clip_ids, images, moving, strict=True):
            row = int(clip_id.removeprefix("clip"))
            whole = images_of(source, {name: array[[row]] for name, array in arrays.items()})[0]
            at = [int((whole == frame).flatten(1).all(1).nonzero()[0]) for frame in frames]
            assert at == sorted(set(at)), "distinct frames, in order"
            assert torch.equal(masks, moving_mask(whole)[at])
            drawn.append(tuple(at))
    assert len(set(drawn)) > 4, "drawn again for every batch"


def test_held_out_clips_are_whole(stores):
    stage = tokenizer_stage()
    batch = held_out_frames(stage.source, opened(rows_of(stage, stores)), stage.n_val_clips)
    rgb = square_clips(8)["clip"]["rgb"][[1, 7]]
    assert torch.equal(
        batch.images, rearrange(images_of("rgb", {"rgb": rgb}), "b t c h w -> (b t) c h w")
    )


@pytest.mark.parametrize("weight", ["moving_weight", "detail_weight"])
def test_only_masks_that_weigh_something_are_made(stores, weight):
    stage = tokenizer_stage(**{"moving_weight": 0.0, "detail_weight": 0.0, weight: 1.0})
    batch = stage.batches(opened(rows_of(stage, stores)))(0)
    found = {"moving_weight": batch.moving, "detail_weight": batch.detail}
    assert found.pop(weight) is not None and list(found.values()) == [None]


@pytest.mark.parametrize("chosen", ["moving", "detail"])
def test_moving_and_detailed_pixels_count_more(chosen):
    """The mean of |error| with weight 1 + w where it moves, or has detail, in plain numbers."""
    stage = tokenizer_stage(**{"moving_weight": 0.0, f"{chosen}_weight": 3.0})
    with seeded(0):
        model = MagvitTokenizer(TOKENIZER)
    at = torch.zeros(1, 8, 8, dtype=torch.bool)
    at[:, :4, :4] = True  # a quarter
    where = {"moving": torch.zeros_like(at), "detail": torch.zeros(1, 8, 8)}
    where |= {chosen: at if chosen == "moving" else at.float()}
    batch = TokenizerBatch(images=torch.rand(1, 3, 8, 8), **where, number=0, clip_ids=["a"])
    found = stage.loss_fn(None, None)(model, batch, torch.Generator())
    error = (model(batch.images).reconstruction - batch.images).abs().mean(dim=1)
    inside, outside = error[at].mean(), error[~at].mean()
    torch.testing.assert_close(found["l1"], (4 * inside * 1 + 1 * outside * 3) / (4 * 1 + 1 * 3))


def test_it_learns_the_few_frames_it_is_given(root, stores):
    many = TrainConfig(steps=60, learning_rate=1e-2, warmup_steps=5, min_lr_ratio=0.1)
    result = train_stage(root, tokenizer_stage(training=many, clips_per_batch=4), stores)
    assert result.numbers["total, last steps"] < 0.6 * result.numbers["total, first steps"]
    assert result.numbers["val/psnr, after"] > result.numbers["val/psnr, before"] + 5


def test_a_loss_that_is_nan_names_the_clips(root, stores):
    wild = TrainConfig(steps=5, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(NonFiniteLoss, match=r"step 1: loss .*nan.*clips clip00\d, clip00\d\."):
        train_stage(root, tokenizer_stage(training=wild), stores)


def test_still_clips_have_no_moving_region_to_score(tmp_path):
    index = write_index(tmp_path, ["train", "val"])
    rgb = square_clips(2)["clip"]["rgb"][:, :1].repeat(16, axis=1)
    still = {"discover": index, "clip": write_clips(index, "clip", {"rgb": rgb})}
    numbers = train_stage(tmp_path, tokenizer_stage(training=replace(FEW, steps=1)), still).numbers
    assert "val/psnr, after" in numbers and not [name for name in numbers if "moving" in name]


def test_no_held_out_clip_is_an_error_before_any_step(tmp_path):
    index = write_index(tmp_path, ["train", "train"])
    rgb = {"rgb": square_clips(2)["clip"]["rgb"]}
    stores = {"discover": index, "clip": write_clips(index, "clip", rgb)}
    with pytest.raises(ValueError, match=r"no clip of split val has data in .*'train': 2"):
        train_stage(tmp_path, tokenizer_stage(), stores)


def test_frames_that_do_not_divide_into_cells_are_refused(root, stores):
    coarse = replace(TOKENIZER, stem_patch=12)
    with pytest.raises(ValueError, match="image of 32 x 32 px: each side must be a multiple of 24"):
        train_stage(root, tokenizer_stage(model=coarse), stores)


@pytest.mark.parametrize(
    "wrong",
    [{"clips_per_batch": 0}, {"frames_per_clip": 0}, {"n_val_clips": 0}, {"moving_weight": -1.0}],
)
def test_impossible_settings_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        tokenizer_stage(**wrong)
    with pytest.raises(ValueError, match="part='decoder' keeps the encoder of `start_from`"):
        tokenizer_stage(part="decoder")


def test_name_and_inputs_follow_the_source():
    assert (tokenizer_stage().name, tokenizer_stage(source="depth").name) == (
        "rgb_tokenizer",
        "depth_tokenizer",
    )
    assert tokenizer_stage().inputs == {"discover": ("split",), "clip": ("rgb",)}
    assert tokenizer_stage(source="depth").inputs["depth"] == (
        "inverse_depth",
        "inverse_depth_range",
    )
