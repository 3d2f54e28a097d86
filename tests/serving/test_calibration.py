from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from detectors.foreign import Foreign
from detectors.rate import Rate
from mantlet.errors import CalibrationError
from mantlet.types import Prediction
from serving import calibration
from tests.helpers import TinyVictim, query, rows

LEARNED = {
    "foreign": {"energy.threshold": np.float32(0.5), "means": np.arange(6.0).reshape(2, 3)},
    "other/name": {"a": np.ones(2)},
}


def test_what_was_written_is_read_with_the_weights_it_was_made_for(tmp_path: Path) -> None:
    path = tmp_path / "deep/c.safetensors"
    calibration.write(path, LEARNED, "f" * 64)  # type: ignore[arg-type]  # a numpy number will do
    learned, made_for = calibration.read(path)

    assert made_for == "f" * 64
    assert learned.keys() == LEARNED.keys()
    for name, arrays in LEARNED.items():
        assert learned[name].keys() == arrays.keys()
        for field, array in arrays.items():  # type: ignore[attr-defined]
            assert np.array_equal(learned[name][field], array)
            assert learned[name][field].shape == np.shape(array)


def test_a_transposed_array_is_written_as_it_reads(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3).T
    calibration.write(tmp_path / "c", {"d": {"a": array}}, "")

    assert np.array_equal(calibration.read(tmp_path / "c")[0]["d"]["a"], array)


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no such file; run: mantlet calibrate CONFIG"):
        calibration.read(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)

    with pytest.raises(CalibrationError, match=r"is damaged: .*make it anew"):
        calibration.read(tmp_path / "c")


def test_a_file_that_says_no_weights_was_made_for_none(tmp_path: Path) -> None:
    save_file({"foreign/a": np.ones(1)}, tmp_path / "c")

    assert calibration.read(tmp_path / "c")[1] == ""


def test_detectors_that_need_it_learn_from_all_rows_at_once() -> None:
    """Rows go through the victim in parts; what is learned is as of the whole."""
    victim = TinyVictim()
    inputs = rows(calibration.BATCH * 2 + 30)
    detector = Foreign()
    learned = calibration.learn(victim, (Rate(), detector), inputs.numpy())
    whole = detector.calibrate(query(inputs), TinyVictim().predict(inputs))

    assert victim.batches == [256, 256, 30]
    assert learned.keys() == {"foreign"}
    for field, array in whole.items():
        assert np.allclose(learned["foreign"][field], array, atol=1e-5)


def test_a_victim_that_shows_nothing_can_be_learned_from() -> None:
    class Bare(TinyVictim):
        def predict(self, inputs: torch.Tensor) -> Prediction:
            return replace(super().predict(inputs), logits=None, features=None)

    learned = calibration.learn(Bare(), (Foreign(),), rows(300).numpy())

    assert {field.partition(".")[0] for field in learned["foreign"]} == {"residual"}
