"""Small ONNX files, made with the ``onnx`` package."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
Axes = Sequence[int | str | None]
MATRIX = np.array(
    [[2.0, 0.0, -1.0], [0.0, 3.0, 1.0], [-1.0, 1.0, 2.0], [0.5, -2.0, 1.0]], np.float32
)  # (4, 3): four features, three classes


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> bytes:
    """A checked ONNX file, as bytes."""
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(constants))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data


def tensor(name: str, axes: Axes, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(axes))


def linear(
    *, head: str | None = None, batch: int | str | None = "rows", features: int | str = 4
) -> bytes:
    """``scores = head(x @ MATRIX)`` of (batch, features) rows; ``hidden`` (batch, 4) is ``relu(x)``.

    ``head`` is an operator such as ``Softmax`` or ``LogSoftmax``; without one the scores are logits.
    """
    nodes = [
        helper.make_node("Relu", ["x"], ["hidden"]),
        helper.make_node("MatMul", ["x", "matrix"], ["logits" if head else "scores"]),
    ]
    if head:
        nodes.append(helper.make_node(head, ["logits"], ["scores"], axis=1))
    return model(
        nodes,
        [tensor("x", [batch, features])],
        [tensor("scores", [batch, 3]), tensor("hidden", [batch, features])],
        [numpy_helper.from_array(MATRIX, "matrix")],
    )


def counting() -> bytes:
    """``scores`` (rows, 4) of (rows, 4) zeros: the number of the rows that are run together."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
        helper.make_node("Cast", ["shape"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "count"], ["scores"]),
    ]
    return model(nodes, [tensor("x", ["rows", 4])], [tensor("scores", ["rows", 4])])


def expected(rows: np.ndarray) -> np.ndarray:
    """(n, 3) probabilities of (n, 4) rows, by numpy."""
    logits = rows.astype(np.float64) @ MATRIX
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
