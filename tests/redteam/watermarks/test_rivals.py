"""Other methods are asked in the form that their package wants."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mantlet.errors import ConfigError
from redteam.watermarks.rivals import METHODS, Rival

STAND_IN = '''
import numpy as np

class Coder:
    """Writes the bits into the lowest bits of the first row's blue."""

    def __init__(self, bits, length):
        self.bits, self.length = bits, length

    def encode(self, bgr):
        marked = bgr.copy()
        marked[0, : self.length, 0] = marked[0, : self.length, 0] // 2 * 2 + np.array(self.bits)
        return marked

    def decode(self, bgr):
        return bgr[0, : self.length, 0] % 2 == 1
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with the interface of the real one, and a method of its own."""
    folder = tmp_path / "imwatermark"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "standIn.py").write_text(STAND_IN)
    for name in [name for name in sys.modules if name.startswith("imwatermark")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("package")
def test_bits_come_back_and_only_the_blue_of_a_row_was_changed() -> None:
    image = (torch.rand(1, 3, 40, 40) * 255).round() / 255
    bits = np.random.default_rng(0).integers(0, 2, 32)
    rival = Rival("standIn", "Coder")
    marked = rival.embed(image, bits)

    assert (rival.decode(marked) == bits).all()
    assert marked.shape == image.shape
    assert torch.allclose(marked[:, :2], image[:, :2], atol=1e-6)
    assert torch.allclose(marked[:, 2, 1:], image[:, 2, 1:], atol=1e-6)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("method", METHODS)
def test_a_package_that_is_not_there_is_named_with_the_remedy(method: str) -> None:
    with pytest.raises(ConfigError, match="make bench-watermark"):
        METHODS[method]()
