"""A clone whose gradients are fit to maps, and what of them a display leaves."""

import torch
from torch import nn

from redteam.attacks.matching import as_shown, matching
from redteam.learning import Means, Transfer, soft

ROWS = torch.arange(4)


def transfer() -> tuple[nn.Module, Transfer]:
    """A network, and its own gradients as maps."""
    generator = torch.Generator().manual_seed(0)
    network = Means(torch.zeros(0, 1, 28, 28), settings={"width": 2}).network(generator)
    inputs = torch.rand(4, 1, 28, 28, generator=generator).requires_grad_()
    top = torch.log_softmax(network(inputs), dim=1).amax(dim=1).sum()
    (maps,) = torch.autograd.grad(top, inputs)
    answers = torch.softmax(network(inputs.detach()), dim=1).detach()
    return network, Transfer(inputs.detach(), answers, maps)


def test_gradients_that_are_the_maps_cost_nothing_whatever_their_scale() -> None:
    network, own = transfer()
    assert own.maps is not None
    louder = Transfer(own.inputs, own.answers, 7 * own.maps)

    torch.testing.assert_close(matching(5.0)(network, louder, ROWS), soft(network, own, ROWS))


def test_the_loss_falls_with_the_angle() -> None:
    network, own = transfer()
    assert own.maps is not None
    losses = [
        matching(1.0)(network, Transfer(own.inputs, own.answers, maps), ROWS).item()
        for maps in (own.maps, own.maps + own.maps.flip(0), -own.maps)
    ]

    assert losses[0] < losses[1] < losses[2]


def test_rows_without_a_map_learn_from_the_answer_alone() -> None:
    network, own = transfer()
    bare = Transfer(own.inputs, own.answers, torch.zeros_like(own.inputs))

    torch.testing.assert_close(matching(3.0)(network, bare, ROWS), soft(network, own, ROWS))
    assert matching(3.0)(network, Transfer(own.inputs, own.answers), ROWS) == soft(
        network, own, ROWS
    )


def test_displayed_gradients_of_the_same_network_match_their_display_and_have_a_slope() -> None:
    network, own = transfer()
    assert own.maps is not None
    view = as_shown(4, 0.5)
    loss = matching(1.0, view)(network, Transfer(own.inputs, own.answers, view(own.maps)), ROWS)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    torch.testing.assert_close(loss, soft(network, own, ROWS))
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_a_display_has_one_number_a_square() -> None:
    maps = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    shown = as_shown(4)(maps)

    assert shown.shape == maps.shape
    assert torch.equal(shown[..., ::4, ::4], shown[..., 3::4, 3::4])
    torch.testing.assert_close(shown, as_shown(4)(-3 * maps))
