"""What every store promises; one conformance suite holds all of them to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgpack
import numpy as np

from mantlet.errors import StoreError
from serving.folding import Memory
from serving.stores.counters import Counters


@dataclass(frozen=True, slots=True)
class Entry:
    """What is stored of one client; ``version`` 0 means: never stored."""

    version: int
    memory: Memory


class Store(Protocol):
    """Memory of clients with compare-and-set, and the counters of rates and budgets.

    Keys are opaque texts. All methods may be called from several threads and raise `StoreError`.
    """

    counters: Counters

    def load_many(self, keys: Sequence[str], at: float) -> dict[str, Entry]:
        """The entry of every key, in one round trip; unknown and expired keys have no memory."""

    def swap_many(self, entries: Mapping[str, Entry], at: float) -> set[str]:
        """Store entries whose version is still current, in one step; return the keys that lost.

        Nothing of the entries is stored when any key lost. What the counters counted before the
        call is stored in the same step.
        """

    def scan(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        """All that is remembered under keys that begin with ``prefix``, a bounded number at a time.

        Nobody waits for a scan. An entry that is swapped meanwhile comes as it was or as it is, and may
        come twice; one that stays is never left out.
        """

    def close(self) -> None:
        """Write what is pending and let go."""


def key_of(model: str, client: str) -> str:
    """Under which key a client's memory at a model is stored."""
    return f"{model}/{client}"


def remembered(store: Store, model: str) -> Iterator[tuple[str, Memory]]:
    """Every client that is remembered at a model, once, with its memory."""
    prefix = key_of(model, "")
    told: set[str] = set()  # a scan may tell of a client twice
    for key, entry in store.scan(prefix):
        if entry.memory and key not in told:
            told.add(key)
            yield key.removeprefix(prefix), entry.memory


def pack(memory: Memory) -> bytes:
    """A memory as bytes: names, types, shapes, numbers; `StoreError` for anything else."""
    try:
        packed: bytes = msgpack.packb(
            {
                plugin: {field: _plain(array) for field, array in state.items()}
                for plugin, state in memory.items()
            }
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"the memory of {', '.join(memory)} cannot be stored ({error}); detectors remember"
            " arrays of numbers only"
        ) from error
    return packed


def _plain(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"it holds {array.dtype}")
    return array.dtype.str, array.shape, array.tobytes()


def unpack(data: bytes) -> Memory:
    """The memory that `pack` wrote; raises `StoreError` when the bytes are damaged."""
    try:
        return {
            plugin: {
                field: np.frombuffer(raw, dtype).reshape(shape)
                for field, (dtype, shape, raw) in state.items()
            }
            for plugin, state in msgpack.unpackb(data).items()
        }
    except (msgpack.UnpackException, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"the stored memory of a client is damaged ({error!r}); restore the store from a copy"
        ) from error
