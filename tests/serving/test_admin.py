"""The admin plane: metrics for those with the token."""

from pathlib import Path

import pytest

from tests.serving.inprocess import admin_of, load, service

TOKEN = {"admin": {"port": 0, "token": "a long token"}}


@pytest.mark.parametrize("path", ["/metrics", "/elsewhere"])
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer another", "a long tokeN", b"Bearer \xff\xfe"]
)
def test_without_the_token_nothing_is_told(
    tmp_path: Path, path: str, given: str | bytes | None
) -> None:
    headers = {} if given is None else {"Authorization": given}
    response = admin_of(service(tmp_path, **TOKEN)).get(path, headers=headers)

    assert response.status_code == 401
    assert response.json() == {"error": "the admin token is missing or wrong"}


def test_with_the_token_metrics_are_shown(tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer a long token"}
    response = admin_of(service(tmp_path, **TOKEN)).get("/metrics", headers=headers)

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert "mantlet_ready 0.0" in response.text


def test_where_no_token_is_set_none_is_needed(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)

    assert "mantlet_ready 1.0" in admin_of(ready).get("/metrics").text


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/elsewhere", 404), ("POST", "/metrics", 405)]
)
def test_errors_have_the_one_form(tmp_path: Path, method: str, path: str, status: int) -> None:
    response = admin_of(service(tmp_path)).request(method, path)

    assert response.status_code == status
    assert list(response.json()) == ["error"]
