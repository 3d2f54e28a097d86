"""ONNX Runtime is opened with one thread, and says clearly what is wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mantlet.errors import ConfigError, VictimError, WeightsError
from serving.victims import session
from tests.serving.victims.models import counting, linear


def test_one_thread_that_does_not_spin() -> None:
    options = session.open_session(linear()).get_session_options()

    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_file_gives_the_same_answers_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(linear())
    rows = np.random.default_rng(0).random((3, 4), np.float32)
    answers = [
        session.run(session.open_session(model), ["scores"], "x", rows)[0]
        for model in (path, linear())
    ]

    assert answers[0].shape == (3, 3)
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(("rows", "together"), [(3, [3]), (600, [256, 88]), (0, [])])
def test_many_rows_are_run_in_parts(rows: int, together: list[int]) -> None:
    """A session keeps the memory of its largest pass. The model answers how many rows it was given."""
    opened = session.open_session(counting())
    (answers,) = session.run(opened, ["scores"], "x", np.zeros((rows, 4), np.float32))
    found = sorted(set(answers[:, 0].astype(int).tolist()), reverse=True)

    assert answers.shape == (rows, 4)
    assert found == together


def test_damaged_bytes_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(linear()[:-40])

    with pytest.raises(WeightsError, match=r"ONNX model '.*model.onnx' does not load: "):
        session.open_session(path)
    with pytest.raises(WeightsError, match=r"ONNX model \(exported\) does not load"):
        session.open_session(b"no model")


def test_rows_that_do_not_fit_are_an_error_of_the_victim() -> None:
    opened = session.open_session(linear())

    with pytest.raises(VictimError, match=r"ONNX Runtime cannot run \(2, 5\): "):
        session.run(opened, ["scores"], "x", np.zeros((2, 5), np.float32))


def test_without_onnxruntime_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what Python does for a missing module

    assert not session.installed()
    with pytest.raises(ConfigError, match=r"pip install 'mantlet\[onnx\]'"):
        session.open_session(linear())


def test_with_onnxruntime_it_is_found() -> None:
    assert session.installed()
