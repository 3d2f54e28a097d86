from collections.abc import Iterator

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mantlet.errors import StoreError
from serving.stores.base import Entry, key_of, pack, remembered, unpack
from serving.stores.memory import MemoryStore


class Stammering(MemoryStore):
    """A store whose scan tells of every key twice, as that of Redis may while clients come."""

    def scan(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        for _ in range(2):
            yield from super().scan(prefix)


KINDS = ("float64", "float32", "int64", "int32", "uint8", "bool")


@given(
    st.dictionaries(
        st.text("abc/._-", min_size=1, max_size=9),
        st.dictionaries(
            st.text("abc._-", min_size=1, max_size=9),
            st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 3), max_size=3)),
            min_size=1,
            max_size=3,
        ),
        max_size=3,
    )
)
def test_a_memory_comes_back_as_it_was(
    drawn: dict[str, dict[str, tuple[str, list[int]]]],
) -> None:
    memory = {
        plugin: {field: np.ones(shape, dtype=kind) for field, (kind, shape) in fields.items()}
        for plugin, fields in drawn.items()
    }
    returned = unpack(pack(memory))

    assert returned.keys() == memory.keys()
    for plugin, state in memory.items():
        assert returned[plugin].keys() == state.keys()
        for field, array in state.items():
            assert returned[plugin][field].dtype == array.dtype
            assert returned[plugin][field].shape == array.shape
            assert np.array_equal(returned[plugin][field], array)


def test_minus_infinity_and_a_transposed_array_come_back() -> None:
    array = np.array([[-np.inf, 1.0, 2.0], [3.0, 4.0, 5.0]]).T

    assert np.array_equal(unpack(pack({"d": {"a": array}}))["d"]["a"], array)


@pytest.mark.parametrize("value", [np.array([{}]), np.array(["text"]), {"a": 1}])
def test_only_numbers_can_be_remembered(value: np.ndarray) -> None:
    with pytest.raises(StoreError, match="memory of foreign cannot be stored"):
        pack({"foreign": {"field": value}})


def test_a_packed_memory_is_plain_msgpack() -> None:
    counts = np.arange(3)

    assert msgpack.unpackb(pack({"rate": {"used": counts}})) == {
        "rate": {"used": [counts.dtype.str, [3], counts.tobytes()]}
    }


@pytest.mark.parametrize("damage", [b"", b"hello", b"\xff" * 40])
def test_damaged_bytes_are_refused(damage: bytes) -> None:
    with pytest.raises(StoreError, match="is damaged"):
        unpack(damage)


def test_a_cut_memory_is_refused() -> None:
    with pytest.raises(StoreError, match="is damaged"):
        unpack(pack({"rate": {"used": np.arange(30)}})[:-5])


def test_a_client_that_a_scan_tells_of_twice_is_told_of_once() -> None:
    store = Stammering(lambda: 0.0, 60.0)
    memory = {"d": {"a": np.ones(1)}}
    store.swap_many({key_of("m", client): Entry(0, memory) for client in ("ann", "bob")}, 0.0)

    assert sorted(client for client, _ in remembered(store, "m")) == ["ann", "bob"]
