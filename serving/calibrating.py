"""What ``mantlet calibrate`` does: run benign rows through the victim, learn, write, report."""

import numpy as np

from mantlet.errors import CalibrationError, ConfigError
from mantlet.registry import did_you_mean
from serving import build, calibration
from serving.settings import Settings


def calibrate_model(settings: Settings, name: str, inputs: np.ndarray) -> list[str]:
    """Write the calibration file of a model; returns what to tell the operator, a line a fact."""
    if not name and len(settings.models) > 1:
        raise ConfigError(
            f"the config has models {', '.join(settings.models)}; name one with --model"
        )
    name = name or next(iter(settings.models))
    if name not in settings.models:
        raise ConfigError(f"model '{name}' is unknown; {did_you_mean(name, settings.models)}")
    model = settings.models[name]
    if model.calibration is None:
        raise ConfigError(f"models.{name}.calibration is not set; name the file to write there")
    if not any(detector.needs_calibration for detector in model.detectors):
        raise ConfigError(f"models.{name}.detectors: none of them needs a calibration; add foreign")
    pipeline = build.load_pipeline(name, model.model_copy(update={"calibration": None}), settings)
    try:
        if inputs.shape[1:] != pipeline.victim.input.shape:
            raise CalibrationError(
                f"the benign rows have shape {inputs.shape[1:]}; model '{name}' takes"
                f" {pipeline.victim.input.shape}"
            )
        learned = calibration.learn(pipeline.victim, model.detectors, inputs)
        calibration.write(model.calibration, learned, pipeline.victim.fingerprint)
    finally:
        pipeline.victim.close()
    lines = [f"calibration: {model.calibration} ({len(inputs)} rows)"]
    for detector, arrays in learned.items():
        lines += [
            f"  {detector}.{field}: {', '.join(f'{number:.4g}' for number in np.ravel(array))}"
            for field, array in sorted(arrays.items())
            if array.ndim == 0 or field.startswith("tolerated")
        ]
    return lines
