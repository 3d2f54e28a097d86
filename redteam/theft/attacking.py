"""One theft from a running gateway: what is sent, what is kept when it stops, what is told of the clone."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
import torch
from torch import Tensor, nn

from mantlet import weights
from mantlet.data import Images
from mantlet.errors import MantletError
from redteam import measures
from redteam.attacks.attack import Attack, Loot, Progress
from redteam.attacks.gan import GanTheft
from redteam.attacks.megex import Megex
from redteam.attacks.translation import I2i, PictureMeans
from redteam.client.accounts import Rotate, Turns
from redteam.client.averaging import Averaging
from redteam.client.mixing import Mixing
from redteam.client.oracle import Capped, Cut, Oracle, Refused, Wrapper
from redteam.client.over_http import OverHttp
from redteam.client.tape import Tape
from redteam.learning import Means

TAPE, REPORT, CLONE = "tape", "attack.json", "clone.safetensors"
"""What an output folder holds."""
Protocol = Literal["v2", "v2-json", "v1"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the model is, and how its thief comes to it: a key an account, none for an open gateway."""

    url: str
    model: str
    keys: Sequence[str] = ()
    protocol: Protocol = "v2"
    batch: int = 32
    concurrency: int = 1
    patience_s: float = 60.0
    split: bool = True

    @property
    def credentials(self) -> Sequence[str | None]:
        """Of its accounts; an open gateway has one without a key."""
        return self.keys or (None,)

    @property
    def at_once(self) -> int:
        """Rows that an account sends before it waits for answers."""
        return self.batch * self.concurrency

    def account(self, key: str | None) -> OverHttp:
        """One account, which has asked nothing yet."""
        return OverHttp(
            self.url,
            self.model,
            key=key,
            protocol=self.protocol,
            batch=self.batch,
            concurrency=self.concurrency,
            patience_s=self.patience_s,
        )


@dataclass(frozen=True, slots=True)
class Thief:
    """An attack, its rows and its tricks: ``times`` jittered repeats of a row, a ``share`` of ``cover``."""

    attack: Attack | I2i | GanTheft
    means: Means | PictureMeans
    budget: int
    seed: int = 0
    times: int = 1
    jitter: float = 0.0
    cover: Tensor | None = None
    share: float = 0.5

    def header(self, target: Target) -> dict[str, Any]:
        """All that the queries depend on."""
        return {
            "attack": self.sized(target).model_dump(mode="json"),
            "target": target.url,
            "model": target.model,
            "budget": self.budget,
            "seed": self.seed,
            "surrogate": _hash_of(self.means.pool),
            "clone": {self.means.architecture: dict(self.means.settings)},
            "classes": self.means.classes if isinstance(self.means, Means) else None,
            "average": [self.times, self.jitter],
            "cover": [_hash_of(self.cover), self.share] if self.cover is not None else None,
            "torch": torch.__version__,
        }

    def tricks(self, oracle: Oracle, generator: torch.Generator) -> Oracle:
        """The oracle as the attack sees it, under a budget that counts every row which is sent."""
        oracle = Capped(oracle, self.budget)
        if self.cover is not None:
            oracle = Mixing(oracle, self.cover, share=self.share, generator=generator)
        if self.times > 1 or self.jitter:
            oracle = Averaging(oracle, times=self.times, jitter=self.jitter, generator=generator)
        return oracle

    def asking(self, account: OverHttp) -> Oracle:
        """An account, as the rows of this attack are put to it."""
        return account

    def steal(
        self, oracle: Oracle, target: Target, generator: torch.Generator, progress: Progress
    ) -> Any:
        """What the attack brings home, from an oracle that its tricks stand around."""
        attack: Any = self.sized(target)  # with means of its own kind
        return attack.run(
            oracle, self.means, budget=self.budget, generator=generator, progress=progress
        )

    def sized(self, target: Target) -> Attack | I2i | GanTheft:
        """The attack with requests that go out at once, repeats and cover among them.

        All that was answered when one is refused is on the tape, and the clone learns from it.
        """
        share = self.share if self.cover is not None else 0.0
        # explanations go out one request after another, and one that is withheld takes the query with it
        at_once = target.batch if isinstance(self.attack, Megex) else target.at_once
        room = max(1, int(at_once * (1 - share) / self.times))
        return self.attack.model_copy(update={"request": min(self.attack.request, room)})


class _Stoppable(Wrapper):
    """Takes an interrupt for the end of the answers, so that a clone is made of those that came.

    Where anything else cuts a query, that is raised: what came is on the tape by then.
    """

    def query(self, inputs: Tensor) -> Tensor:
        try:
            return self._oracle.query(inputs)
        except KeyboardInterrupt:
            raise Refused("interrupted") from None
        except Cut as cut:
            if isinstance(cut.why, KeyboardInterrupt):
                raise Refused("interrupted", cut.came) from None
            raise cut.why from cut


def run(
    target: Target,
    thief: Thief,
    judged: Images,
    out: Path,
    *,
    ask_with: str | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Steal, judge the clone on ``judged``, and write both into ``out``; returns what was measured.

    Run again with the same arguments it goes on from what ``out`` holds. ``ask_with`` is a key with which
    the target is asked about the judged rows, empty for none: these rows are told apart from those of the
    attack. A target that fails midway raises `TargetError`, one that answers what the attack cannot learn
    from `ConfigError`, both after what was sent is written down.
    """

    def judge(loot: Loot) -> dict[str, Any]:
        return _judged(loot, target, thief, judged, ask_with, out)

    measured = ("clone_accuracy", "agreement", "verdict")
    return stolen(target, thief, out, judge, measured=measured, progress=progress)


def stolen(
    target: Target,
    thief: Thief,
    out: Path,
    judge: Callable[[Any], dict[str, Any]],
    *,
    measured: Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    """Steal, let ``judge`` tell of what the attack brings home, among others what is ``measured``; as `run` else."""
    generator = torch.Generator().manual_seed(thief.seed)
    with ExitStack() as stack:
        accounts = [stack.enter_context(target.account(key)) for key in target.credentials]
        whole = (Turns if target.split else Rotate)([thief.asking(one) for one in accounts])
        tape = stack.enter_context(Tape(whole, out / TAPE, thief.header(target)))
        told = _told(target, thief, measured) | {
            "accounts": len(accounts),
            "rows_taped": tape.taped,
        }
        loot, failure = None, None
        try:
            oracle = thief.tricks(_Stoppable(tape), generator)
            loot = thief.steal(oracle, target, generator, progress)
        except (MantletError, KeyboardInterrupt) as error:
            failure = error
            told["ended"] = str(error) or "interrupted"
        told |= {
            "rows": tape.rows,
            "floats": tape.floats,
            "accounts_refused": len(accounts) - whole.left,
        }
    if loot is not None:
        told |= judge(loot)
    _write(out / REPORT, told)
    if failure is not None:
        raise failure
    return told


def _told(target: Target, thief: Thief, measured: Sequence[str]) -> dict[str, Any]:
    """A report of which nothing is known yet."""
    return {
        **thief.header(target),
        "ended": None,
        "rows": 0,
        "floats": 0,
        "rows_learned": 0,
        **dict.fromkeys(measured),
        "rows_asked_to_judge": 0,
    }


def _judged(
    loot: Loot, target: Target, thief: Thief, judged: Images, ask_with: str | None, out: Path
) -> dict[str, Any]:
    """What the clone is worth; it is written only if it learned anything."""
    if loot.transfer is None:
        return {"ended": loot.ended}
    told: dict[str, Any] = {"ended": loot.ended, "rows_learned": len(loot.transfer)}
    inputs = torch.from_numpy(judged.x)
    answers = measures.probabilities(loot.clone, inputs)
    told["clone_accuracy"] = round(measures.accuracy(answers, torch.from_numpy(judged.y)), 5)
    if ask_with is not None:
        told |= _agreement(answers, inputs, target, ask_with)
    keep(loot.clone, target, thief, thief.means.settings, out)
    return told


def keep(
    clone: nn.Module, target: Target, thief: Thief, settings: Mapping[str, Any], out: Path
) -> None:
    """Write a clone and what it is."""
    about = {
        "architecture": thief.means.architecture,
        "settings": orjson.dumps(dict(settings)).decode(),
        "attack": thief.attack.type,
        "stolen_from": f"{target.url} {target.model}",
    }
    weights.save(clone, out / CLONE, about)


def _agreement(answers: Tensor, inputs: Tensor, target: Target, key: str) -> dict[str, Any]:
    """Share of rows on which clone and target name the same class; none where the target refuses."""
    with target.account(key or None) as judge:
        try:
            named = judge.query(inputs)
        except (MantletError, Refused, Cut) as error:
            return {"rows_asked_to_judge": judge.rows, "agreement_missing": str(error)}
    labels = named if named.ndim == 1 else named.argmax(dim=1)
    agreement = round(measures.accuracy(answers, labels), 5)
    verdict = measures.verdict(agreement)
    return {"agreement": agreement, "verdict": verdict, "rows_asked_to_judge": judge.rows}


def _hash_of(rows: Tensor) -> str:
    return hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest()[:16]


def _write(path: Path, told: Mapping[str, Any]) -> None:
    path.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
