"""Pictures of the detection bench can be drawn from records like those it writes."""

from pathlib import Path

import pytest
from PIL import Image

from docs import detection, pictures
from docs.detection import Record

ABOUT = {"seed": 0, "alpha": 1e-4, "streams": 20, "ever_alarm_upper": 1.0}
NEVER = {"detected": 0, "rows_to_alarm_median": None, "rows_to_alarm_p90": None}
SOON = {"detected": 20, "rows_to_alarm_median": 8.0, "rows_to_alarm_p90": None}


def measured(part: str = "") -> list[Record]:
    attacks = [
        ("knockoff notmnist", SOON),
        ("jbda, after honest rows", SOON),
        ("in-distribution thief", NEVER),
    ]
    records: list[Record] = []
    for victim in ("mnist", "fashion"):
        whose = ABOUT | {"victim": victim}
        records += [whose | {"attack": name, "detector": "all"} | found for name, found in attacks]
        for detector, found in (("all", NEVER), ("prada-0.96", SOON)):
            honest = {"attack": "none", "condition": "natural", "detector": detector}
            records.append(whose | honest | found)
    if not part:
        return records
    return [{**r, "rows": [1, 10, 100], "suspicion": [[0.0, 0.4, 1.0]]} for r in records]


def test_every_picture_is_drawn_and_shows_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "records", measured)
    monkeypatch.setattr(pictures, "records", measured)
    pictures.draw(tmp_path)
    drawn = {path.stem: Image.open(path).convert("L") for path in tmp_path.iterdir()}

    assert drawn.keys() == pictures.PICTURES.keys()
    assert all(picture.getextrema() != (255, 255) for picture in drawn.values())
    assert all(picture.width > 500 for picture in drawn.values())


def test_who_alarms_is_named_where_not_everybody_saw_every_condition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PRADA does not see clients that have enrolled, who come last."""
    enrolled = [
        r | {"condition": "natural, enrolled"}
        for r in measured()
        if r.get("condition") and r["detector"] == "all"
    ]
    monkeypatch.setattr(pictures, "records", lambda: [*measured(), *enrolled])
    (legend,) = pictures.false_alarms().legends
    named = [text.get_text().split()[0] for text in legend.get_texts()]

    assert named == ["PRADA", "Mantlet"]
