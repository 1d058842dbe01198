"""What this machine has no room for is refused before work begins."""

from dataclasses import replace

import pytest
from agibot_tree import FakeEpisode, write_tree

from model.training.parallel import ParallelConfig
from pipeline.cli.machine import check_network, check_room, devices_of
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.world_model import smoke
from pipeline.settings import Settings
from stages.world_model.train import TrainWorldModel


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    tree = write_tree(tmp_path_factory.mktemp("source"), FakeEpisode(n=60))
    return smoke(tree, tree)


@pytest.fixture(scope="module")
def world_model(experiment: Experiment) -> TrainWorldModel:
    """147 million parameters and more: 2.3 GB in training."""
    stage = experiment.world_model
    return replace(stage, model=replace(stage.model, n_layers=70, d_model=256))


def test_a_network_that_exceeds_the_memory_is_refused(world_model):
    check_network(world_model, memory_gb=3.0)
    with pytest.raises(ValueError, match=r"'world_model': its network has over 147 million") as e:
        check_network(world_model, memory_gb=2.0)
    assert "2.3 GB in training without any data; this machine has 2 GB" in str(e.value)
    assert "Choose a smaller one: world_model.model" in str(e.value)


def test_each_worker_holds_a_network_unless_it_is_sharded(world_model):
    two = replace(world_model, workers=2)
    with pytest.raises(ValueError, match="over 294 million parameters in all workers"):
        check_network(two, memory_gb=3.0)
    check_network(replace(two, parallel=ParallelConfig(strategy="fsdp")), memory_gb=3.0)


def test_a_tokenizer_is_looked_at_as_well(experiment: Experiment):
    stage = experiment.rgb_tokenizer
    check_network(stage, memory_gb=0.5)
    with pytest.raises(ValueError, match=r"Choose a smaller one: rgb_tokenizer\.model"):
        check_network(replace(stage, model=replace(stage.model, base_channels=1024)), memory_gb=0.5)


def test_a_cluster_s_memory_and_devices_are_not_this_machine_s(world_model):
    far = replace(world_model, device="cuda:99", model=replace(world_model.model, d_model=65536))
    check_room([far], Settings(external_ray="10.0.0.1:6379"), "ray")
    with pytest.raises(ValueError, match=r"world_model.device: device 'cuda:99'"):
        check_room([far], Settings(external_ray=None), "serial")


def test_devices_of_parts_are_found(experiment: Experiment):
    stage = experiment.world_model
    assert list(devices_of(stage, "world_model")) == []
    named = replace(stage, device="cpu")
    assert list(devices_of(named, "world_model")) == [("world_model.device", "cpu")]
