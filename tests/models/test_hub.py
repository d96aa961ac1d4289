"""Names of models that are no folders here."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from stofm_geo import SToFM
from stofm_geo.models import hub


def no_network(*_: object, **__: object) -> None:
    raise OSError("Temporary failure in name resolution")


def test_a_mistyped_folder_is_not_asked_for(tmp_path, monkeypatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hf_hub_download", None)
    monkeypatch.setattr(socket, "create_connection", None)
    for name in ("models/my-modle", "./my-modle", "/tmp/no/such", "my-modle"):
        with pytest.raises(ValueError, match=f"{Path(name)}: is no folder; name one that save_"):
            SToFM.from_pretrained(name)


def test_without_a_network_it_says_so_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(socket, "create_connection", no_network)
    start = time.time()
    with pytest.raises(ValueError, match=r"nobody/nothing: is no folder here, .* is no network"):
        SToFM.from_pretrained("nobody/nothing", cache_dir=tmp_path)
    assert time.time() - start < 1


def test_a_name_that_is_never_resolved_is_waited_for_a_while(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: time.sleep(30))
    monkeypatch.setattr(hub, "_PATIENCE", 0.05)
    with pytest.raises(ValueError, match="is no network"):
        SToFM.from_pretrained("nobody/nothing", cache_dir=tmp_path)
