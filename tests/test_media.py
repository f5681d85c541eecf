import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skipfx.errors import FrameError, MediaError, OptionError, UsageError
from skipfx.media import Picture, Preprocess, open_frames


def picture(height: int = 36, width: int = 48, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(value: int, height: int = 6, width: int = 8) -> Picture:
    return np.full((height, width, 3), value, np.uint8)


def save_images(folder: Path, names: list[str], **size: int) -> None:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        Image.fromarray(flat(10 * index, **size)).save(folder / name)


def save_video(path: Path, frames: int) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 36))
    for index in range(frames):
        frame = np.zeros((36, 48, 3), np.uint8)
        frame[..., 0] = 20 * index  # blue, for OpenCV
        writer.write(frame)
    writer.release()


class TestPreprocess:
    def test_the_default_is_rgb_from_0_to_1(self) -> None:
        source = picture()
        values = Preprocess()(source)
        assert values.dtype == np.float32
        assert values.flags.c_contiguous
        np.testing.assert_array_equal(values[0], (source.transpose(2, 0, 1) * (1 / 255)).astype(np.float32))

    def test_mean_and_std_are_per_channel_and_come_after_the_scale(self) -> None:
        source = picture()
        values = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), channels="bgr")(source)
        for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)]):
            np.testing.assert_allclose(values[0, channel], (source[..., 2 - channel] / 255 - mean) / std, rtol=1e-5)

    @pytest.mark.parametrize("channels", ["gray", "luma"])
    def test_gray_and_luma_weigh_the_colours(self, channels: Any) -> None:
        pytest.importorskip("cv2")
        source = picture()
        values = Preprocess(scale=1, channels=channels)(source)
        assert values.shape == (1, 1, 36, 48)
        np.testing.assert_allclose(values[0, 0], source @ [0.299, 0.587, 0.114], atol=0.51)

    def test_luma_is_the_y_of_opencv(self) -> None:
        cv2 = pytest.importorskip("cv2")
        source = picture()
        wanted = cv2.cvtColor(source, cv2.COLOR_RGB2YCrCb)[..., 0]
        np.testing.assert_array_equal(Preprocess(scale=1, channels="luma")(source)[0, 0], wanted)

    @pytest.mark.parametrize("interpolation", ["area", "bilinear", "nearest", "bicubic"])
    @pytest.mark.parametrize("size", [(18, 24), (20, 31), (50, 70)])
    def test_the_same_picture_gives_the_same_bits(self, interpolation: Any, size: tuple[int, int]) -> None:
        cv2 = pytest.importorskip("cv2")
        preprocess = Preprocess(size=size, interpolation=interpolation, mean=(0.4,), std=(0.3,))
        wide = picture(36, 96)
        first = preprocess(np.ascontiguousarray(wide[:, ::2]))
        assert first.shape == (1, 3, *size)
        again = Preprocess.model_validate_json(preprocess.model_dump_json())
        assert again == preprocess
        threads = cv2.getNumThreads()
        for count in (1, 4):
            cv2.setNumThreads(count)
            assert again(wide[:, ::2]).tobytes() == first.tobytes()
            preprocess(picture(seed=1))
        cv2.setNumThreads(threads)

    def test_area_takes_the_mean(self) -> None:
        pytest.importorskip("cv2")
        source = np.concatenate([flat(10), flat(20)])
        assert (Preprocess(size=(1, 1), scale=1, mean=(5,))(source) == 10).all()

    def test_a_picture_of_the_right_size_needs_no_opencv(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cv2", None)
        assert Preprocess(size=(6, 8))(flat(1)).shape == (1, 3, 6, 8)
        with pytest.raises(MediaError, match=r'pip install "skipfx\[video\]"'):
            Preprocess(size=(5, 8))(flat(1))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"mean": (0.1, 0.2)}, r"mean needs 1 value or one per channel \(3\), got 2"),
            ({"std": (1, 1, 1), "channels": "luma"}, r"std needs 1 value or one per channel \(1\), got 3"),
            ({"std": (0,)}, "must not be 0"),
            ({"size": (0, 4)}, "size.0: .*greater than or equal to 1"),
            ({"interpolation": "cubic"}, "interpolation: .*'area', 'bilinear', 'nearest' or 'bicubic'"),
            ({"scale": float("nan")}, "scale: .*finite"),
        ],
    )
    def test_refuses_what_cannot_be_right(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            Preprocess(**values)

    @pytest.mark.parametrize(
        "wrong", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
    )
    def test_refuses_what_is_no_picture(self, wrong: Any) -> None:
        with pytest.raises(FrameError, match=r"expected an RGB picture, uint8 \[H, W, 3\], got"):
            Preprocess()(wrong)


class TestFolder:
    def test_natural_order_and_other_files(self, tmp_path: Path) -> None:
        folder = tmp_path / "a clip"
        save_images(folder, ["frame 1.png", "frame 2.BMP", "frame 10.jpg"])
        (folder / "notes.txt").write_text("not a picture")
        with open_frames(folder) as source:
            assert source.len_hint == 3
            pictures = list(source)
        assert [int(np.median(found)) for found in pictures] == [0, 10, 20]
        assert all(found.dtype == np.uint8 for found in pictures)

    def test_limit(self, tmp_path: Path) -> None:
        save_images(tmp_path, ["1.png", "2.png", "3.png"])
        with open_frames(str(tmp_path), limit=2) as source:
            assert source.len_hint == 2
            assert len(list(source)) == 2

    def test_reading_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        save_images(tmp_path, ["1.png", "2.png", "3.png"])
        with open_frames(tmp_path) as source:
            next(iter(source))
            assert [int(found[0, 0, 0]) for found in source] == [10, 20]
            assert not list(source)

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match=r"holds no image: expected files that end in \.png"):
            open_frames(tmp_path)

    def test_two_sizes(self, tmp_path: Path) -> None:
        save_images(tmp_path, ["1.png"])
        save_images(tmp_path, ["2.png"], height=7)
        with pytest.raises(MediaError, match=r"picture 1 is \(7, 8\) \(height, width\), the first one \(6, 8\)"):
            list(open_frames(tmp_path))

    def test_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "1.png").write_bytes(b"no picture")
        with pytest.raises(MediaError, match=r"1\.png cannot be decoded"):
            list(open_frames(tmp_path))

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "1.png")
        with pytest.raises(MediaError, match="expected 8 bits per channel"):
            list(open_frames(tmp_path))


class TestVideo:
    def test_frames_are_rgb_and_in_order(self, tmp_path: Path) -> None:
        path = tmp_path / "a clip.avi"
        save_video(path, frames=5)
        with open_frames(path) as source:
            assert source.len_hint == 5
            pictures = list(source)
        assert [found.shape for found in pictures] == [(36, 48, 3)] * 5
        np.testing.assert_allclose([found[..., 2].mean() for found in pictures], [0, 20, 40, 60, 80], atol=4)
        assert max(found[..., 0].mean() for found in pictures) < 4

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="does not exist: expected a video, a folder of images, or -"):
            open_frames(tmp_path / "none.mp4")

    @pytest.mark.parametrize("content", [b"", b"this is no video" * 100])
    def test_unreadable(self, content: bytes, tmp_path: Path) -> None:
        pytest.importorskip("cv2")
        (tmp_path / "clip.mp4").write_bytes(content)
        with pytest.raises(MediaError, match=r"clip\.mp4 cannot be decoded: expected a video"):
            open_frames(tmp_path / "clip.mp4")

    def test_the_error_is_all_that_is_printed(self, tmp_path: Path) -> None:
        pytest.importorskip("cv2")
        (tmp_path / "clip.mp4").write_bytes(b"this is no video" * 100)
        code = "import sys, skipfx.media as m\ntry: m.open_frames(sys.argv[1])\nexcept m.MediaError: print('refused')"
        run = subprocess.run([sys.executable, "-c", code, tmp_path / "clip.mp4"], capture_output=True, check=True)
        assert (run.stdout, run.stderr) == (b"refused\n", b"")

    def test_no_frames(self, tmp_path: Path) -> None:
        save_video(tmp_path / "clip.avi", frames=0)
        with pytest.raises(MediaError, match=r"cannot be decoded|holds no picture"):
            list(open_frames(tmp_path / "clip.avi"))

    def test_without_opencv(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "clip.mp4").touch()
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(MediaError, match=r'pip install "skipfx\[video\]"'):
            open_frames(tmp_path / "clip.mp4")


class SlowPipe(io.BytesIO):
    """Gives less than is asked for, as a pipe does."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 7))


class TestRaw:
    @pytest.mark.parametrize("kind", [io.BytesIO, SlowPipe])
    def test_frames(self, kind: type[io.BytesIO]) -> None:
        first, second = picture(4, 5), picture(4, 5, seed=1)
        with open_frames(kind(first.tobytes() + second.tobytes()), raw_size=(4, 5)) as source:
            assert source.len_hint is None
            found = list(source)
        np.testing.assert_array_equal(found, [first, second])

    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(picture(4, 5).tobytes())))
        np.testing.assert_array_equal(list(open_frames("-", raw_size=(4, 5))), [picture(4, 5)])

    def test_truncated(self) -> None:
        source = open_frames(io.BytesIO(picture(4, 5).tobytes()[:-1]), raw_size=(4, 5))
        with pytest.raises(MediaError, match="a frame of 4x5 rgb24 has 60 bytes, the last one had 59"):
            list(source)

    def test_empty(self) -> None:
        with pytest.raises(MediaError, match="the raw stream holds no picture"):
            list(open_frames(io.BytesIO(), raw_size=(4, 5)))

    @pytest.mark.parametrize("size", [None, (0, 5)])
    def test_needs_a_size(self, size: tuple[int, int] | None) -> None:
        with pytest.raises(UsageError, match=r"give raw_size as \(height, width\)"):
            open_frames("-", raw_size=size)

    def test_a_file_needs_none(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="has a size of its own"):
            open_frames(tmp_path, raw_size=(4, 5))


def test_limit_must_be_positive() -> None:
    with pytest.raises(UsageError, match="limit must be 1 frame or more, got 0"):
        open_frames("-", raw_size=(4, 5), limit=0)


def test_needs_no_torch() -> None:
    code = "import sys, skipfx.media; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
