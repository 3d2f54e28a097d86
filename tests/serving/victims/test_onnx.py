"""ONNX victims: what files are taken, how their scores are read, and what is refused with which words."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mantlet import weights
from mantlet.architectures import LeNet
from mantlet.data import Images
from mantlet.errors import ConfigError, MantletError, WeightsError
from serving.victims.onnx import OnnxVictim
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP
from tests.serving.victims.models import MATRIX, expected, linear, model, tensor


def opened(tmp_path: Path, data: bytes, **settings: object) -> OnnxVictim:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    victim = OnnxVictim.model_validate({"weights": path} | settings)
    victim.load(SETUP)
    return victim


def random_rows(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("head", "logits"), [(None, True), ("LogSoftmax", True), ("Softmax", False)]
)
def test_logits_and_probabilities_are_told_apart(
    tmp_path: Path, head: str | None, logits: bool
) -> None:
    victim = opened(tmp_path, linear(head=head))
    rows = random_rows(5)
    answer = victim.predict(torch.from_numpy(rows))

    assert (answer.logits is not None) is logits
    assert answer.values.dtype is torch.float32
    np.testing.assert_allclose(answer.values.numpy(), expected(rows), atol=1e-6)
    assert (victim.classes, victim.output, victim.input.name) == (3, "scores", "x")
    assert victim.input.shape == (4,)


def test_config_may_say_what_the_scores_are(tmp_path: Path) -> None:
    victim = opened(tmp_path, linear(head="Softmax"), scores="logits")
    rows = torch.from_numpy(random_rows(2))
    answer = victim.predict(rows)

    assert answer.logits is not None
    np.testing.assert_allclose(answer.logits.numpy(), expected(rows.numpy()), atol=1e-6)


def test_logits_declared_as_probabilities_are_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'scores' holds no probabilities: .*set scores: logits"):
        opened(tmp_path, linear(), scores="probabilities")


@pytest.mark.parametrize("batch", [1, 4, 300])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_file_with_a_fixed_batch_is_run_in_pieces(tmp_path: Path, batch: int, count: int) -> None:
    rows = random_rows(count)
    victim = opened(tmp_path, linear(batch=batch), features="hidden")
    answer = victim.predict(torch.from_numpy(rows))

    np.testing.assert_allclose(answer.values.numpy(), expected(rows), atol=1e-6)
    assert answer.features is not None
    np.testing.assert_array_equal(answer.features.numpy(), rows)


def test_features_come_from_the_output_named(tmp_path: Path) -> None:
    rows = random_rows(3)
    answer = opened(tmp_path, linear(), features="hidden").predict(torch.from_numpy(rows))

    assert answer.features is not None
    np.testing.assert_array_equal(answer.features.numpy(), rows)


def test_open_axes_need_input_shape(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leaves axes open: \['width'\]; set input_shape"):
        opened(tmp_path, linear(features="width"))

    victim = opened(tmp_path, linear(features="width"), input_shape=[4])

    assert victim.input.shape == (4,)


def test_input_shape_that_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"input_shape \(5,\), but .* takes \(4,\)"):
        opened(tmp_path, linear(), input_shape=[5])


def test_input_shape_that_the_file_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot run \(4, 5\).*does input_shape fit\?"):
        opened(tmp_path, linear(features="width"), input_shape=[5])


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    data = model(
        [helper.make_node("Add", ["a", "b"], ["scores"])],
        [tensor("a", ["rows", 3]), tensor("b", ["rows", 3])],
        [tensor("scores", ["rows", 3])],
    )

    with pytest.raises(ConfigError, match=r"takes a tensor\(float\), b tensor\(float\); one float"):
        opened(tmp_path, data)


def test_input_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    data = model(
        [helper.make_node("Cast", ["x"], ["scores"], to=TensorProto.FLOAT)],
        [tensor("x", ["rows", 3], TensorProto.INT64)],
        [tensor("scores", ["rows", 3])],
    )

    with pytest.raises(ConfigError, match=r"takes x tensor\(int64\); one float32 input is served"):
        opened(tmp_path, data)


def labels_and_scores(kind: int = TensorProto.FLOAT) -> bytes:
    """As converters of other libraries write it: the label first, then the scores."""
    return model(
        [
            helper.make_node("MatMul", ["x", "matrix"], ["raw"]),
            helper.make_node("Cast", ["raw"], ["scores"], to=kind),
            helper.make_node("ArgMax", ["raw"], ["label"], axis=1, keepdims=0),
        ],
        [tensor("x", ["rows", 4])],
        [tensor("label", ["rows"], TensorProto.INT64), tensor("scores", ["rows", 3], kind)],
        [numpy_helper.from_array(MATRIX, "matrix")],
    )


def test_output_of_labels_is_refused_and_the_scores_are_proposed(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'label' .* is tensor\(int64\); .*'output_name': scores"
    ):
        opened(tmp_path, labels_and_scores())

    assert opened(tmp_path, labels_and_scores(), output_name="scores").classes == 3


def test_scores_in_double_precision_are_answered_in_single(tmp_path: Path) -> None:
    rows = random_rows(4)
    victim = opened(tmp_path, labels_and_scores(TensorProto.DOUBLE), output_name="scores")
    answer = victim.predict(torch.from_numpy(rows))

    assert answer.values.dtype is torch.float32
    np.testing.assert_allclose(answer.values.numpy(), expected(rows), atol=1e-6)


def test_unknown_output_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no output 'score'; it has scores, hidden"):
        opened(tmp_path, linear(), output_name="score")


def test_output_that_is_no_row_of_classes_is_refused(tmp_path: Path) -> None:
    data = model(
        [helper.make_node("ReduceMax", ["x"], ["top"], axes=[1], keepdims=1)],
        [tensor("x", ["rows", 4])],
        [tensor("top", ["rows", 1])],
    )

    with pytest.raises(ConfigError, match=r"'top' has shape \(4, 1\) for 4 rows; wanted \(4, cl"):
        opened(tmp_path, data)


def test_file_that_answers_nan_is_refused_at_load(tmp_path: Path) -> None:
    broken = MATRIX.copy()
    broken[0, 0] = np.nan
    data = model(
        [helper.make_node("MatMul", ["x", "matrix"], ["scores"])],
        [tensor("x", ["rows", 4])],
        [tensor("scores", ["rows", 3])],
        [numpy_helper.from_array(broken, "matrix")],
    )

    with pytest.raises(ConfigError, match="values that are not finite; is it damaged"):
        opened(tmp_path, data)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not load"):
        opened(tmp_path, linear()[:100])


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent.onnx': no such file"):
        OnnxVictim(weights=tmp_path / "absent.onnx").load(SETUP)


def test_pickle_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"can run code .* mantlet convert"):
        OnnxVictim(weights=tmp_path / "model.pt").load(SETUP)


def test_normalisation_comes_before_the_model(tmp_path: Path) -> None:
    rows = random_rows(3)
    victim = opened(tmp_path, linear(), mean=[0.5], std=[0.25])
    answer = victim.predict(torch.from_numpy(rows))

    np.testing.assert_allclose(answer.values.numpy(), expected((rows - 0.5) / 0.25), atol=1e-5)


def test_fingerprint_follows_the_bytes_of_the_file(tmp_path: Path) -> None:
    first = opened(tmp_path, linear()).fingerprint

    assert first == opened(tmp_path, linear()).fingerprint
    assert first != opened(tmp_path, linear(head="Softmax")).fingerprint


def outside(folder: Path, name: str, matrix: np.ndarray) -> Path:
    """A file whose matrix is in another file beside it, as exporters write large models."""
    data = model(
        [helper.make_node("MatMul", ["x", "matrix"], ["scores"])],
        [tensor("x", ["rows", 4])],
        [tensor("scores", ["rows", 3])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    folder.mkdir()
    onnx.save_model(
        onnx.load_from_string(data),
        folder / "model.onnx",
        save_as_external_data=True,
        location=name,
        size_threshold=0,
    )
    return folder / "model.onnx"


@pytest.mark.parametrize("name", ["tensors", "tensors-" + "x" * 150])
def test_fingerprint_follows_tensors_that_are_in_other_files(tmp_path: Path, name: str) -> None:
    prints = []
    for number, matrix in enumerate((MATRIX, MATRIX, MATRIX + 1)):
        path = outside(tmp_path / str(number), name, matrix)
        victim = OnnxVictim(weights=path)
        victim.load(SETUP)
        prints.append(victim.fingerprint)

    assert prints[0] == prints[1] != prints[2]
    assert prints[0] != weights.fingerprint(path)


def test_tensors_that_are_missing_are_named(tmp_path: Path) -> None:
    path = outside(tmp_path / "model", "tensors", MATRIX)
    path.with_name("tensors").unlink()

    with pytest.raises(WeightsError, match=r"tensors': no such file"):
        OnnxVictim(weights=path).load(SETUP)


def exported_lenet(path: Path, shipped: Path, batch: str | None) -> None:
    """The shipped network as its owner would export it."""
    network = LeNet().eval()
    weights.load_into(network, shipped, "lenet")
    axes = {"pixels": {0: batch}, "logits": {0: batch}} if batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its end
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 28, 28),),
            str(path),
            dynamo=False,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_axes=axes,
        )


@pytest.mark.parametrize("batch", ["n", None])
def test_exported_network_answers_like_its_weights(
    tmp_path: Path, root: Path, digits: Images, shipped_victim: TorchVictim, batch: str | None
) -> None:
    path = tmp_path / "lenet.onnx"
    exported_lenet(path, root / "configs/models/mnist-ini.safetensors", batch)
    victim = OnnxVictim(weights=path)
    victim.load(SETUP)
    rows = torch.from_numpy(digits.x[:20])
    ours, theirs = victim.predict(rows), shipped_victim.predict(rows)

    assert (victim.input.name, victim.input.shape) == ("pixels", (1, 28, 28))
    torch.testing.assert_close(ours.values, theirs.values, atol=1e-5, rtol=0)
    assert ours.values.argmax(1).tolist() == theirs.values.argmax(1).tolist()


def test_every_refusal_names_the_victim_or_the_file(tmp_path: Path) -> None:
    with pytest.raises(MantletError, match="front"):
        opened(tmp_path, linear(), name="front", output_name="nothing")
