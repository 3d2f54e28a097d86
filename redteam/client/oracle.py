"""All that an attack may see of a victim: rows in, answers out, and every one of them counted."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mantlet.errors import RequestError
from mantlet.types import Query
from serving.folding import Memory
from serving.pipeline import Outcome, Pipeline

BATCH = 256


class Came(NamedTuple):
    """Answers to some rows of a query: (k,) places of the rows in it, and (k, ...) what they were answered."""

    places: Tensor
    answers: Tensor

    @classmethod
    def of(cls, parts: Iterable["Came"]) -> "Came | None":
        """All of them together, in the order of their places; nothing where nothing came."""
        found = [part for part in parts if len(part.places)]
        if not found:
            return None
        places = torch.cat([part.places for part in found])
        order = places.argsort()
        return cls(places[order], torch.cat([part.answers for part in found])[order])


class Refused(Exception):
    """The gateway denies the client, or the budget is spent; an attack ends there.

    ``came`` is what other rows of the same query were answered, where some were.
    """

    def __init__(self, said: str, came: Came | None = None) -> None:
        super().__init__(said)
        self.came = came


class Cut(Exception):
    """A query that ended for ``why``, which is no refusal, when some of its rows were answered: ``came``."""

    def __init__(self, why: BaseException, came: Came) -> None:
        super().__init__(str(why) or "interrupted")
        self.why, self.came = why, came


class Withheld(Exception):
    """An explanation is refused, or there are none; the client may go on asking for predictions."""


class Oracle(Protocol):
    """Answers rows: ``query`` maps (B, *shape) to what is released, (B, C) probabilities or (B,) labels.

    ``rows`` counts every row that was sent, ``floats`` every number that came back. Raises `Refused`
    once the client is denied; one that sends several requests for a query may raise `Cut`.
    """

    @property
    def rows(self) -> int: ...
    @property
    def floats(self) -> int: ...
    def query(self, inputs: Tensor) -> Tensor: ...


class Explained(NamedTuple):
    """What one call for explanations brings: (B, C) or (B,) answers as of ``query``, (B, *shape) maps."""

    answers: Tensor
    maps: Tensor


@runtime_checkable
class Explaining(Oracle, Protocol):
    """An oracle that explains its answers as well.

    ``explain`` takes (B, *shape) inputs and the (B,) class to explain of each, None for the top class of
    each. A call is a row of each input, as a prediction is, and brings the prediction with it; its maps
    count as floats. Raises `Withheld` where explanations are refused and `Refused` where the client is.
    """

    def explain(self, inputs: Tensor, classes: Tensor | None = None) -> Explained: ...


class InProcess:
    """One client of a pipeline, whose memory it carries from batch to batch as a store would.

    ``clock`` gives the seconds of each batch. With ``recording``, ``sent`` keeps every batch of rows.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        client: str = "thief",
        clock: Callable[[], float] = lambda: 0.0,
        recording: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._client = client
        self._clock = clock
        self._recording = recording
        self._memories: Mapping[str, Memory] = {}
        self._rows = self._floats = 0
        self.sent: list[Tensor] = []

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def floats(self) -> int:
        return self._floats

    def query(self, inputs: Tensor) -> Tensor:
        return torch.cat([self._ask(part) for part in torch.split(inputs, BATCH)])

    def _ask(self, inputs: Tensor) -> Tensor:
        query = Query([self._client] * len(inputs), inputs, self._clock())
        return self._counted(inputs, self._pipeline.run(query, self._memories))

    def _counted(self, inputs: Tensor, outcome: Outcome) -> Tensor:
        """The answers of an outcome, which is remembered."""
        self._memories = outcome.decision.memories
        self._rows += len(inputs)
        if self._recording:
            self.sent.append(inputs.clone())
        released = outcome.rows(0, len(inputs))
        if released is None:
            raise Refused(f"client '{self._client}' is denied after {self._rows} rows")
        self._floats += released.values.numel()
        return released.values

    def explain(self, inputs: Tensor, classes: Tensor | None = None) -> Explained:
        """By the first method of the model, in requests as large as it takes."""
        explaining = self._pipeline.explaining
        if explaining is None:
            raise Withheld("this model explains nothing")
        size = explaining.settings.max_rows_per_request
        told = [
            self._explain(inputs[rows], None if classes is None else classes[rows].tolist())
            for rows in torch.split(torch.arange(len(inputs)), size)
        ]
        answers, maps = zip(*told, strict=True)
        return Explained(torch.cat(answers), torch.cat(maps))

    def _explain(self, inputs: Tensor, classes: list[int] | None) -> Explained:
        assert self._pipeline.explaining is not None  # or nothing is asked
        try:
            why = self._pipeline.explaining.ask(len(inputs), classes=classes)
        except RequestError as refusal:
            raise Withheld(str(refusal)) from refusal
        query = Query([self._client] * len(inputs), inputs, self._clock())
        outcome = self._pipeline.explain(query, why, self._memories)
        answers = self._counted(inputs, outcome)
        maps = outcome.maps(0, len(inputs))
        if maps is None:
            raise Withheld("the policy gives this client no explanations")
        self._floats += maps.values.numel()
        return Explained(answers, maps.values)


class Wrapper:
    """What stands around another oracle: its counts are that one's."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle

    @property
    def rows(self) -> int:
        return self._oracle.rows

    @property
    def floats(self) -> int:
        return self._oracle.floats

    def explain(self, inputs: Tensor, classes: Tensor | None = None) -> Explained:
        """As the oracle within explains, without any of what is done to queries."""
        if not isinstance(self._oracle, Explaining):
            raise Withheld("this oracle explains nothing")
        return self._oracle.explain(inputs, classes)


class Capped(Wrapper):
    """An oracle that refuses what goes beyond ``budget`` rows, and sends nothing of it.

    It stands under the wrappers that send more rows than they are asked (`redteam.client.averaging`,
    `redteam.client.mixing`), for whom an attack cannot reckon.
    """

    def __init__(self, oracle: Oracle, budget: int) -> None:
        super().__init__(oracle)
        self._budget = budget

    def query(self, inputs: Tensor) -> Tensor:
        self._require(len(inputs))
        return self._oracle.query(inputs)

    def explain(self, inputs: Tensor, classes: Tensor | None = None) -> Explained:
        self._require(len(inputs))
        return super().explain(inputs, classes)

    def _require(self, rows: int) -> None:
        if self.rows + rows > self._budget:
            raise Refused("budget spent")
