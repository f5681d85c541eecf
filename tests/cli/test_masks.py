"""Pictures of where layers computed."""

from pathlib import Path

import numpy as np
from PIL import Image

from skipfx.cli.masks import MaskPictures
from skipfx.media import open_frames
from skipfx.runtime.artifact import load
from tests.cli.conftest import HEIGHT, LENGTH, WIDTH, Cli, Files


def test_masks_are_the_share_of_frames_that_computed_a_position(cli: Cli, files: Files, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    done = cli("run", files.engine, files.clip, "--masks", folder)
    assert f"masks    in {folder}" in done.out
    assert sorted(path.name for path in folder.iterdir()) == ["000-first.png", "001-last.png"]
    engine = load(files.engine)
    stream, pictures = engine.stream(), MaskPictures()
    computed = np.zeros((HEIGHT, WIDTH))
    with open_frames(str(files.clip)) as source:
        for picture in source:
            assert engine.preprocess is not None
            stream(engine.preprocess(picture))
            pictures.add(stream)
            computed += stream.active()["first"]
    found = np.asarray(Image.open(folder / "000-first.png"))
    assert np.array_equal(found, np.rint(computed * 255 / LENGTH).astype(np.uint8))
    assert 0 < found.min() < found.max()
    assert cli("run", files.engine, files.clip, "--masks", folder).code == 1
    (folder / "mine.txt").write_text("kept")
    assert cli("run", files.engine, files.clip, "--frames", 1, "--masks", folder, "--overwrite").code == 0
    assert (folder / "mine.txt").exists() and np.asarray(Image.open(folder / "001-last.png")).min() == 255
