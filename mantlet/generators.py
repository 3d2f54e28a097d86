"""Networks that draw pictures from latents, and the one that tells theirs from real ones."""

from torch import Tensor, nn


class DcganGenerator(nn.Module):
    """A small DCGAN (Radford et al., 2016): ``latent`` standard normal numbers to a 28x28 picture.

    ``width`` channels at 14x14 and twice as many at 7x7; 169,489 parameters by default.
    """

    task = "generate"
    input_shape: tuple[int, ...] = (64,)
    output_range = (-1.0, 1.0)

    def __init__(self, *, latent: int = 64, width: int = 24, channels: int = 1) -> None:
        super().__init__()
        self.input_shape = (latent,)
        self.project = nn.Sequential(
            nn.Linear(latent, 2 * width * 49, bias=False),
            nn.Unflatten(1, (2 * width, 7, 7)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.draw = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Pictures (B, channels, 28, 28) in [-1, 1] of (B, latent) latents."""
        pictures: Tensor = self.draw(self.project(latents))
        return pictures


class DcganDiscriminator(nn.Module):
    """What `DcganGenerator` is trained against: how real a 28x28 picture looks.

    Its batch norms see real and drawn pictures in batches of their own while it learns; in evaluation mode a
    picture's score is its own. Trained by logistic loss the score is the log-odds that the picture is real.
    """

    input_shape: tuple[int, ...] = (1, 28, 28)

    def __init__(self, *, width: int = 24, channels: int = 1) -> None:
        super().__init__()
        self.input_shape = (channels, 28, 28)
        self.look = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),  # 14x14
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),  # 7x7
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 3, 2, 1, bias=False),  # 4x4
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(4 * width * 16, 1),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores (B,) of pictures (B, channels, 28, 28) in [-1, 1]."""
        scores: Tensor = self.look(pictures).squeeze(1)
        return scores


class WganGenerator(nn.Module):
    """Four transposed convolutions without padding: ``latent`` numbers to a 28x28 picture.

    As WGAN-GP generators of digits are often built (Gulrajani et al., 2017); 748,737 parameters by default.
    """

    task = "generate"
    input_shape: tuple[int, ...] = (64,)
    output_range = (-1.0, 1.0)

    def __init__(self, *, latent: int = 64, width: int = 64, channels: int = 1) -> None:
        super().__init__()
        self.input_shape = (latent,)
        self.gen = nn.Sequential(
            _grown(latent, 4 * width, 3, 2),  # 3x3
            _grown(4 * width, 2 * width, 4, 1),  # 6x6
            _grown(2 * width, width, 3, 2),  # 13x13
            nn.Sequential(nn.ConvTranspose2d(width, channels, 4, 2), nn.Tanh()),  # 28x28
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Pictures (B, channels, 28, 28) in [-1, 1] of (B, latent) latents."""
        pictures: Tensor = self.gen(latents[:, :, None, None])
        return pictures


def _grown(channels_in: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels_in, channels, kernel, stride),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class MlpGenerator(nn.Sequential):
    """Three linear layers: ``latent`` numbers to a 28x28 grey picture (Goodfellow et al., 2014)."""

    task = "generate"
    input_shape: tuple[int, ...] = (64,)
    output_range = (-1.0, 1.0)

    def __init__(self, *, latent: int = 64, hidden: int = 256) -> None:
        super().__init__(
            nn.Linear(latent, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 784),
            nn.Tanh(),
            nn.Unflatten(1, (1, 28, 28)),
        )
        self.input_shape = (latent,)
