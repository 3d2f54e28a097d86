"""Where a mark lies in what was cropped, moved or mirrored."""

import torch

from defenses.watermark.carriers import TILE, MarkKey, tiles
from defenses.watermark.reading import read
from defenses.watermark.registration import Places, allowed, best

KEY = MarkKey(b"a secret of the tests", "digits")


def marked(down: int, across: int, mirrored: bool) -> torch.Tensor:
    """A flat picture of 64x64 with the mark, of which the corner at (down, across) was kept."""
    whole = 0.5 + 0.02 * tiles(KEY.model[None])[0].repeat(4, 4)
    cut = whole[down : down + 64, across : across + 64]
    return (cut.flip(-1) if mirrored else cut)[None, None]


def test_the_corner_of_a_crop_is_found_also_in_a_mirror() -> None:
    for down, across, mirrored in [(0, 0, False), (3, 17, False), (31, 1, True), (40, 35, True)]:
        waves = read([marked(down, across, mirrored)]).whitened
        found = best(waves, KEY.model, allowed([(64, 64)], None))
        place = (int(found.mirrored), int(found.down), int(found.across))

        assert place == (int(mirrored), down % TILE, across % TILE)
        assert found.moved(waves)[0] @ KEY.model > 0.9 * waves[0, int(mirrored)].abs().sum()


def test_untouched_is_the_place_of_what_nobody_moved() -> None:
    waves = read([marked(0, 0, False)]).whitened

    assert torch.equal(
        Places.untouched(1).moved(waves),
        best(waves, KEY.model, allowed([(64, 64)], None)).moved(waves),
    )


def test_a_crop_of_a_known_whole_can_lie_in_few_places() -> None:
    places = allowed([(22, 24), (28, 28)], (28, 28))

    assert places[0].sum() == 7 * 5
    assert places[0, 6, 4]
    assert not places[0, 4, 6]
    assert places[1].sum() == 1
    assert allowed([(22, 24)], None).sum() == TILE**2
