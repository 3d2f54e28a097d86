import pickle  # noqa: TID251  # an attacker's tool
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mantlet import architectures, weights
from mantlet.errors import WeightsError


class Malicious:
    """Its pickle creates a file when it is opened."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (str(self._witness), "w"))


@pytest.fixture
def network() -> nn.Module:
    return architectures.build("lenet", {"width": 2})


@pytest.mark.parametrize("suffix", [*sorted(weights.UNSAFE_SUFFIXES), ".PT"])
def test_a_pickle_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, suffix: str, network: nn.Module
) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(network.state_dict(), path)
    wanted = f"mantlet convert {path} {tmp_path / 'model.safetensors'}"

    with pytest.raises(WeightsError, match="is a pickle and can run code") as caught:
        weights.load_into(network, path, "lenet")
    assert wanted in str(caught.value)


def test_saved_weights_come_back_with_their_header(tmp_path: Path, network: nn.Module) -> None:
    path = tmp_path / "deep/model.safetensors"
    weights.save(network, path, {"recipe": "lenet"})
    other = architectures.build("lenet", {"width": 2})
    weights.load_into(other, path, "lenet")
    inputs = torch.rand(2, 1, 28, 28)

    assert torch.equal(other(inputs), network(inputs))
    assert weights.metadata(path) == {"recipe": "lenet"}


def test_the_same_weights_and_header_give_the_same_file(tmp_path: Path, network: nn.Module) -> None:
    """Else a calibration, which is bound to the file, would not fit the same weights made again."""
    header = {"recipe": "é", "data": "x", "note": "y", "empty": ""}
    files = {tmp_path / f"{number}.safetensors" for number in range(20)}
    for path in files:
        weights.save(network, path, header)

    assert len({weights.fingerprint(path) for path in files}) == 1
    assert weights.metadata(files.pop()) == header
    assert weights.load_state(files.pop()).keys() == network.state_dict().keys()


def test_a_file_without_a_header_is_written(tmp_path: Path, network: nn.Module) -> None:
    weights.save(network, tmp_path / "m.safetensors", {})
    weights.load_into(network, tmp_path / "m.safetensors", "lenet")

    assert weights.metadata(tmp_path / "m.safetensors") == {}


def test_the_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    """SHA-256 of "abc", from FIPS 180-4, appendix."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")

    assert weights.fingerprint(path).startswith("ba7816bf8f01cfea414140de5dae2223")


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    """Checkpoints of old PyTorch versions lack ``num_batches_tracked``, which inference ignores."""
    network = architectures.build("resnet", {"blocks": 1})
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "m.safetensors")
    other = architectures.build("resnet", {"blocks": 1})
    weights.load_into(other, tmp_path / "m.safetensors", "resnet")

    assert torch.equal(other.linear.weight, network.linear.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "output.bias"}, "missing output.bias"),
        (lambda s: s | {"extra": torch.zeros(1)}, "unknown extra"),
        (
            lambda s: s | {"output.bias": torch.zeros(7)},
            r"output.bias is \(7,\), wanted \(10,\)",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_of_another_architecture_are_named(
    tmp_path: Path,
    network: nn.Module,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    words: str,
) -> None:
    save_file(change(dict(network.state_dict())), tmp_path / "m.safetensors")

    with pytest.raises(WeightsError, match=f"do not fit architecture 'lenet': .*{words}"):
        weights.load_into(network, tmp_path / "m.safetensors", "lenet")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)

    for read in (weights.load_state, weights.metadata):
        with pytest.raises(WeightsError, match="not a safetensors file"):
            read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (weights.load_state, weights.fingerprint, weights.metadata):
        with pytest.raises(WeightsError, match="no such file"):
            read(tmp_path / "none.safetensors")


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_a_checkpoint_is_converted_with_every_tensor(
    tmp_path: Path, network: nn.Module, key: str | None
) -> None:
    state = network.state_dict()
    torch.save(state if key is None else {"epoch": 3, key: state}, tmp_path / "m.pt")
    names = weights.convert(tmp_path / "m.pt", tmp_path / "new/m.safetensors")
    converted = load_file(tmp_path / "new/m.safetensors")

    assert names == sorted(state)
    assert all(torch.equal(converted[name], tensor) for name, tensor in state.items())


def test_tied_tensors_are_converted(tmp_path: Path) -> None:
    shared = torch.rand(3)
    torch.save({"a": shared, "b": shared, "epoch": 4}, tmp_path / "m.pt")

    assert weights.convert(tmp_path / "m.pt", tmp_path / "m.safetensors") == ["a", "b"]


def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    """Both the plain pickle and the archive that torch.save writes; opening them otherwise does run."""
    witness = tmp_path / "witness"
    plain, archive = tmp_path / "plain.pt", tmp_path / "archive.pt"
    plain.write_bytes(pickle.dumps(Malicious(witness)))
    torch.save({"weight": torch.zeros(1), "payload": Malicious(witness)}, archive)

    for checkpoint in (plain, archive):
        with pytest.raises(WeightsError, match="holds more than tensors"):
            weights.convert(checkpoint, tmp_path / "m.safetensors")
    assert not witness.exists()
    assert not (tmp_path / "m.safetensors").exists()
    pickle.loads(plain.read_bytes()).close()  # so the attack does work
    assert witness.exists()


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], torch.zeros(2)])
def test_a_checkpoint_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "m.pt")

    with pytest.raises(WeightsError, match="holds no tensors"):
        weights.convert(tmp_path / "m.pt", tmp_path / "m.safetensors")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"hello")

    with pytest.raises(WeightsError, match="or is damaged"):
        weights.convert(tmp_path / "m.pt", tmp_path / "m.safetensors")


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        weights.convert(tmp_path / "m.pt", tmp_path / "m.safetensors")


def test_no_file_is_overwritten(tmp_path: Path, network: nn.Module) -> None:
    torch.save(network.state_dict(), tmp_path / "m.pt")
    (tmp_path / "m.safetensors").write_text("mine")

    with pytest.raises(WeightsError, match="exists; remove it"):
        weights.convert(tmp_path / "m.pt", tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_text() == "mine"
