"""What thieves do with answers before they learn; ``BUILTIN`` lists it, one file each."""

from typing import Annotated

from pydantic import Field

from mantlet.registry import type_name
from redteam.treatments.augment import Augment
from redteam.treatments.bayes import Bayes
from redteam.treatments.confident import Confident
from redteam.treatments.inverse import Inverse
from redteam.treatments.labels import Labels
from redteam.treatments.sharpen import Sharpen
from redteam.treatments.treatment import Treatment

AnyTreatment = Annotated[
    Augment | Bayes | Confident | Inverse | Labels | Sharpen, Field(discriminator="type")
]
BUILTIN: tuple[type[Treatment], ...] = (Augment, Bayes, Confident, Inverse, Labels, Sharpen)


def known() -> dict[str, type[Treatment]]:
    """Treatments by type."""
    return {type_name(treatment): treatment for treatment in BUILTIN}
