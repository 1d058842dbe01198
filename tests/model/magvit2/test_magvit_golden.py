"""The network against outputs of both published implementations with the same weights."""

import pytest
import torch
from golden_weights import activation_statistics, load_fixture, with_golden_weights
from torch.testing import assert_close

from model.magvit2.autoencoder import MagvitTokenizer
from model.magvit2.config import MagvitConfig, one_x, tencent
from model.magvit2.quantizer import ids_from_signs, signs

LAYOUTS = {"magvit2_1x_parity.npz": one_x(), "magvit2_tencent_parity.npz": tencent()}


@pytest.mark.parametrize(("file", "config"), LAYOUTS.items(), ids=["1x", "tencent"])
def test_matches_reference(file: str, config: MagvitConfig):
    golden = load_fixture(file)
    with torch.device("meta"):  # the weights are replaced at once
        network = MagvitTokenizer(config)
    network = with_golden_weights(network.to_empty(device="cpu"))
    names = golden["act_names"].tolist()
    made = {}

    def run():
        made["z"] = network.encode(torch.from_numpy(golden["images"]))
        made["reconstruction"] = network.decoder(signs(made["z"]))

    with torch.no_grad():
        seen = activation_statistics(network, names, run)

    expected = zip(names, golden["act_shapes"], golden["act_mean"], golden["act_std"], strict=True)
    for name, shape, mean, std in expected:
        assert str(seen[name][0]) == shape, name
        assert seen[name][1:] == pytest.approx((mean, std), abs=1e-5), name
    assert_close(made["z"], torch.from_numpy(golden["z"]), atol=1e-4, rtol=0)
    assert_close(
        made["reconstruction"], torch.from_numpy(golden["reconstruction"]), atol=1e-4, rtol=0
    )
    assert torch.equal(ids_from_signs(made["z"]).long(), torch.from_numpy(golden["ids"]))
