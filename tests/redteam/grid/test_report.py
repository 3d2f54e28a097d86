"""The page: complete, by itself, and with what the numbers do not say."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from mantlet.errors import ConfigError
from redteam.grid import report, summary
from redteam.grid.summary import LIMITS
from tests.redteam.grid.test_summary import record

RECORDS = [
    record(seed=seed, defense=defense, attack=attack, attacker_data=data, budget=budget,
           agreement=agreement - 0.01 * seed, adaptive=adaptive, rows_until_denied=denied)
    for budget in (1000, 10_000)
    for seed in (0, 1)
    for defense, attack, data, agreement, adaptive, denied in (
        ("none", "foreign soft", "foreign", 0.93, False, None),
        ("default", "foreign soft", "foreign", 0.41, False, 96),
        ("default", "16 accounts", "foreign", 0.52, True, 640),
        ("default", "own soft", "own", 0.97, False, None),
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("report")
    (folder / "results.json").write_text(json.dumps(RECORDS))
    return report.write(folder / "results.json", folder / "out")


def page(written: list[Path]) -> str:
    return written[0].read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_elsewhere(written: list[Path]) -> None:
    links = re.findall(
        r"""(?:src|href|url|action|import)\s*[=(]?\s*["']?([^"'\s>)]+)""", page(written)
    )

    assert [link for link in links if link.startswith(("http", "//", "/", "."))] == []
    assert page(written).count("data:image/png;base64,") == len(written) - 1 == 4
    assert "<script" not in page(written)


def test_every_record_and_every_limit_is_in_the_page(written: list[Path]) -> None:
    rows = page(written).partition('class="records"')[2].count("<tr>") - 1

    assert rows == len(RECORDS)
    for limit in LIMITS:
        assert limit in unescape(page(written))


def test_the_page_says_first_what_a_thief_gets_with_and_without_a_defense() -> None:
    lines = list(report.headlines(summary.lines(RECORDS)))

    assert len(lines) == 2
    assert "without a defense 92.5 ± 0.7 % (vulnerable, foreign soft)" in lines[0]
    assert "behind the default 51.5 ± 0.7 % (resilient, 16 accounts)" in lines[0]
    assert "pictures of the model's own kind gets 96.5 ± 0.7 % (vulnerable)" in lines[0]


def test_names_in_records_are_text_and_no_markup(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [record(attack="<script>alert(1)</script>")]
    text = report.rendered(bad, summary.lines(bad), {})

    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_pictures_are_files_beside_the_page(written: list[Path]) -> None:
    assert [path.name for path in written] == [
        "report.html",
        "mnist-accuracy.png",
        "mnist-utility.png",
        "mnist-grid.png",
        "mnist-detection.png",
    ]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written[1:])


def test_without_the_extra_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mantlet\[pictures\]'"):
        report.write(tmp_path / "results.json", tmp_path)
