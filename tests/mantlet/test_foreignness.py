"""The classifier as arrays: what it needs, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mantlet.errors import WeightsError
from mantlet.foreignness import Foreignness, described
from tests.helpers import TinyVictim, rows

COMPONENTS = 3


def arrays(width: int) -> dict[str, np.ndarray]:
    """A classifier of 4x4 pictures that looks at ``width`` numbers, with two hidden units."""
    rng = np.random.default_rng(0)
    return {
        "mean": rng.random(16, dtype=np.float32),
        "components": np.linalg.qr(rng.standard_normal((16, COMPONENTS)))[0].astype(np.float32),
        "centre": np.zeros(width, np.float32),
        "scale": np.ones(width, np.float32),
        "hidden.weight": rng.standard_normal((width, 2)).astype(np.float32),
        "hidden.bias": np.zeros(2, np.float32),
        "output.weight": np.ones(2, np.float32),
        "output.bias": np.zeros(1, np.float32),
    }


def test_it_looks_at_the_input_alone_or_at_the_answer_as_well() -> None:
    inputs = rows(7)
    answer = TinyVictim().predict(inputs)
    bare = replace(answer, features=None, logits=None)
    alone = Foreignness(arrays(COMPONENTS + 2))
    both = Foreignness(arrays(COMPONENTS + 2 + 16 + 5))

    assert [alone.needs_victim, both.needs_victim] == [False, True]
    assert alone.fits(inputs.numpy(), bare)
    assert both.fits(inputs.numpy(), answer)
    assert not both.fits(inputs.numpy(), bare)
    assert not alone.fits(rows(7, shape=(1, 5, 5)).numpy(), bare)
    assert alone.judge(inputs.numpy(), bare).shape == both.judge(inputs.numpy(), answer).shape


def test_a_row_is_judged_as_in_any_batch() -> None:
    inputs = rows(9)
    answer = TinyVictim().predict(inputs)
    judge = Foreignness(arrays(COMPONENTS + 2))
    whole = judge.judge(inputs.numpy(), answer)
    single = [judge.judge(inputs[i : i + 1].numpy(), answer)[0] for i in range(9)]

    assert np.allclose(whole, single, atol=1e-5)


def test_what_components_explain_leaves_nothing_over() -> None:
    known = arrays(COMPONENTS + 2)
    inside = known["mean"] + 0.5 * known["components"][:, 0]
    seen = described(known, inside.reshape(1, 1, 4, 4), None)

    assert np.allclose(seen[0], [0.5, 0, 0, 0, np.log(0.1)], atol=1e-3)


def test_the_order_of_classes_does_not_matter() -> None:
    inputs = rows(5)
    answer = TinyVictim().predict(inputs)
    assert answer.logits is not None
    turned = replace(answer, logits=answer.logits.roll(2, dims=1))
    judge = Foreignness(arrays(COMPONENTS + 2 + 16 + 5))

    assert np.array_equal(judge.judge(inputs.numpy(), answer), judge.judge(inputs.numpy(), turned))


def test_a_file_that_is_no_classifier_is_named(tmp_path: Path) -> None:
    save_file({"mean": torch.zeros(3)}, tmp_path / "c.safetensors")

    with pytest.raises(WeightsError, match=r"lacks components, .* make it with: mantlet train"):
        Foreignness.load(tmp_path / "c.safetensors")
