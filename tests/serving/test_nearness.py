"""Rows close to another client's are found among many, none is made up, and one picture proves nothing."""

import numpy as np

from serving.nearness import compare


def still() -> None:
    """Nobody waits."""


def crowd(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (N, 24), scales (N,), owners (N,) of clients with fifty rows each, far from each other."""
    rng = np.random.default_rng(seed)
    code = rng.standard_normal((rows, 24)).astype(np.float16)
    return code, np.full(rows, 3.0, np.float16), np.arange(rows) // 50


def test_close_rows_of_two_clients_are_found_among_many() -> None:
    code, scale, owner = crowd(20_000)
    first, second = np.arange(0, 5_000, 10), np.arange(10_000, 15_000, 10)
    shift = np.random.default_rng(1).standard_normal((500, 24))
    code[second] = code[first] + 0.08 * shift  # a distance of 0.4, an eighth of the scale
    linked, repeated = compare(code, scale, owner, 0.25, still)

    assert linked[first].mean() > 0.9
    assert linked.sum() == linked[first].sum() + linked[second].sum()
    assert not repeated.any()


def test_what_is_linked_lies_within_the_radius() -> None:
    code, scale, owner = crowd(2_000)
    wide, _ = compare(code, scale, owner, 1.2, still)
    gap = np.linalg.norm(code[:, None].astype(np.float32) - code, axis=2) / 3.0
    gap[owner[:, None] == owner] = np.inf

    assert 0 < wide.sum() <= (gap.min(axis=1) < 1.2 + 1e-6).sum()
    assert (gap.min(axis=1)[wide] < 1.2 + 1e-6).all()


def test_the_same_picture_is_no_link() -> None:
    code, scale, owner = crowd(200)
    code[100:] = code[:100]
    linked, _ = compare(code, scale, owner, 0.25, still)

    assert not linked.any()


def test_near_duplicates_of_one_client_are_repeats_and_no_links() -> None:
    code, scale, owner = crowd(1_000)
    code[1:20] = code[0] + 0.05 * code[1:20]
    linked, repeated = compare(code, scale, owner, 0.25, still)

    assert repeated[1:20].all()
    assert not repeated[0]
    assert not linked.any()
