"""Files that are whole or absent: atomic writes, readers that say what is wrong, content hashes."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from geomrl.errors import GeomrlError, reason_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SPACE_WORDS = (
    *("No space left", "File too large", "quota exceeded"),
    *("file write failed", "unexpected pos"),  # torch.save, whose writer loses the system's error
)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it onto `path` when the block ends well.

    A crash, a kill or a full disk leaves either the old file or none, never half a file.

    Raises:
        GeomrlError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say what is wrong with the disk where something in the block cannot write `path`.

    Raises:
        GeomrlError: the disk is full or the folder cannot be written.
    """
    try:
        yield
    except PermissionError as error:
        raise GeomrlError(f"{path}: not writable ({error}); choose another --out") from error
    except Exception as error:
        # pyarrow, safetensors and torch wrap the system's error, so its text is looked at too.
        if getattr(error, "errno", None) in _NO_SPACE or any(
            w in str(error) for w in _NO_SPACE_WORDS
        ):
            raise GeomrlError(_no_space_message(path)) from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes of this machine were writing in a folder.

    What a living process writes stays, and so does what another machine may be writing. Names without
    a machine are an older geomrl's.
    """
    ours = (f".{socket.gethostname()}", ".parquet", ".safetensors", ".json", ".csv")
    for path in folder.glob(".*.tmp"):
        stem, _, pid = path.name.removesuffix(".tmp").rpartition(".")
        if stem.endswith(ours) and pid.isdigit() and not _alive(int(pid)):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


def _no_space_message(path: Path) -> str:
    folder = next((p for p in path.parents if p.exists()), Path())
    free = shutil.disk_usage(folder).free / 1e9
    return (
        f"{path}: the disk is full ({free:.2f} GB free) or a quota is reached; everything finished "
        "so far is kept. Free some space and run the same command again: it goes on from there"
    )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        GeomrlError: the file is missing or torn.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise GeomrlError(f"{path}: no such file; was this folder made by geomrl?") from error
    except ValueError as error:
        raise GeomrlError(f"{path}: not valid JSON ({error}); delete it and run again") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("FILE, line N", object) for every line that is not blank.

    Raises:
        GeomrlError: the file is missing, or a line is not a JSON object.
    """
    path = Path(path)
    if not path.exists():
        raise GeomrlError(f"{path}: no such file; check the path")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise GeomrlError(
                    f"{place}: not valid JSON ({error}); the file was probably cut off while being "
                    "written: mend or delete that line"
                ) from error
            if not isinstance(row, dict):
                raise GeomrlError(f"{place}: not a JSON object; write one object a line")
            yield place, row


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_parquet(path: Path, frame: pd.DataFrame, schema: pa.Schema | None = None) -> None:
    """Write a table as zstd parquet, atomically; `schema` fixes columns and types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if schema is not None:
        frame = frame.reindex(columns=schema.names)
        # pandas makes an empty column float, which pyarrow does not turn into lists.
        empty = [name for name in frame if frame[name].isna().all()]
        frame = frame.astype(dict.fromkeys(empty, object))
        frame = frame.assign(**{str(name): None for name in empty})
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_csv(path: Path, frame: pd.DataFrame, digits: int | None = None) -> None:
    """Write a table as CSV, atomically; with `digits`, numbers have so many significant ones."""
    with atomic_path(path) as temporary:
        form = None if digits is None else f"%.{digits}g"
        frame.to_csv(temporary, index=False, float_format=form, lineterminator="\n")


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet table.

    Raises:
        GeomrlError: the file is missing, empty or torn (its footer does not parse).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.exists():
        raise GeomrlError(f"{path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise GeomrlError(f"{path}: the file is empty (0 bytes); delete it and write it again")
    try:
        return pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise GeomrlError(
            f"{path}: not a whole parquet file ({str(error).splitlines()[0]}); it was probably cut "
            "off while being written or copied: delete it and write it again"
        ) from error


def file_hash(path: Path) -> str:
    """Return the blake2b-128 hash of a file's content, in hexadecimal.

    A link into a hub cache names its target by that file's SHA-256: then no byte is read.
    """
    target = Path(path).resolve()
    if len(target.name) == 64 and all(c in "0123456789abcdef" for c in target.name):
        return target.name
    with target.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def text_hash(*parts: str) -> str:
    """Return a 16-character hash of some strings."""
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


def safe_name(text: str) -> str:
    """Return a text in characters fit for a file's name.

    >>> safe_name("fraction:0.5")
    'fraction-0.5'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text)


_USER_CODE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_user_code(text: str) -> bool:
    """Say whether a setting names code in a file of the user's, "FILE.py:NAME".

    >>> is_user_code("my_losses.py:repel"), is_user_code("cosine")
    (True, False)
    """
    return _USER_CODE.fullmatch(text) is not None


def load_user_code(text: str, what: str) -> Any:
    """Return what "FILE.py:NAME" names: a function, a class or a table's row.

    The file is run once a process for each content that it has. Its path is relative to where the
    command is run, as all paths of files are.

    Args:
        text: "FILE.py:NAME".
        what: what it is to be, for messages: "an alignment loss".

    Raises:
        GeomrlError: there is no such file, running it fails, or it has no such name.
    """
    file, name = _user_code(text, what)
    try:
        module = _run_file(str(file.resolve()), _content(file))
    except Exception as error:  # whatever the user's code raises
        raise GeomrlError(
            f"{text}: running {file} fails ({type(error).__name__}: {reason_of(error)}); mend it, or "
            f"name {what} of geomrl's"
        ) from error
    if not hasattr(module, name):
        raise GeomrlError(f"{text}: {file} has no '{name}'; name {what} that it defines")
    return getattr(module, name)


def load_user_function(text: str, what: str, called_with: str) -> Callable[..., Any]:
    """Return the function that "FILE.py:NAME" names.

    Args:
        text: "FILE.py:NAME".
        what: what it is to be, for messages: "an alignment loss".
        called_with: what it is called with, for messages.

    Raises:
        GeomrlError: as `load_user_code`, or it cannot be called.
    """
    found = load_user_code(text, what)
    if not callable(found):
        raise GeomrlError(
            f"{text}: is no function but {type(found).__name__}; name one that is called with"
            f" {called_with}"
        )
    function: Callable[..., Any] = found
    return function


def user_code_hash(text: str) -> str:
    """Return a hash of the file that "FILE.py:NAME" names."""
    return _content(_user_code(text, "code")[0])


def user_code_hashes(texts: Iterable[str]) -> dict[str, str]:
    """Return "FILE.py:NAME" -> hash of the file, of those texts that are one: for the manifest.

    Raises:
        GeomrlError: a file is absent.
    """
    return {text: user_code_hash(text) for text in dict.fromkeys(texts) if is_user_code(text)}


def user_code_name(text: str) -> str:
    """Return NAME of "FILE.py:NAME", and any other text as it is.

    >>> user_code_name("mine/places.py:equals_sign"), user_code_name("marker_end")
    ('equals_sign', 'marker_end')
    """
    found = _USER_CODE.fullmatch(text)
    return found["name"] if found else text


@contextmanager
def user_code_as_it_is() -> Iterator[None]:
    """Keep files of the user's code as they are when first used, while the block runs.

    A training takes hours, and its loss must not change half-way because somebody edits the file.
    """
    token = _kept.set(dict(_kept.get() or {}))
    try:
        yield
    finally:
        _kept.reset(token)


_kept: ContextVar[dict[str, str] | None] = ContextVar("_kept", default=None)
"""Of files of the user's code, by path: the hash of the content in use."""


def _content(file: Path) -> str:
    """Return the hash of a file's content, or of that which `user_code_as_it_is` keeps."""
    kept, path = _kept.get(), str(file.resolve())
    if kept is None:
        return file_hash(file)
    if path not in kept:
        kept[path] = file_hash(file)
    return kept[path]


def _user_code(text: str, what: str) -> tuple[Path, str]:
    found = _USER_CODE.fullmatch(text)
    if found is None or not Path(found["file"]).is_file():
        raise GeomrlError(f"{text}: no such file; name {what} of your own as FILE.py:NAME")
    return Path(found["file"]), found["name"]


@cache
def _run_file(path: str, content: str) -> ModuleType:
    name = f"geomrl_user_{content}_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a file that ends in .py has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module
