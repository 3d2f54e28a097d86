"""Pictures of every sort are opened, or refused by name."""

import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mantlet.errors import ConfigError
from serving import settings, watermarking
from serving.admission import client_id
from serving.encoding import ZIP, pictures
from serving.watermarking import opened, owner_of_gateway, owner_of_key, read_picture, write_picture
from tests.helpers import config, write_config


def saved(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30), **more: object) -> Path:
    drawn = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(drawn).convert(mode).save(path, **more)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("name", "mode", "channels"),
    [
        ("a.png", "RGB", 3),
        ("a.png", "L", 1),
        ("a.png", "P", 3),
        ("a.png", "RGBA", 3),
        ("a.png", "1", 1),
        ("a.jpg", "RGB", 3),
        ("a.JPEG", "L", 1),
    ],
)
def test_pictures_of_8_bits_are_opened(tmp_path: Path, name: str, mode: str, channels: int) -> None:
    image = read_picture(saved(tmp_path / name, mode))

    assert image.shape == (1, channels, 30, 40)
    assert 0 <= image.min() <= image.max() <= 1


def test_a_folder_is_opened_with_all_its_sizes_and_arrays_and_without_other_files(
    tmp_path: Path,
) -> None:
    saved(tmp_path / "a.png")
    saved(tmp_path / "b.jpg", size=(64, 50))
    (tmp_path / "notes.txt").write_text("no picture")
    np.savez(tmp_path / "c.npz", x_train=np.zeros((70, 28, 28), np.uint8))
    batches = list(opened([tmp_path]))

    assert [tuple(b.images.shape) for b in batches] == [
        (1, 3, 30, 40),
        (1, 3, 50, 64),
        (64, 1, 28, 28),
        (6, 1, 28, 28),
    ]
    assert batches[3].names[0].endswith("c.npz[64]")


@pytest.mark.parametrize(
    ("rows", "first", "count"),
    [
        (slice(5, 9), 5, 4),
        (slice(15, None), 15, 5),
        (slice(-3, None), 17, 3),
        (slice(18, 99), 18, 2),
        (slice(None, -1), 0, 19),
    ],
)
def test_rows_of_arrays_keep_their_numbers(
    tmp_path: Path, rows: slice, first: int, count: int
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 28, 28), np.float32))
    np.savez(tmp_path / "x.npz", x=np.zeros((20, 28, 28), np.float32), y=np.zeros(20))
    for file in ("x.npy", "x.npz"):
        [batch] = opened([tmp_path / file], rows=rows)

        assert len(batch.images) == len(batch.names) == count
        assert batch.names[0].endswith(f"{file}[{first}]")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda p: (p / "a.txt").write_text("text"), "no whole PNG or JPEG"),
        (lambda p: (p / "a.txt").write_bytes(b""), "no whole PNG or JPEG"),
        (lambda p: saved(p / "a.txt", size=(1, 1), format="PNG"), "1x1 pixels; a mark needs 16"),
        (lambda p: saved(p / "a.txt", "CMYK", format="JPEG"), "mode CMYK"),
        (lambda p: Image.new("I;16", (30, 30)).save(p / "a.txt", format="PNG"), "mode I;16"),
        (
            lambda p: Image.new("L", (30, 30)).save(
                p / "a.txt",
                format="PNG",
                save_all=True,
                append_images=[Image.new("L", (30, 30), 9)],
            ),
            "animated",
        ),
        (lambda p: (p / "a.txt").write_bytes(saved(p / "b.png").read_bytes()[:500]), "no whole"),
        (lambda p: Image.new("1", (9_000, 9_000)).save(p / "a.txt", format="PNG"), "over 16777216"),
    ],
    ids=["text", "empty", "1x1", "cmyk", "16 bit", "animated", "truncated", "too large"],
)
def test_what_is_no_such_picture_is_refused_by_name(tmp_path: Path, made, said: str) -> None:  # type: ignore[no-untyped-def]
    made(tmp_path)
    with pytest.raises(ConfigError, match=said) as caught:
        list(opened([tmp_path / "a.txt"]))

    assert "a.txt" in str(caught.value)


def test_16_bits_of_colour_are_refused_too(tmp_path: Path) -> None:
    """Pillow would keep eight of them in silence."""
    chunks = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x12\x34" * 60) * 20)
    for kind, content in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
        summed = struct.pack(">I", zlib.crc32(kind + content))
        chunks += [struct.pack(">I", len(content)), kind, content, summed]
    (tmp_path / "deep.png").write_bytes(b"".join(chunks))

    with pytest.raises(ConfigError, match="16 bits a channel"):
        read_picture(tmp_path / "deep.png")


def test_a_zip_as_generate_answers_it_is_opened(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 1, 28, 28)).astype(np.float32)
    (tmp_path / "a.zip").write_bytes(pictures(values, ZIP, {}))
    batches = list(opened([tmp_path / "a.zip"]))

    assert [b.names[0][-14:] for b in batches] == [f"a.zip/{i:04d}.png" for i in range(3)]
    assert np.abs(torch.cat([b.images for b in batches]).numpy() - values).max() <= 1 / 255


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"text"])
def test_what_is_no_zip_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.zip' is no whole zip"):
        list(opened([tmp_path / "a.zip"]))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as folder:
        folder.writestr("notes.txt", "no picture")

    with pytest.raises(ConfigError, match=r"b\.zip' holds no \.png"):
        list(opened([tmp_path / "b.zip"]))


def test_pictures_are_read_one_after_the_other_and_no_more_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("0123456789abcdef")
    owner = owner_of_key(tmp_path / "key", "m")
    alive: list[weakref.ref[torch.Tensor]] = []

    def pictures_without_end() -> Iterator[torch.Tensor]:
        while True:
            picture = torch.rand(1, 1, 40, 40)
            alive.append(weakref.ref(picture))
            assert sum(one() is not None for one in alive) <= 3
            yield picture

    monkeypatch.setattr(watermarking, "MOST", 10)
    with pytest.raises(ConfigError, match="over 10 pictures"):
        owner.detect(pictures_without_end(), scales=[0.5, 2])
    with pytest.raises(ConfigError, match=r"at scale 0\.1 a picture had 5000x5000 pixels"):
        owner.detect([torch.rand(1, 1, 500, 500)], scales=[0.1])

    assert len(alive) == 11


def test_folders_and_arrays_without_pictures_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 5, 28, 28), np.float32))
    (tmp_path / "empty").mkdir()

    with pytest.raises(ConfigError, match="5 channels"):
        list(opened([tmp_path / "x.npy"]))
    with pytest.raises(ConfigError, match=r"holds no \.png"):
        list(opened([tmp_path / "empty"]))
    with pytest.raises(ConfigError, match="no such file or folder"):
        list(opened([tmp_path / "nowhere"]))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    image = (torch.rand(3, 20, 24) * 255).round() / 255
    write_picture(image, tmp_path / "new" / "a.png")

    assert torch.allclose(read_picture(tmp_path / "new" / "a.png")[0], image, atol=1e-6)


def test_a_key_is_a_file_of_16_characters_or_more(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n")
    (tmp_path / "short").write_text("key")

    assert owner_of_key(tmp_path / "key", "m").secret == b"0123456789abcdef"
    assert owner_of_key(tmp_path / "key", "m").clients() == []
    with pytest.raises(ConfigError, match="3 characters"):
        owner_of_key(tmp_path / "short", "")
    with pytest.raises(ConfigError, match="No such file"):
        owner_of_key(tmp_path / "none", "")


def test_a_gateway_knows_clients_by_hash_and_a_key_by_name(root: Path, tmp_path: Path) -> None:
    path = write_config(
        tmp_path / "g.yaml", config(root, tmp_path, secret="the secret of the owner")
    )
    owner = owner_of_gateway(settings.load(path, []), "")
    hashed = owner.known_as("ann")
    (tmp_path / "key").write_text("the secret of the owner")

    assert hashed == client_id(b"the secret of the owner", "ann")
    assert owner.known_as(hashed) == hashed
    assert owner_of_key(tmp_path / "key", "m").known_as("ann") == "ann"
    assert owner.model == "mnist"
