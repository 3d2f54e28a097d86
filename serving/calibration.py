"""What detectors learned of benign traffic, in one file that is bound to the victim's weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, Detector
from mantlet.types import Prediction, Query, Victim

BATCH = 256


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
    victim: Victim, detectors: tuple[Detector, ...], inputs: np.ndarray
) -> dict[str, Calibration]:
    """Let every detector that needs it learn from benign ``inputs`` (n, *shape)."""
    rows = torch.from_numpy(inputs)
    parts = [victim.predict(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
    prediction = Prediction(
        values=torch.cat([part.values for part in parts]),
        kind=victim.kind,
        logits=_joined([part.logits for part in parts]),
        features=_joined([part.features for part in parts]),
    )
    query = Query(["benign"] * len(rows), rows, 0.0)
    wanting = [d for d in detectors if d.needs_calibration]
    return {d.name: d.calibrate(query, prediction) for d in wanting}


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
