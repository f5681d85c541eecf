"""An artifact for aarch64, compiled here, computes what PyTorch computes; its code runs under qemu-user.

Everything around the code (the stream, the islands) is this machine's. Debian packages: qemu-user,
gcc-aarch64-linux-gnu, libc6-dev-arm64-cross.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.nn import functional as F
from tvm_ffi import libinfo

from skipfx.build import compile_engine
from skipfx.errors import ArtifactError
from skipfx.options import Gate, Hold, InputNorm
from skipfx.runtime import Engine, load
from skipfx.runtime.artifact import read
from skipfx.runtime.backends.levels import host_levels
from skipfx.transformation import transform
from tests.networks import Branches, branches_clip, moving_clip, seeded
from tests.runtime.check import Array, Net, assert_close, changing, flat, reference

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
SYSROOT = "/usr/aarch64-linux-gnu"
TARGET = "cpu:armv8-a"

needs_emulator = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"{COMPILER} or {EMULATOR} is missing: install qemu-user, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross",
)


def cores() -> nn.Module:
    """Every kind of core and of channel tail, on maps that are no multiple of a tile."""
    return Net(
        lambda m, x: [
            m.point(F.relu(m.stem(x))),
            m.deep(m.stem(x)),
            F.max_pool2d(m.stem(x), 3, 2, 1),
            F.avg_pool2d(m.stem(x), 2),
            F.interpolate(m.grouped(m.stem(x)), scale_factor=2.0, mode="bilinear"),
            m.few(F.relu(m.wide(x))),
        ],
        stem=nn.Conv2d(3, 24, 3, padding=1),
        point=nn.Conv2d(24, 35, 1),
        deep=nn.Conv2d(24, 24, 5, 2, 2, groups=24),
        grouped=nn.Conv2d(24, 6, 3, padding=1, groups=2),
        wide=nn.Conv2d(3, 32, 3, padding=1),
        few=nn.Conv2d(32, 1, 3, padding=1),
    )


@needs_emulator
@pytest.mark.parametrize(
    ("model", "clip", "gate"),
    [
        (cores(), changing((3, 11, 13), seed=3), Hold(threshold=0, input_threshold=0)),
        (seeded(Branches()), branches_clip(5), Hold(threshold=0.1, input_threshold=0.02)),
        (seeded(Branches()), branches_clip(5), InputNorm(eps=0.02)),
    ],
    ids=["cores", "thresholds", "gates"],
)
def test_code_for_aarch64(model: nn.Module, clip: list[Any], gate: Gate, tmp_path: Path) -> None:
    skip = transform(model, clip[0], gate=gate)
    path = tmp_path / "arm.skipfx"
    compile_engine(skip, TARGET, dense_above=1).save(path)
    engine = Engine(read(path), threads=1)
    engine.step = under_emulation(engine.program.code, tmp_path)
    stream = engine.stream()
    for time, (frames, expected) in enumerate(zip(clip, reference(skip, clip), strict=True)):
        assert_close(flat(stream(*frames)), expected, f"at frame {time}")


def under_emulation(code: tuple[bytes, ...], folder: Path) -> Callable[..., None]:
    """The function `step` of some files of object code for aarch64."""
    program, taken, given = folder / "step", folder / "taken", folder / "given"
    objects = [folder / f"{index}.o" for index in range(len(code))]
    for path, file in zip(objects, code, strict=True):
        path.write_bytes(file)
    source = Path(__file__).with_name("qemu_step.c")
    headers = {f"-I{libinfo.find_include_path()}", f"-I{libinfo.find_dlpack_include_path()}"}
    subprocess.run([COMPILER, "-O1", *headers, source, *objects, "-lm", "-o", program], check=True)

    def step(*arguments: Any) -> None:
        arrays, numbers = [np.from_dlpack(tensor) for tensor in arguments[:-5]], arguments[-5:]
        taken.write_bytes(b"".join(map(_packed, arrays)) + np.array(numbers, np.int64).tobytes())
        subprocess.run([EMULATOR, "-L", SYSROOT, program, taken, given], check=True)
        rest = given.read_bytes()
        for array in arrays:
            array[:] = np.frombuffer(rest, array.dtype, array.size)
            rest = rest[array.nbytes :]

    return step


def _packed(array: Array) -> bytes:
    code = {"i": 0, "u": 1, "f": 2}[array.dtype.kind]  # of DLPack
    return np.array([code, 8 * array.itemsize, array.size], np.int64).tobytes() + array.tobytes()


@pytest.mark.skipif("armv8-a" in host_levels(), reason="this machine runs it")
def test_a_foreign_artifact_is_written_here_and_refused_here(tmp_path: Path) -> None:
    clip = moving_clip(3, 12, 16, length=2)
    engine = compile_engine(transform(seeded(Branches()), clip[0]), TARGET)
    engine.save(tmp_path / "arm.skipfx")
    with pytest.raises(ArtifactError, match="compiled for armv8-a; this machine runs"):
        engine.stream()(*clip[0])
    with pytest.raises(ArtifactError, match=r"arm\.skipfx: compiled for armv8-a"):
        load(tmp_path / "arm.skipfx")
