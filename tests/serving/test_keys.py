import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mantlet.errors import ConfigError
from serving.keys import KeyFile, digest_of

NOW = 1_000_000.0


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "deep/keys.json")


def test_a_key_is_found_under_its_client_and_tier(keys: KeyFile) -> None:
    text, key = keys.create("acme", "paid", NOW)
    found = keys.find(text, NOW)

    assert found == key
    assert (key.client, key.tier, key.created, key.revoked) == ("acme", "paid", NOW, False)


def test_a_key_has_256_random_bits_and_no_two_are_alike(keys: KeyFile) -> None:
    texts = [keys.create("acme", "default", NOW)[0] for _ in range(20)]

    assert len(set(texts)) == 20
    assert all(text.startswith("mk_") and len(text) == 3 + 43 for text in texts)
    assert len({key.id for key in keys.all()}) == 20


@pytest.mark.parametrize("name", ["", " ", "x" * 10_240, "two\nlines", "bell\a"])
def test_a_client_needs_a_name_that_fits_a_line(keys: KeyFile, name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"has {len(name)} characters; give 1 to 200, all of them"
    ):
        keys.create(name, "default", NOW)

    assert keys.all() == []


def test_a_name_that_looks_like_a_hash_is_refused(keys: KeyFile) -> None:
    """It would be taken for the hash of another client, and its holder never traced."""
    with pytest.raises(ConfigError, match="looks like the hash"):
        keys.create("0123456789abcdef" * 2, "default", 0.0)
    keys.create("0123456789abcdef" * 2 + "0", "default", 0.0)

    assert len(keys.all()) == 1


def test_a_long_name_in_any_script_is_taken(keys: KeyFile) -> None:
    _, key = keys.create("é界 " * 66, "default", NOW)

    assert keys.all() == [key]


def test_only_the_hash_of_a_key_is_kept(keys: KeyFile) -> None:
    text, _ = keys.create("acme", "default", NOW)
    content = keys.path.read_text()

    assert text not in content
    assert text.removeprefix("mk_") not in content
    assert digest_of(text) in content


def test_only_the_owner_may_read_the_file(keys: KeyFile) -> None:
    keys.create("acme", "default", NOW)

    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_writing_leaves_no_other_file_behind(keys: KeyFile) -> None:
    _, key = keys.create("acme", "default", NOW)
    keys.revoke(key.id)

    assert os.listdir(keys.path.parent) == ["keys.json"]


@pytest.mark.parametrize("wrong", ["", "mk_", "mk_" + "A" * 43, "\udcff", "é"])
def test_an_unknown_key_is_not_found(keys: KeyFile, wrong: str) -> None:
    keys.create("acme", "default", NOW)

    assert keys.find(wrong, NOW) is None


def test_the_hash_of_a_key_is_no_key(keys: KeyFile) -> None:
    text, _ = keys.create("acme", "default", NOW)

    assert keys.find(digest_of(text), NOW) is None


def test_a_running_gateway_sees_new_and_revoked_keys_within_a_second(tmp_path: Path) -> None:
    serving, shell = KeyFile(tmp_path / "keys.json"), KeyFile(tmp_path / "keys.json")
    assert serving.find("mk_none", NOW) is None
    text, key = shell.create("acme", "default", NOW)
    assert serving.find(text, NOW + 1.1) == key
    shell.revoke(key.id)

    assert serving.find(text, NOW + 2.3) is None
    assert shell.all()[0].revoked


def test_a_clock_that_is_set_back_does_not_keep_a_revoked_key(tmp_path: Path) -> None:
    serving, shell = KeyFile(tmp_path / "keys.json"), KeyFile(tmp_path / "keys.json")
    text, key = shell.create("acme", "default", NOW)
    assert serving.find(text, NOW) == key
    shell.revoke(key.id)

    assert serving.find(text, NOW - 86_400) is None


def test_a_file_that_is_gone_leaves_no_key_in_force(keys: KeyFile) -> None:
    text, _ = keys.create("acme", "default", NOW)
    assert keys.find(text, NOW) is not None
    keys.path.unlink()

    assert keys.find(text, NOW + 2) is None
    assert keys.all() == []


def test_revoking_one_key_leaves_the_clients_others(keys: KeyFile) -> None:
    first, gone = keys.create("acme", "default", NOW)
    second, _ = keys.create("acme", "default", NOW)
    revoked = keys.revoke(gone.id)

    assert revoked.revoked
    assert keys.find(first, NOW) is None
    assert keys.find(second, NOW) is not None


def test_an_unknown_id_is_named_with_those_in_force(keys: KeyFile) -> None:
    _, kept = keys.create("acme", "default", NOW)
    _, gone = keys.create("acme", "default", NOW)
    keys.revoke(gone.id)

    with pytest.raises(ConfigError, match=f"key 'ffff' is not in .*; keys in force: {kept.id}$"):
        keys.revoke("ffff")


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"keys": [{}]}', b'{"keys": 3}', b"\xff", b'{"keys": [{"id": "x"}]}'],
)
def test_a_damaged_file_is_named_with_a_remedy(keys: KeyFile, content: bytes) -> None:
    keys.path.parent.mkdir()
    keys.path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"keys file '.*keys.json' cannot be read: .*restore it"):
        keys.all()
    with pytest.raises(ConfigError):
        keys.create("acme", "default", NOW)
    assert keys.path.read_bytes() == content, "and nothing is overwritten"


def test_the_file_is_json_for_other_tools(keys: KeyFile) -> None:
    keys.create("acme", "paid", NOW)
    (entry,) = json.loads(keys.path.read_text())["keys"]

    assert entry.keys() == {"id", "client", "tier", "digest", "created", "revoked", "identity"}


def test_keys_made_at_the_same_moment_are_all_kept(keys: KeyFile) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: keys.create(f"client-{n}", "default", 0.0)[1], range(40)))

    assert sorted(key.id for key in keys.all()) == sorted(key.id for key in made)
