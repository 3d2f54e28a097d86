"""Treatments are settings with a name."""

import pytest
from pydantic import TypeAdapter, ValidationError

from mantlet.registry import type_name
from redteam.treatments import BUILTIN, AnyTreatment, known


def test_every_treatment_is_found_by_its_type_and_is_frozen() -> None:
    assert set(known()) == {type_name(treatment) for treatment in BUILTIN}
    for treatment in BUILTIN:
        assert treatment.model_config["frozen"]
        assert treatment.model_config["extra"] == "forbid"


def test_settings_choose_a_treatment_by_type() -> None:
    adapter: TypeAdapter[AnyTreatment] = TypeAdapter(AnyTreatment)

    assert adapter.validate_python({"type": "confident", "floor": 0.9}) == known()["confident"](
        type="confident", floor=0.9
    )
    with pytest.raises(ValidationError, match="'confidant'"):
        adapter.validate_python({"type": "confidant"})
