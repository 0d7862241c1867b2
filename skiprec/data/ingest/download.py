"""Downloads over HTTP, resumed after an interruption and checked against a published md5."""

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

_PIECE_BYTES = 1 << 20
_TIMEOUT_S = 60
_ATTEMPTS = 5


def download(url: str, folder: Path, *, progress: Callable[[str], None]) -> Path:
    """The path of the downloaded file in `folder`; its md5 is the one in the file at `url`.md5.

    A file that is already there with this md5 is not fetched again. The bytes that an interrupted
    call has fetched stay in NAME.part, and the next call asks for the rest only.

    Raises:
        ValueError: the server cannot be reached, or the md5 differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / url.rsplit("/", 1)[-1]
    expected = _published_md5(url)
    if target.is_file() and file_md5(target) == expected:
        progress(f"{target} is already there")
        return target
    partial = target.with_name(target.name + ".part")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _fetch_rest(url, partial, progress)
            break
        except (urllib.error.URLError, OSError) as error:
            if isinstance(error, urllib.error.HTTPError) or attempt == _ATTEMPTS:
                raise ValueError(
                    f"{url}: {error}; {_size(partial):,} bytes are kept in {partial}: "
                    "run the same command again to fetch the rest"
                ) from error
            progress(f"{error}; continuing after {_size(partial):,} bytes")
    if (md5 := file_md5(partial)) != expected:
        partial.unlink()
        raise ValueError(
            f"{url}: md5 is {md5}, {url}.md5 says {expected}; the file was removed: run the same "
            "command again to download it once more"
        )
    partial.replace(target)
    return target


def _fetch_rest(url: str, partial: Path, progress: Callable[[str], None]) -> None:
    start = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # no byte is missing; only the md5 has not been checked
            return
        raise
    with response, partial.open("ab" if response.status == 206 else "wb") as sink:
        done = sink.tell()
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        while piece := response.read(_PIECE_BYTES):
            sink.write(piece)
            done += len(piece)
            progress(f"fetched {done:,} of {'?' if total is None else f'{total:,}'} bytes")
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes")


def _published_md5(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}.md5", timeout=_TIMEOUT_S) as response:
            text = response.read(4096).decode(errors="replace")
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(f"{url}.md5: {error}; expected a file with the md5 there") from error
    match = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if match is None:
        raise ValueError(f"{url}.md5: expected 32 hexadecimal digits, found {text[:80]!r}")
    return match[0].lower()


def file_md5(path: Path) -> str:
    """md5 of the bytes of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
