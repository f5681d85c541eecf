"""The `.skipfx` artifact: one zip file with a manifest, the compiled code, the weights and the islands.

Kernels are native code: open an artifact only if you trust where it comes from. Hashes find damage, not malice. They
and the versions are checked before any code is loaded.
"""

import hashlib
import io
import json
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, PositiveInt, ValidationError

from skipfx.errors import ArtifactError
from skipfx.files import write_whole
from skipfx.media import Preprocess
from skipfx.options import describe
from skipfx.plan import Island
from skipfx.runtime.backends.levels import host_levels
from skipfx.runtime.engine import Engine, Part, Program, for_gpu
from skipfx.runtime.image import Call, LayerCell
from skipfx.runtime.kernels.table import Precision

FORMAT = 5
WEIGHTS, ROWS, MANIFEST = "weights.f32", "rows.i64", "manifest.json"
STAMP = (1980, 1, 1, 0, 0, 0)  # zip entries carry no time, so that equal programs make equal files


class IslandRecord(BaseModel):
    """An `Island` without its model, which is an entry of its own."""

    name: str
    inputs: tuple[tuple[str, int | str], ...]
    outputs: tuple[str, ...]


class PartRecord(BaseModel):
    """A `Part`."""

    call: Call
    arrays_in: tuple[tuple[str, int | str], ...]
    arrays_out: tuple[tuple[int, ...], ...]
    island: IslandRecord | None
    dtypes: tuple[str, ...] = ()


class Manifest(BaseModel):
    """What an artifact says of itself.

    Attributes:
        format: of the file; a reader takes its own only.
        versions: of skipfx and TVM that made it.
        hashes: SHA-256 of every other entry.
        code: how many of them are code.
    """

    kind: Literal["skipfx artifact"] = "skipfx artifact"
    format: int = FORMAT
    versions: dict[str, str]
    hashes: dict[str, str]
    code: PositiveInt
    level: str
    frames: list[tuple[int, ...]]
    sizes: tuple[int, int, int, int, int]
    per_task: tuple[int, int]
    held_bytes: int
    parts: list[PartRecord]
    outputs: list[tuple[int, int] | str]
    layers: list[LayerCell]
    structure: Any
    preprocess: Preprocess | None
    precision: Precision = "fp32"
    info: dict[str, Any]


def save(program: Program, path: Path, *, overwrite: bool = False) -> None:
    """Writes an artifact: the whole file or nothing.

    Raises:
        ArtifactError: the file exists and `overwrite` is not set, or the folder cannot be written.
    """
    entries = _entries(program)
    manifest = _manifest(program, {name: _hash(data) for name, data in entries.items()})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in [(MANIFEST, manifest), *entries.items()]:
            archive.writestr(zipfile.ZipInfo(name, STAMP), data, zipfile.ZIP_STORED)
    write_whole(path, buffer.getvalue(), overwrite=overwrite)


def read(path: Path) -> Program:
    """Reads and checks an artifact; nothing of it is executed.

    Raises:
        ArtifactError: it is missing, damaged, or of another version.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
    except Exception as error:  # a damaged zip file raises almost anything
        raise ArtifactError(f"{path}: not a skipfx artifact, or damaged: {error}") from error
    manifest = _checked(path, entries)
    return Program(
        code=tuple(entries[name] for name in _code(manifest.code)),
        level=manifest.level,
        w=np.frombuffer(entries[WEIGHTS], "<f4"),
        c=np.frombuffer(entries[ROWS], "<i8"),
        frames=tuple(manifest.frames),
        sizes=manifest.sizes,
        per_task=manifest.per_task,
        held_bytes=manifest.held_bytes,
        parts=tuple(_part(part, entries) for part in manifest.parts),
        outputs=tuple(manifest.outputs),
        layers=tuple(manifest.layers),
        structure=manifest.structure,
        preprocess=manifest.preprocess,
        precision=manifest.precision,
        info=manifest.info,
    )


def load(path: str | Path, threads: int | None = None) -> Engine:
    """An engine from an artifact. Its kernels are native code: only open files that you trust.

    Args:
        path: of the artifact.
        threads: cores that a step may use; None: all that this process may use.

    Raises:
        ArtifactError: it is missing, damaged, of another version, or for another machine.
    """
    program = read(Path(path))
    if not for_gpu(program.level) and program.level not in host_levels():
        raise ArtifactError(
            f"{path}: compiled for {program.level}; this machine runs {', '.join(host_levels())}: compile with "
            f"target='cpu:{host_levels()[-1]}'"
        )
    return Engine(program, threads)


def _entries(program: Program) -> dict[str, bytes]:
    entries = dict(zip(_code(len(program.code)), program.code, strict=True))
    entries |= {WEIGHTS: program.w.astype("<f4").tobytes(), ROWS: program.c.astype("<i8").tobytes()}
    for part in program.parts:
        if part.island is not None:
            entries[_entry(part.island)] = part.island.onnx
    return entries


def _manifest(program: Program, hashes: dict[str, str]) -> bytes:
    parts = []
    for part in program.parts:
        found = part.island
        island = None if found is None else IslandRecord(name=found.name, inputs=found.inputs, outputs=found.outputs)
        parts.append(
            PartRecord(
                call=part.call, arrays_in=part.arrays_in, arrays_out=part.arrays_out, island=island, dtypes=part.dtypes
            )
        )
    return (
        Manifest(
            versions=_versions(),
            hashes=hashes,
            code=len(program.code),
            level=program.level,
            frames=list(program.frames),
            sizes=program.sizes,
            per_task=program.per_task,
            held_bytes=program.held_bytes,
            parts=parts,
            outputs=list(program.outputs),
            layers=list(program.layers),
            structure=program.structure,
            preprocess=program.preprocess,
            precision=program.precision,
            info=program.info,
        )
        .model_dump_json(indent=1)
        .encode()
    )


def _part(part: PartRecord, entries: dict[str, bytes]) -> Part:
    found = part.island
    island = None if found is None else Island(found.name, entries[_entry(found)], found.inputs, found.outputs)
    return Part(part.call, part.arrays_in, part.arrays_out, island, part.dtypes)


def _code(count: int) -> list[str]:
    return [f"code.{index}.o" for index in range(count)]


def _entry(island: Island | IslandRecord) -> str:
    return f"{island.name}.onnx"


def _checked(path: Path, entries: dict[str, bytes]) -> Manifest:
    try:
        data = json.loads(entries.get(MANIFEST, b""))
    except ValueError as error:
        raise ArtifactError(f"{path}: not a skipfx artifact, or damaged: its manifest cannot be read") from error
    if not isinstance(data, dict) or data.get("kind") != "skipfx artifact":
        raise ArtifactError(f"{path}: not a skipfx artifact")
    versions = data.get("versions")
    if data.get("format") != FORMAT or not isinstance(versions, dict) or versions.get("tvm") != _versions()["tvm"]:
        raise ArtifactError(
            f"{path}: made by {versions}, format {data.get('format')}; this is {_versions()}, format "
            f"{FORMAT}: compile the model again"
        )
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise ArtifactError(f"{path}: its manifest is damaged: {describe(error)}") from error
    for name, expected in manifest.hashes.items():
        if name not in entries or _hash(entries[name]) != expected:
            raise ArtifactError(f"{path}: {name} is missing or was changed after the artifact was written")
    needed = {*_code(manifest.code), WEIGHTS, ROWS, *(_entry(part.island) for part in manifest.parts if part.island)}
    if missing := needed - manifest.hashes.keys():
        raise ArtifactError(f"{path}: its manifest is damaged: it does not list {', '.join(sorted(missing))}")
    return manifest


def _versions() -> dict[str, str]:
    return {"skipfx": version("skipfx"), "tvm": version("apache-tvm")}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
