"""Files are written whole or not at all."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from skipfx.errors import ArtifactError


def write_whole(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Writes a file by way of a draft beside it, so that a failure leaves what was there.

    Raises:
        ArtifactError: the file exists and `overwrite` is not set, or its folder cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(draft, "xb") as file:
            file.write(data)
        os.replace(draft, path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuses a file that is there already.

    Raises:
        ArtifactError: it exists and `overwrite` is not set, or it is a folder.
    """
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder")
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path}: exists; pass overwrite=True (--overwrite) to replace it")
