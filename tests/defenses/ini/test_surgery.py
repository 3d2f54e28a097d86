import torch

from defenses.ini.surgery import averaged


def surgery(*gradients: list[float]) -> torch.Tensor:
    return averaged([torch.tensor(g) for g in gradients], torch.Generator().manual_seed(0))


def test_gradients_that_agree_are_averaged() -> None:
    assert surgery([1.0, 0.0], [1.0, 2.0]).tolist() == [1.0, 1.0]


def test_what_goes_against_another_is_taken_away() -> None:
    """By hand: (1,0) loses its part along (-1,1), and the other way round."""
    assert surgery([1.0, 0.0], [-1.0, 1.0]).tolist() == [0.25, 0.75]


def test_the_mean_goes_against_no_task_of_two() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        first, second = torch.randn(2, 5, generator=generator)
        mean = averaged([first, second], generator)

        assert min(torch.dot(mean, first), torch.dot(mean, second)) > -1e-6


def test_a_task_without_gradient_changes_the_mean_alone() -> None:
    assert surgery([2.0, 2.0], [0.0, 0.0]).tolist() == [1.0, 1.0]
