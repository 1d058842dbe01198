"""Every store leads back to the episode files, and on to what was made from it."""

import io
import shutil

import pytest
from rich.console import Console
from small_workspace import make_workspace

import roboscape as rs
from pipeline.cli.lineage import print_lineage
from pipeline.lineage.graph import ancestry, descendants
from storage.stores.results import open_result


def test_upstream_is_all_that_it_was_made_from_inputs_first(ws, world):
    table = ws.lineage("evaluation").upstream()
    stages = table["stage"].to_pylist()
    assert stages.index("discover") < stages.index("clip") < stages.index("rgb_tokenizer")
    assert stages.index("rgb_tokenizer") < stages.index("rgb_tokens") < stages.index("world_model")
    assert "evaluation" not in stages and all(table["complete"].to_pylist())
    assert set(table["uri"].to_pylist()) == {
        ref.uri for ref in (*world.rows.values(), *world.results.values())
    }
    assert table.to_pandas()["clips"].notna().sum() == 6


def test_downstream_is_all_that_was_made_from_it(ws):
    of_depth = ws.lineage("depth").downstream()["stage"].to_pylist()
    expected = "keypoints label_quality depth_tokenizer depth_tokens world_model evaluation"
    assert set(of_depth) == set(expected.split())
    assert (
        of_depth.index("depth_tokens")
        < of_depth.index("world_model")
        < of_depth.index("evaluation")
    )
    assert ws.lineage("evaluation").downstream().num_rows == 0
    assert (
        ws.lineage("evaluation").downstream().column_names
        == ws.lineage("clip").upstream().column_names
    )


def test_the_two_directions_agree(ws, world):
    refs = [*world.rows.values(), *world.results.values()]
    down = {(ref.uri, node.ref.uri) for ref in refs for node in descendants(ref)}
    up = {(node.ref.uri, ref.uri) for ref in refs for node in ancestry(ref)[:-1]}
    assert up and up == {pair for pair in down if pair[1] in {ref.uri for ref in refs}}


def test_what_is_made_comes_after_all_of_its_inputs(ws, world):
    seen = {world.rows["discover"]}
    for node in descendants(world.rows["discover"]):
        assert set(node.inputs.values()) <= seen, node.label
        seen.add(node.ref)


def test_a_store_says_how_it_was_made(ws, world):
    lineage = ws.lineage("depth_tokens")
    assert lineage.store == str(world.rows["depth_tokens"]) and lineage.complete
    assert lineage.inputs == {
        "depth": str(world.rows["depth"]),
        "tokenizer": str(world.results["depth_tokenizer"]),
    }
    assert lineage.uri == world.rows["depth_tokens"].uri and lineage.parameters == {}
    assert (lineage.code, lineage.weights) == ({}, []) and lineage.source.startswith("?")


def test_it_is_found_by_any_file_and_its_text_is_that_of_the_command_line(ws, world):
    checkpoint = open_result(world.results["world_model"]).path / "world_model.safetensors"
    lineage = ws.lineage(str(checkpoint))
    assert lineage.store == str(world.results["world_model"])
    text = io.StringIO()
    print_lineage(lineage.store, ws.path, Console(file=text, width=1000))
    assert lineage.tree().split() == text.getvalue().split()
    assert repr(lineage).startswith(lineage.tree()) and "made from it: evaluation/" in repr(lineage)
    assert "nothing yet" in repr(ws.lineage("evaluation"))
    with pytest.raises(LookupError, match="no store 'nonsense' in"):
        ws.lineage("nonsense")


def test_parameters_are_shown_when_asked_for(ws, world):
    assert "size" not in ws.lineage("clip").tree()
    plain = [line.strip("│└├─ ") for line in ws.lineage("clip").tree(parameters=True).splitlines()]
    assert plain[1].startswith("clip ")


def test_a_store_whose_input_was_deleted_still_has_a_text(tmp_path):
    world = make_workspace(tmp_path)
    shutil.rmtree(world.rows["depth"].uri)
    lineage = rs.open(tmp_path).lineage("depth_tokens")
    assert f"made from {lineage.inputs}; of these, there is no store" in repr(lineage)
    with pytest.raises(FileNotFoundError, match="there is no store"):
        lineage.upstream()
