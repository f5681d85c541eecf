"""An exported ONNX model as an engine: the same streams, computed by ONNX Runtime or OpenVINO."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from skipfx.errors import ArtifactError, FrameError, OptionError, UsageError
from skipfx.media import Preprocess
from skipfx.onnx_manifest import FORMAT, KEY, LayerRecord, OnnxManifest
from skipfx.options import describe
from skipfx.runtime.base_stream import BaseStream, Stats
from skipfx.runtime.frames import Array
from skipfx.runtime.native import usable_cores
from skipfx.runtime.onnx_session import open_session
from skipfx.runtime.onnx_state import BoundState


@dataclass(frozen=True)
class OnnxProgram:
    """A model's file, its manifest, and what is to run it."""

    path: str
    manifest: OnnxManifest
    runtime: str

    @property
    def frames(self) -> tuple[tuple[int, ...], ...]:
        """Shapes [1, C, H, W] of the inputs."""
        return tuple(frame.shape for frame in self.manifest.frames)

    @property
    def layers(self) -> tuple[LayerRecord, ...]:
        """The layers that can be skipped."""
        return self.manifest.layers

    @property
    def info(self) -> dict[str, Any]:
        """Options and report of the transformation."""
        return {"options": self.manifest.options, "report": self.manifest.report}

    def open(self, threads: int | None) -> "OnnxEngine":
        """The engine."""
        return OnnxEngine(self, threads)


def load_onnx(path: str | Path, threads: int | None = None, runtime: str = "onnxruntime") -> "OnnxEngine":
    """Loads a model that `skipfx.export_onnx` wrote.

    Args:
        path: of the model.
        threads: cores that a frame may use; None: all that this process may use.
        runtime: "onnxruntime" or "openvino".

    Raises:
        ArtifactError: the file is missing, damaged, of another version, or a model of somebody else.
        UsageError: the runtime is unknown, or not installed.
    """
    return OnnxEngine(OnnxProgram(str(path), read_manifest(Path(path)), runtime), threads)


def read_manifest(path: Path) -> OnnxManifest:
    """The manifest of a model.

    Raises:
        ArtifactError: as `load_onnx`.
    """
    import onnx

    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ArtifactError(f"{path}: not a readable ONNX model: {error}") from error
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if not texts:
        raise ArtifactError(f"{path}: a model that skipfx did not export: use skipfx transform and skipfx export")
    try:
        manifest = OnnxManifest.model_validate_json(texts[0])
    except ValidationError as error:
        raise ArtifactError(f"{path}: the manifest is damaged, or of another version: {describe(error)}") from error
    if manifest.format != FORMAT:
        raise ArtifactError(f"{path}: format {manifest.format}, expected {FORMAT}: export the model again")
    return manifest


class OnnxEngine:
    """A loaded model; streams hold all state.

    Args:
        program: what to run.
        threads: cores that a frame may use; None: all that this process may use.
    """

    def __init__(self, program: OnnxProgram, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"threads must be at least 1, got {threads}")
        self.program, self.threads = program, threads or usable_cores()
        self.session = open_session(program.runtime, program.path, self.threads)

    def stream(self, refresh_every: int | None = None, *, in_place: bool = True) -> "OnnxStream":
        """A new stream, for one camera.

        Args:
            refresh_every: frames between two refreshes; None: only the first frame is one.
            in_place: write the state in place where that is safe; False copies it on every frame.
        """
        return OnnxStream(self, refresh_every, in_place)

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of a frame in the sparse region when everything is computed."""
        return sum(layer.macs * layer.positions for layer in self.program.layers)

    @property
    def preprocess(self) -> Preprocess | None:
        """How a picture becomes a frame, where that was given."""
        return self.program.manifest.preprocess

    @property
    def state_bytes(self) -> int:
        """Bytes of state per stream, where it is written in place."""
        return self.program.manifest.state_bytes

    def __repr__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.program.frames)
        return f"OnnxEngine({shapes}, {self.program.runtime}, {self.threads} threads)"


class OnnxStream(BaseStream):
    """The state of one camera. Made by `OnnxEngine.stream`; used by one thread at a time."""

    def __init__(self, engine: OnnxEngine, refresh_every: int | None, in_place: bool) -> None:
        manifest = engine.program.manifest
        super().__init__(engine.program.frames, manifest.structure, refresh_every)
        self.engine, self._manifest = engine, manifest
        self._bound = BoundState(engine.session, manifest, in_place)
        self._refreshed = False
        self._finite = [np.empty(frame.shape, np.bool_) for frame in manifest.frames]  # new memory costs page faults

    def reset(self) -> None:
        """Forgets all frames: the next one is the first."""
        self._since_refresh = None

    @property
    def stats(self) -> Stats:
        """What the last frame cost."""
        macs, layers = 0, {}
        for layer, blocks in zip(self._manifest.layers, self._bound.active, strict=True):
            positions = min(int(blocks) * layer.block**2, layer.positions)
            macs += positions * layer.macs
            layers[layer.name] = positions / layer.positions
        return Stats(macs, self.engine.total_macs, self._refreshed, layers)

    def state_dict(self) -> dict[str, Array]:
        """A copy of the state, and the age of the last refresh."""
        since = -1 if self._since_refresh is None else self._since_refresh
        arrays = zip(self._manifest.states, self._bound.states, strict=True)
        return {record.input: array.copy() for record, array in arrays} | {"since_refresh": np.array(since)}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Goes back to a state of the same model.

        Raises:
            UsageError: the state belongs to another network; this stream stays as it was.
        """
        own = self.state_dict()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise UsageError("the state does not fit this model: its names or shapes are others")
        self._bound.load([state[record.input] for record in self._manifest.states])
        since = int(state["since_refresh"])
        self._since_refresh = None if since < 0 else since

    def _run(self, frames: list[Array]) -> list[Array]:
        if not all(np.isfinite(frame, out=out).all() for frame, out in zip(frames, self._finite, strict=True)):
            raise FrameError("the frame holds NaN or infinity; the stream is as it was before")
        self._refreshed = self._is_due()
        outputs = self._bound.run(frames, self._refreshed)
        self._since_refresh = 0 if self._refreshed else (self._since_refresh or 0) + 1
        return outputs
