"""What detectors learned of benign traffic, in one file that is bound to the victim's weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.special import betaincinv

from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, Detector, EvidenceDetector, Setup
from mantlet.types import Kind, Prediction, Query, Victim

BATCH = 256
CLIENT_ROWS = 500
"""Rows of one honest client, when it is measured what such may reach."""
OF_A_CLASS = 100
"""Scores of one class under which nothing is said of it alone."""
CLIENTS = 100
"""Honest clients that are drawn for the report."""
STRETCHES = 10
"""Parts, in the order in which they were sent, of what a tier enrols with."""


def read(path: Path) -> tuple[dict[str, Calibration], str]:
    """Calibrations by detector name, and the fingerprint of the weights they were made for."""
    if not path.is_file():
        raise CalibrationError(
            f"calibration '{path}': no such file; run: mantlet calibrate CONFIG --benign FILE"
        )
    try:
        with safe_open(path, framework="np") as file:
            made_for = (file.metadata() or {}).get("victim", "")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise CalibrationError(f"calibration '{path}' is damaged: {error}; make it anew") from error
    learned: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        detector, _, field = name.rpartition("/")
        learned.setdefault(detector, {})[field] = array
    return dict(learned), made_for


def write(path: Path, learned: Mapping[str, Calibration], fingerprint: str) -> None:
    """Write what `read` reads."""
    arrays = {
        f"{d}/{f}": np.asarray(a, order="C") for d, c in learned.items() for f, a in c.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"victim": fingerprint, "format": "mantlet-calibration-1"}
    path.write_bytes(save(arrays, about))


@torch.inference_mode()
def learn(
    victim: Victim, detectors: Sequence[Detector], inputs: np.ndarray
) -> dict[str, Calibration]:
    """Let every detector that needs it learn from benign ``inputs`` (n, *shape).

    Two rows of three are for what a detector fits, every third for what honest clients may reach.
    """
    fitted = np.arange(len(inputs)) % 3 != 2
    learned: dict[str, Calibration] = {}
    asked = _predict(victim, inputs[fitted])
    held_out = _predict(victim, inputs[~fitted])
    for detector in detectors:
        if not detector.needs_calibration:
            continue
        own = dict(detector.calibrate(*asked))
        if isinstance(detector, EvidenceDetector):
            own["tolerated"] = _tolerated(taught(detector, own), held_out)
        learned[detector.name] = own
    return learned


@torch.inference_mode()
def enrol(
    victim: Victim,
    detectors: Sequence[Detector],
    inputs: np.ndarray,
    learned: Mapping[str, Calibration],
    tier: str,
) -> dict[str, Calibration]:
    """``learned`` and, from benign ``inputs`` (n, *shape) of one tier in their order, what its clients may reach.

    That is what any honest client may, and what such rows would let them, and what the worst stretch of these
    reaches: traffic that drifts is not as it is in the mean, and a tier never makes a client suspect.
    Scores that the detectors' settings leave out keep the bounds that the tier had.
    """
    asked = _predict(victim, inputs)
    enrolled = dict(learned)
    for detector in detectors:
        own = learned.get(detector.name)
        if own and isinstance(detector, EvidenceDetector):
            loaded = taught(detector, own)
            bounds = [loaded.tolerated("default"), _tolerated(loaded, asked), _worst(loaded, asked)]
            field = f"tolerated.{tier}"
            before = taught(detector, {**own, "tolerated": own.get(field, own["tolerated"])})
            enrolled[detector.name] = {**own, field: before.kept(np.max(bounds, axis=0))}
    return enrolled


@torch.inference_mode()
def honest_means(
    victim: Victim,
    detectors: Sequence[EvidenceDetector],
    inputs: np.ndarray,
    learned: Mapping[str, Calibration],
) -> dict[str, np.ndarray]:
    """By detector, the (clients, G) mean scores of `CLIENTS` honest clients drawn from benign ``inputs``."""
    asked = _predict(victim, inputs)
    rng = np.random.default_rng(0)
    each = min(CLIENT_ROWS, len(inputs))
    crowd = [rng.permutation(len(inputs))[:each] for _ in range(CLIENTS)]
    means = {}
    for detector in detectors:
        loaded = taught(detector, learned[detector.name])
        rows = loaded.score(*asked).numpy().astype(np.float64)
        scores = np.stack([loaded.watch(loaded.initial(), rows[own], 0.0)[1] for own in crowd])
        heard = np.maximum((~np.isnan(scores)).sum(axis=1), 1)
        means[detector.name] = np.nansum(scores, axis=1) / heard
    return means


def taught(detector: EvidenceDetector, learned: Calibration) -> EvidenceDetector:
    """One more detector of these settings, with what was learned."""
    loaded = type(detector).model_validate(detector.model_dump())
    loaded.load(Setup(torch.device("cpu"), b"", learned))
    return loaded


def _predict(victim: Victim, inputs: np.ndarray) -> tuple[Query, Prediction]:
    rows = torch.from_numpy(inputs)
    parts = [victim.predict(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
    prediction = Prediction(
        values=torch.cat([part.values for part in parts]),
        kind=victim.kind,
        logits=_joined([part.logits for part in parts]),
        features=_joined([part.features for part in parts]),
    )
    return Query(["benign"] * len(rows), rows, 0.0), prediction


def _tolerated(loaded: EvidenceDetector, asked: tuple[Query, Prediction]) -> np.ndarray:
    """(G,) mean scores that an honest client may have, in [1e-4, 1].

    ``margin`` times the upper 99 % bound of the mean score of benign rows, and at least that bound for
    the rows of any one class. The rows are asked as honest clients of `CLIENT_ROWS` rows would, and those of
    a class as one client. Few rows make a patient detector and not an accusing one; 1 never lets a score
    count.
    """
    rows = loaded.score(*asked).numpy().astype(np.float64)
    parts = []
    for start in range(0, len(rows), CLIENT_ROWS):
        parts.append(loaded.watch(loaded.initial(), rows[start : start + CLIENT_ROWS], 0.0)[1])
    bounds = [loaded.margin * _upper(np.concatenate(parts))]
    if asked[1].kind is not Kind.PROBABILITIES:  # of pictures there are no classes
        named = np.zeros(len(rows), np.int64)
    else:
        named = asked[1].values.argmax(dim=1).numpy()
    for one in np.unique(named):
        scores = loaded.watch(loaded.initial(), rows[named == one], 0.0)[1]
        heard = (~np.isnan(scores)).sum(axis=0) >= OF_A_CLASS
        bounds.append(np.where(heard, _upper(scores), 0.0))
    tolerated: np.ndarray = np.clip(np.max(bounds, axis=0), 1e-4, 1.0)
    return tolerated


def _worst(loaded: EvidenceDetector, asked: tuple[Query, Prediction]) -> np.ndarray:
    """(G,) mean scores of the worst of up to `STRETCHES` stretches of rows, of `OF_A_CLASS` scores or more.

    The largest of their upper bounds, which hold together in 99 of 100 samples (Bonferroni).
    """
    rows = loaded.score(*asked).numpy().astype(np.float64)
    worst = []
    for scores in loaded.watch(loaded.initial(), rows, 0.0)[1].T:
        heard = scores[~np.isnan(scores)]
        many = min(max(len(heard) // OF_A_CLASS, 1), STRETCHES)
        stretches = np.array_split(heard[:, None], many)
        worst.append(max(_upper(stretch, 0.01 / many)[0] for stretch in stretches))
    return np.array(worst)


def _upper(scores: np.ndarray, risk: float = 0.01) -> np.ndarray:
    """(G,) upper bound of the mean of (n, G) scores (Clopper and Pearson, 1934); NaN abstains.

    It is too low with a chance of ``risk``.
    """
    heard = np.maximum((~np.isnan(scores)).sum(axis=0), 1)
    total = np.nansum(scores, axis=0)
    upper: np.ndarray = betaincinv(total + 1, np.maximum(heard - total, 1e-9), 1 - risk)
    return upper


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
