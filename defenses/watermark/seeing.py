"""What an eye and a detector see of a picture: brightness, where a mark hides, and what is left of edges."""

from torch import Tensor

BUSY = 0.06
"""Standard deviation of brightness within a window that hides a mark well."""
EDGE = 0.02
"""Changes within a window that are larger belong to the picture, smaller ones may be a mark."""
DARK = 0.1
"""Brightness below which a picture is nearly black."""
LIMIT = 0.04
"""No pixel speaks louder."""


def luma(images: Tensor) -> Tensor:
    """(B, C, H, W) grey or RGB pictures to their brightness (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def visibility(brightness: Tensor, *, black: float = 1.0) -> Tensor:
    """(B, 1, H, W) how much of a mark each pixel hides: 0.5 on flat grey, 1 on flat black, up to 2.

    Contrast hides (Watson, 1993), and so do near black and near white, where the eye tells levels worse. On a
    window that is black that is multiplied by ``black``, on a darker one than `DARK` by part of the way.
    """
    mean, variance = _moments(brightness)
    contrast = (variance.sqrt() / BUSY).clamp(max=2)
    seen = 0.5 + 0.5 * contrast + 0.5 * (2 * mean - 1).square()
    return seen if black == 1 else seen * (1 - (1 - black) * (1 - mean / DARK).clamp(min=0))


def residual(brightness: Tensor) -> Tensor:
    """(B, 1, H, W) what a guided filter takes for noise: the mark, and little of the picture.

    He, Sun and Tang, "Guided image filtering", 2010: where a window is flat its mean is taken away, where
    it holds an edge nearly everything is.
    """
    mean, variance = _moments(brightness)
    slope = variance / (variance + EDGE**2)
    smooth = _box(slope) * brightness + _box(mean * (1 - slope))
    return (brightness - smooth).clamp(-LIMIT, LIMIT)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    mean = _box(values)
    return mean, (_box(values.square()) - mean.square()).clamp(min=0)


def _box(values: Tensor) -> Tensor:
    """Means over windows of 3x3; those at the border hold fewer pixels."""
    return _means(_means(values, -1), -2)


def _means(values: Tensor, dim: int) -> Tensor:
    """Means with the neighbours along one axis: sums of slices, many times as fast as pooling."""
    count = values.shape[dim] - 1
    sums = values.clone()
    sums.narrow(dim, 1, count).add_(values.narrow(dim, 0, count))
    sums.narrow(dim, 0, count).add_(values.narrow(dim, 1, count))
    shares = values.new_full((count + 1,), 1 / 3)
    shares[0] = shares[-1] = 1 / min(2, count + 1)
    return sums * (shares if dim == -1 else shares[:, None])
