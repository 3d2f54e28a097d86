"""What ``mantlet calibrate`` does: run benign rows through the victim, learn, write, report, draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mantlet.errors import CalibrationError, ConfigError
from mantlet.finite import all_finite
from mantlet.noise import row_marks
from mantlet.plugin import Calibration, Detector, EvidenceDetector
from mantlet.types import Task, Victim
from serving import build, calibration
from serving.settings import Model, Settings, chosen_model, require_tier

LEAST = 200
"""Rows under which nothing can be said of honest clients."""
DRAWN = 5000
"""Latents that stand for the benign rows of a generator."""
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Column:
    """One score of a detector: the mean that is tolerated, and those of honest clients drawn from the rows.

    ``quantiles`` are those of `QUANTILES`, ``means`` (clients,) all of them.
    """

    detector: str
    number: int
    tolerated: float
    means: np.ndarray

    @property
    def quantiles(self) -> list[float]:
        """Means below which half, 9 of 10 and 99 of 100 honest clients stay."""
        return [float(np.quantile(self.means, q)) for q in QUANTILES]


@dataclass(frozen=True, slots=True)
class Report:
    """What was written, and what to tell the operator."""

    path: Path
    rows: int
    columns: Sequence[Column]
    notes: Sequence[str]


def calibrate_model(
    settings: Settings,
    name: str,
    inputs: np.ndarray | None,
    *,
    tier: str = "",
    mixed: bool = False,
) -> Report:
    """Write the calibration file of a model, or enrol a ``tier`` in it, and a picture beside it.

    ``inputs`` (n, *shape) are benign rows; of a generator they are drawn from its prior where there are none. Unless ``mixed``, their halves must be alike: each must
    tolerate what the other scores. Raises `CalibrationError` and `ConfigError`.
    """
    name, model = chosen_model(settings, name)
    path = _target(model, name)
    if tier:
        require_tier(settings, tier)
    bare = model.model_copy(update={"calibration": None})
    pipeline = build.load_pipeline(name, bare, settings, to_calibrate=True)
    victim = pipeline.victim
    try:
        inputs = _drawn(victim, name) if inputs is None else inputs
        _check(inputs, victim, name)
        if tier:
            learned = _enrolled(victim, model.detectors, inputs, path, tier)
        else:
            if not mixed:
                _refuse_mixture(victim, model.detectors, inputs)
            learned = calibration.learn(victim, model.detectors, inputs)
        columns = _columns(victim, model.detectors, inputs, learned, tier or "default")
        calibration.write(path, learned, victim.fingerprint)
    finally:
        victim.close()
    notes = [_promise(model.alpha), _draw(path, tier, columns, model.alpha)] if columns else []
    return Report(path, len(inputs), columns, notes)


def _target(model: Model, name: str) -> Path:
    """Where the model's calibration is written."""
    if model.calibration is None:
        raise ConfigError(f"models.{name}.calibration is not set; name the file to write there")
    if not any(detector.needs_calibration for detector in model.detectors):
        raise ConfigError(f"models.{name}.detectors: none of them needs a calibration; add foreign")
    return model.calibration


def _drawn(victim: Victim, name: str) -> np.ndarray:
    """Latents as a generator was trained on them."""
    if victim.task is not Task.GENERATE:
        raise ConfigError(
            f"model '{name}' is no generator; name its benign rows with --benign FILE"
        )
    drawn = np.random.default_rng(0).standard_normal((DRAWN, *victim.input.shape))
    return drawn.astype(np.float32)


def _check(inputs: np.ndarray, victim: Victim, name: str) -> None:
    if not victim.input.takes(inputs.shape[1:]):
        raise CalibrationError(
            f"the benign rows have shape {inputs.shape[1:]}; model '{name}' takes"
            f" {victim.input.shape}"
        )
    if len(inputs) < LEAST:
        raise CalibrationError(
            f"{len(inputs)} benign rows are too few; give at least {LEAST}, better 5,000"
        )
    different = len(np.unique(row_marks(b"", torch.from_numpy(np.ascontiguousarray(inputs)))))
    if different < LEAST:
        raise CalibrationError(
            f"only {different} of the {len(inputs)} benign rows are different; give at least {LEAST},"
            " better 5,000"
        )
    if not all_finite(inputs):
        rows = int((~np.isfinite(inputs.reshape(len(inputs), -1))).any(axis=1).sum())
        raise CalibrationError(f"{rows} of the benign rows hold NaN or infinity; leave them out")


def _enrolled(
    victim: Victim, detectors: Sequence[Detector], inputs: np.ndarray, path: Path, tier: str
) -> dict[str, Calibration]:
    learned, made_for = calibration.read(path)
    if made_for != victim.fingerprint:
        raise CalibrationError(
            f"calibration '{path}' was made for weights {made_for[:12]}, the model has"
            f" {victim.fingerprint[:12]}; calibrate without --tier first"
        )
    if not any(isinstance(d, EvidenceDetector) and d.name in learned for d in detectors):
        raise CalibrationError(
            f"calibration '{path}' has none of the model's detectors; calibrate without --tier first"
        )
    return calibration.enrol(victim, detectors, inputs, learned, tier)


def _refuse_mixture(victim: Victim, detectors: Sequence[Detector], inputs: np.ndarray) -> None:
    """Raise where one half of the rows scores, by what the other taught, more than is tolerated."""
    middle = len(inputs) // 2
    halves = {"first": inputs[:middle], "second": inputs[middle:]}
    if middle < 5 * LEAST:
        return  # of so few rows a half teaches nothing
    for taught, asked in (("first", "second"), ("second", "first")):
        learned = calibration.learn(victim, detectors, halves[taught])
        for column in _columns(victim, detectors, halves[asked], learned, "default"):
            mean = float(column.means.mean())
            if mean > column.tolerated:
                raise CalibrationError(
                    f"mixed traffic: by detector '{column.detector}', score {column.number}, the"
                    f" {asked} half of the rows reaches {mean:.3f} where the {taught} half lets"
                    f" {column.tolerated:.3f} pass; leave out what is not benign, enrol clients of"
                    " another kind with --tier, or take all with --mixed"
                )


def _columns(
    victim: Victim,
    detectors: Sequence[Detector],
    inputs: np.ndarray,
    learned: Mapping[str, Calibration],
    tier: str,
) -> list[Column]:
    columns = []
    tested = [d for d in detectors if isinstance(d, EvidenceDetector) and d.name in learned]
    means = calibration.honest_means(victim, tested, inputs, learned)
    for detector in tested:
        bounds = calibration.taught(detector, learned[detector.name]).tolerated(tier)
        columns += [
            Column(detector.name, number, float(bound), means[detector.name][:, number - 1])
            for number, bound in enumerate(bounds, start=1)
        ]
    return columns


def _promise(alpha: float) -> str:
    return (
        f"alarms: at most one honest client in {round(1 / alpha):,} is ever accused, as long as honest"
        " clients stay below what is tolerated"
    )


def _draw(path: Path, tier: str, columns: Sequence[Column], alpha: float) -> str:
    """Draw how near honest clients come to what is tolerated; returns where, or what is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "picture: none, for want of matplotlib; pip install 'mantlet[pictures]'"
    target = path.with_suffix(f".{tier}.png" if tier else ".png")
    many = max(len(columns), 1)
    figure = Figure(figsize=(7, 1.2 + 1.3 * many), layout="constrained")
    for axes, column in zip(figure.subplots(many, squeeze=False)[:, 0], columns, strict=False):
        axes.hist(column.means, bins=30, color="#4878a8")
        axes.axvline(column.tolerated, color="#c04030", label=f"tolerated {column.tolerated:.4f}")
        for quantile, value in zip(QUANTILES, column.quantiles, strict=True):
            axes.axvline(value, color="grey", linestyle=":", label=f"{quantile:.0%}: {value:.4f}")
        axes.set_ylabel("clients")
        axes.set_title(f"{column.detector}, score {column.number}", fontsize=9, loc="left")
        axes.legend(fontsize=6)
    figure.suptitle(
        f"Mean scores of honest clients; at most one in {round(1 / alpha):,} is ever accused",
        fontsize=10,
    )
    figure.savefig(target)
    return f"picture: {target}"
