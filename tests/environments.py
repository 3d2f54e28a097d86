"""Python environments of their own for servers and clients that cannot share ours, made on demand."""

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path


def environment(name: str, *requirements: str) -> Path:
    """The ``bin`` folder of an environment with these requirements.

    Kept under MANTLET_TEST_CACHE, by default ``~/.cache/mantlet-tests``; other requirements or another
    Python make another environment.
    """
    cache = Path(os.environ.get("MANTLET_TEST_CACHE", "~/.cache/mantlet-tests")).expanduser()
    wanted = repr((sys.version_info[:2], sorted(requirements)))
    folder = cache / f"{name}-{sha256(wanted.encode()).hexdigest()[:12]}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True)
        (folder / "complete").touch()
    return folder / "bin"
