"""The C++ loop of docs/deploy-onnx.md, as it stands there: it compiles, and computes what the stream computes.

Needs a C++ compiler and the headers of ONNX Runtime, which its wheel does not hold: ONNXRUNTIME_INCLUDE names their
folder. The library itself is that of the wheel.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from torch import nn

from skipfx.export import export_onnx
from skipfx.options import Hold
from skipfx.passes.portable import cost
from skipfx.runtime import load_onnx
from skipfx.transformation import transform
from tests.networks import moving_clip, seeded

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


def test_the_loop_computes_what_the_stream_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("g++")
    if compiler is None or not (HEADERS / "onnxruntime_cxx_api.h").is_file():
        pytest.skip(f"needs g++ and the headers of ONNX Runtime in {HEADERS}, or where ONNXRUNTIME_INCLUDE says")
    monkeypatch.setattr(cost, "STEP", 0)
    network = seeded(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 3, padding=1)))
    clip = moving_clip(3, 24, 30, length=6)
    skip = transform(network, clip[0], gate=Hold(threshold=0.1, input_threshold=0.1))
    manifest = export_onnx(skip, tmp_path / "model.onnx")
    (tmp_path / "frames.bin").write_bytes(b"".join(frame.numpy().tobytes() for (frame,) in clip))
    states = ",".join(
        f'{{"{s.input}", "{s.output}", {{{",".join(map(str, s.shape))}}}, {np.prod(s.shape)}}}' for s in manifest.states
    )
    [loop] = re.findall(r"```cpp\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    *lines, end = loop.rstrip().splitlines()
    loop = "\n".join([*lines, KEEP, end]).replace('"x"', f'"{manifest.frames[0].name}"')
    program = AROUND.replace("STATES", states).replace("LOOP", loop)
    (tmp_path / "loop.cpp").write_text(program)
    [library] = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)  # the name that it calls itself
    build = [compiler, "-std=c++17", f"-I{HEADERS}", "loop.cpp", "libonnxruntime.so.1", "-Wl,-rpath,."]
    subprocess.run([*build, "-o", "loop"], cwd=tmp_path, check=True)
    subprocess.run(["./loop"], cwd=tmp_path, check=True)
    stream = load_onnx(tmp_path / "model.onnx").stream()
    expected = np.stack([stream(frame.numpy())[0] for (frame,) in clip])
    np.testing.assert_array_equal(np.fromfile(tmp_path / "found.bin", np.float32).reshape(expected.shape), expected)
