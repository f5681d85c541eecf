"""The loops of docs/deploy-onnx.md, as they stand there, compute what the stream computes.

That in C++ needs a compiler and the headers of ONNX Runtime, which its wheel does not hold: ONNXRUNTIME_INCLUDE names
their folder. The library itself is that of the wheel.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from torch import nn

from skipfx.export import export_onnx
from skipfx.options import Hold
from skipfx.passes.portable import cost
from skipfx.runtime import load_onnx
from skipfx.transformation import transform
from tests.networks import moving_clip, seeded

Array = NDArray[Any]
HEADERS = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
PAGE = Path(__file__).parents[1] / "docs" / "deploy-onnx.md"
AROUND = """
#include <algorithm>
#include <fstream>
#include <string>
#include <vector>
#include "onnxruntime_cxx_api.h"

struct State { std::string input, output; std::vector<int64_t> shape; size_t elements; };

struct Camera {  // frames one after the other in a file
    std::ifstream file{"frames.bin", std::ios::binary};
    std::vector<float> numbers = std::vector<float>(3 * 24 * 30);
    bool read(Ort::Value& frame) {
        int64_t shape[] = {1, 3, 24, 30};
        auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        frame = Ort::Value::CreateTensor<float>(memory, numbers.data(), numbers.size(), shape, 4);
        return bool(file.read(reinterpret_cast<char*>(numbers.data()), numbers.size() * sizeof(float)));
    }
};

int main() {
    Ort::Env env;
    Ort::Session session(env, "model.onnx", Ort::SessionOptions{});
    std::vector<State> states = {STATES};
    Camera camera;
    Ort::Value frame{nullptr};
    std::ofstream found("found.bin", std::ios::binary);
    LOOP
}
"""
KEEP = """
        auto outputs = binding.GetOutputValues();
        auto& output = outputs[states.size()];
        found.write(output.GetTensorData<char>(), output.GetTensorTypeAndShapeInfo().GetElementCount() * sizeof(float));
"""


class Loops:
    """A model in a folder, a clip, and the outputs of its stream; the code of the page by language."""

    def __init__(self, folder: Path) -> None:
        network = seeded(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 3, padding=1)))
        clip = moving_clip(3, 24, 30, length=6)
        skip = transform(network, clip[0], gate=Hold(threshold=0.1, input_threshold=0.1))
        self.folder, self.clip = folder, [frame.numpy() for (frame,) in clip]
        self.manifest = export_onnx(skip, folder / "pose.onnx")
        stream = load_onnx(folder / "pose.onnx").stream()
        self.expected = np.stack([stream(frame)[0] for frame in self.clip])

    @staticmethod
    def code(language: str, word: str) -> list[str]:
        """The lines of the only loop in a language that holds a word."""
        page = PAGE.read_text(encoding="utf-8")
        [loop] = [text for text in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) if word in text]
        lines: list[str] = loop.rstrip().splitlines()
        return lines


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Loops:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "STEP", 0)  # the network is so small that no layer would pay
        return Loops(tmp_path_factory.mktemp("loops"))


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_python(loops: Loops, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(library)
    monkeypatch.chdir(loops.folder)
    found: list[Array] = []
    keep = "    found.append(np.array(outputs[0].numpy() if hasattr(outputs[0], 'numpy') else outputs[0])[0])"
    code = [*loops.code("python", f"import json, numpy as np, {library}"), keep]
    exec("\n".join(code), {"camera": loops.clip, "found": found})
    np.testing.assert_allclose(np.stack(found), loops.expected, rtol=1e-5, atol=1e-5)


def test_cpp(loops: Loops, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or not (HEADERS / "onnxruntime_cxx_api.h").is_file():
        pytest.skip(f"needs g++ and the headers of ONNX Runtime in {HEADERS}, or where ONNXRUNTIME_INCLUDE says")
    (tmp_path / "model.onnx").write_bytes((loops.folder / "pose.onnx").read_bytes())
    (tmp_path / "frames.bin").write_bytes(b"".join(frame.tobytes() for frame in loops.clip))
    states = ",".join(
        f'{{"{s.input}", "{s.output}", {{{",".join(map(str, s.shape))}}}, {np.prod(s.shape)}}}'
        for s in loops.manifest.states
    )
    *lines, end = loops.code("cpp", "Ort::IoBinding")
    loop = "\n".join([*lines, KEEP, end]).replace('"x"', f'"{loops.manifest.frames[0].name}"')
    (tmp_path / "loop.cpp").write_text(AROUND.replace("STATES", states).replace("LOOP", loop))
    [library] = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)  # the name that it calls itself
    build = [compiler, "-std=c++17", f"-I{HEADERS}", "loop.cpp", "libonnxruntime.so.1", "-Wl,-rpath,."]
    subprocess.run([*build, "-o", "loop"], cwd=tmp_path, check=True)
    subprocess.run(["./loop"], cwd=tmp_path, check=True)
    found = np.fromfile(tmp_path / "found.bin", np.float32)
    np.testing.assert_array_equal(found.reshape(loops.expected.shape), loops.expected)
