"""API keys: 256 random bits shown once, of which only a SHA-256 is kept."""

import fcntl
import hashlib
import hmac
import json
import math
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mantlet.errors import ConfigError

PREFIX = "mk_"
HASHED = re.compile(r"[0-9a-f]{32}")
"""A client as events, the operator's port and marks name it."""
LONGEST_NAME = 200
"""Characters of a client's name."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key: ``digest`` is the SHA-256 in hex, ``created`` seconds since 1970.

    ``identity`` names who pays for the client; without one the client pays for itself.
    """

    id: str
    client: str
    tier: str
    digest: str
    created: float
    revoked: bool = False
    identity: str = ""


class KeyFile:
    """The keys of a gateway, in a JSON file that only its owner may read.

    ``find`` sees changes of the file within a second, so that a revoked key is refused without a
    restart. A random key cannot be guessed digit by digit, and its digest is looked up, not the key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_digest: dict[str, Key] = {}
        self._read_at = -math.inf
        self._stamp: tuple[int, int] | None = None

    def find(self, key: str, now: float) -> Key | None:
        """The key's entry, or ``None`` when it is unknown or revoked."""
        if abs(now - self._read_at) > 1.0:  # a clock that is set back must not keep a revoked key
            self._refresh(now)
        digest = digest_of(key)
        entry = self._by_digest.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest) or entry.revoked:
            return None
        return entry

    def all(self) -> list[Key]:
        """Every key ever made, revoked ones too, oldest first."""
        if not self.path.exists():
            return []
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
            return [Key(**entry) for entry in raw["keys"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"keys file '{self.path}' cannot be read: {error}; restore it, or move it away and"
                " create the keys anew"
            ) from error

    def create(self, client: str, tier: str, now: float, *, identity: str = "") -> tuple[str, Key]:
        """A new key; the text is returned once and not kept."""
        for what, name in (("client", client), ("identity", identity or client)):
            if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
                raise ConfigError(
                    f"{what} name {name[:40]!a} has {len(name)} characters; give 1 to {LONGEST_NAME},"
                    " all of them printable"
                )
        if HASHED.fullmatch(client):
            raise ConfigError(
                f"client name '{client}' looks like the hash by which events name clients; give another one"
            )
        text = PREFIX + secrets.token_urlsafe(32)
        key = Key(secrets.token_hex(4), client, tier, digest_of(text), now, identity=identity)
        with self._alone():
            self._write([*self.all(), key])
        return text, key

    def revoke(self, key_id: str) -> Key:
        """Refuse a key from now on, by its id."""
        with self._alone():
            keys = self.all()
            for key in keys:
                if key.id == key_id:
                    gone = replace(key, revoked=True)
                    self._write([gone if k.id == key_id else k for k in keys])
                    return gone
        known = ", ".join(k.id for k in keys if not k.revoked) or "none"
        raise ConfigError(f"key '{key_id}' is not in '{self.path}'; keys in force: {known}")

    def set_tier(self, client: str, tier: str) -> bool:
        """Give all keys of a client another tier; whether it has any in force."""
        with self._alone():
            keys = self.all()
            held = [key.client == client and not key.revoked for key in keys]
            if any(held):
                self._write(
                    replace(key, tier=tier) if mine else key
                    for key, mine in zip(keys, held, strict=True)
                )
        return any(held)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time: two commands at once must not lose each other's key."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _refresh(self, now: float) -> None:
        self._read_at = now
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            stamp = (0, 0)
        if stamp != self._stamp:
            self._by_digest = {key.digest: key for key in self.all()}
            self._stamp = stamp

    def _write(self, keys: Iterable[Key]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.path.parent)  # mode 0600
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"keys": [asdict(key) for key in keys]}, file, indent=1)
        os.replace(name, self.path)


def digest_of(key: str) -> str:
    """SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
