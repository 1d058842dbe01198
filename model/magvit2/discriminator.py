"""The patch discriminator of Isola et al. 2017 (arXiv:1611.07004): a score per overlapping patch.

Entry names are those of the published checkpoints (`loss.discriminator.main.*`), so that training
can start from one.
"""

from jaxtyping import Float
from torch import Tensor, nn

LEAK = 0.2


class PatchDiscriminator(nn.Module):
    """Strided 4x4 convolutions; with the default three a score sees 70 x 70 pixels.

    Each layer halves the grid of scores: use fewer layers and channels for small images.
    """

    def __init__(self, *, base_channels: int = 64, n_layers: int = 3):
        super().__init__()
        widths = [base_channels * min(2**i, 8) for i in range(n_layers + 1)]
        layers: list[nn.Module] = [
            nn.Conv2d(3, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(LEAK),
        ]
        for i in range(1, n_layers + 1):
            stride = 2 if i < n_layers else 1
            layers += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(widths[i]),
                nn.LeakyReLU(LEAK),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 gh gw"]:
        return self.main(images)
