"""``prepare --images=raw``: the pixels that JPEG would have lost a little of, and no decoding."""

import itertools
import json

import numpy as np
import pytest

from mla_jax.config.fields import dataset_block
from mla_jax.data.pipeline import Loader, training_batches
from mla_jax.datasets import DESCRIPTIONS, load_dataset, records
from mla_jax.datasets.prepared import preparation
from mla_jax.prepare.__main__ import main
from tests import trees
from tests.media import write_picture

SIDE = 256


def load(name, data_dir, modalities):
    config = dataset_block(name)
    config.data_dir = str(data_dir)
    return load_dataset(config, modalities)


def folder_tree(root):
    """Pictures: two of other proportions, one stored as it is, one missing; a clip and a vector."""
    (root / "film").mkdir(parents=True)
    write_picture(root / "wide.jpg", (40, 30), seed=1)
    write_picture(root / "grey.png", (20, 60), seed=2, mode="L")
    write_picture(root / "whole.jpg", (SIDE, SIDE), seed=3)
    for frame in range(3):
        write_picture(root / "film" / f"{frame}.jpg", (32, 24), seed=frame)
    rows = ["id,label,split,picture,film:clip,vector"]
    for i, picture in enumerate(("wide.jpg", "grey.png", "whole.jpg", "")):
        np.save(root / f"{i}.npy", np.arange(3.0) + i)
        split = "test" if i == 3 else "train"
        rows.append(f"e{i},{'ab'[i % 2]},{split},{picture},film,{i}.npy")
    trees.write(root / "examples.csv", *rows)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """``raw folder, {images: data_dir}``."""
    root = tmp_path_factory.mktemp("raw")
    folder_tree(root / "raw")
    for images in records.IMAGES:
        flags = ["--dataset=folder", f"--raw={root / 'raw'}", "--workers=1", f"--images={images}"]
        assert main([*flags, f"--data_dir={root / images}"]) == 0
    return root / "raw", {images: root / images for images in records.IMAGES}


def pixels(path, mode="RGB"):
    """The whole picture at the stored size, by Pillow."""
    from PIL import Image

    picture = Image.open(path).convert(mode)
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(picture)


@pytest.mark.media
def test_the_pixels_are_those_of_the_pictures(both):
    root, folders = both
    modalities = ("picture", "film", "vector")
    raw, jpeg = (load("folder", folders[images], modalities) for images in ("raw", "jpeg"))
    assert raw.fingerprint != jpeg.fingerprint and raw.streams == jpeg.streams
    train = raw.splits["train"].fetch(np.arange(3))
    for row, name in enumerate(("wide.jpg", "grey.png", "whole.jpg")):
        np.testing.assert_array_equal(train["inputs"]["picture"][row], pixels(root / name))
    film = [pixels(root / "film" / f"{frame}.jpg") for frame in range(3)]
    np.testing.assert_array_equal(train["inputs"]["film"][1], np.stack(film))
    lacking = raw.splits["test"].fetch(np.arange(1))
    assert not lacking["inputs"]["picture"].any() and not lacking["present"][0, 0]
    assert lacking["inputs"]["film"].any()

    # All else is as it is with JPEG, of which pictures of the stored size differ in nothing.
    other = jpeg.splits["train"].fetch(np.arange(3))
    for key in ("present", "label", "aspect", "index"):
        np.testing.assert_array_equal(train[key], other[key])
    np.testing.assert_array_equal(train["inputs"]["vector"], other["inputs"]["vector"])
    np.testing.assert_array_equal(train["inputs"]["picture"][2], other["inputs"]["picture"][2])
    lost = np.abs(train["inputs"]["picture"].astype(int) - other["inputs"]["picture"]).mean()
    assert 0 < lost < 8
    assert train["inputs"]["picture"].dtype == np.uint8


@pytest.mark.media
def test_what_is_not_wanted_is_not_copied_and_workers_read_the_same(both):
    split = load("folder", both[1]["raw"], ("picture", "vector")).splits["train"]
    some = split.fetch_wanted(np.arange(2), np.array([[False, True], [True, True]]))
    assert not some["inputs"]["picture"][0].any() and some["inputs"]["picture"][1].any()
    here, there = (training_batches(split, 2, 0, loader=Loader(n, 1, 1)) for n in (0, 1))
    for batch, other in itertools.islice(zip(here, there, strict=False), 2):
        np.testing.assert_array_equal(batch["inputs"]["picture"], other["inputs"]["picture"])
    there.close()


@pytest.mark.media
def test_flow_has_both_components_of_each_frame(tmp_path):
    flags = trees.ucf101(tmp_path / "raw")
    found = {}
    for images in records.IMAGES:
        options = [f"--data_dir={tmp_path / images}", "--workers=1", f"--images={images}"]
        assert main([*flags, "--dataset=ucf101", f"--raw={tmp_path / 'raw'}", *options]) == 0
        modalities = tuple(DESCRIPTIONS["ucf101"].modalities)
        split = load("ucf101", tmp_path / images, modalities).splits["train"]
        found[images] = split.fetch(np.arange(2))["inputs"]
    for modality, array in found["raw"].items():
        assert array.shape == found["jpeg"][modality].shape
        assert np.abs(array.astype(int) - found["jpeg"][modality]).mean() < 8


@pytest.mark.media
def test_the_size_is_said(both, tmp_path, capsys):
    root, _ = both
    flags = ["--dataset=folder", f"--raw={root}", "--workers=1", f"--data_dir={tmp_path}"]
    assert main([*flags, "--images=raw", "--image_side=224"]) == 0
    said = capsys.readouterr().out
    assert "picture: raw pictures of 224x224x3, 150,528 bytes per example, at most 0.00 GB" in said
    assert "film: raw pictures of 3x224x224x3, 451,584 bytes per example" in said
    (report,) = tmp_path.rglob("prepare_report.json")
    written = sum(path.stat().st_size for path in tmp_path.rglob("*array_record-*"))
    assert json.loads(report.read_text(encoding="utf-8"))["bytes"] == written
    assert f"size: {written / 1e6:,.1f} MB, {written / 4e3:,.1f} kB per example" in said
    shape = load("folder", tmp_path, ("picture", "film")).splits["train"].shapes["picture"]
    assert shape == (224, 224, 3)


@pytest.mark.media
def test_what_is_refused(both, tmp_path, capsys):
    root, folders = both
    flags = ["--dataset=folder", f"--raw={root}", "--workers=1"]
    for images, other in (records.IMAGES, records.IMAGES[::-1]):
        assert main([*flags, f"--data_dir={folders[images]}", f"--images={other}"]) == 2
        assert "made of something else (images differ)" in capsys.readouterr().err
    assert main([*flags, f"--data_dir={folders['raw']}", "--images=raw"]) == 0
    assert "4 of 4 examples are there already" in capsys.readouterr().out
    trees.write(root / "alone.csv", "id,label,split,vector", "x,a,train,0.npy", "y,b,test,1.npy")
    alone = [*flags, f"--csv={root / 'alone.csv'}", f"--data_dir={tmp_path}", "--images=raw"]
    assert main(alone) == 2
    assert "--images=raw: there are no pictures here: leave it out" in capsys.readouterr().err


@pytest.mark.media
def test_a_run_knows_that_its_pictures_were_raw(both):
    for images, folder in both[1].items():
        (index,) = folder.rglob(records.INDEX)
        content = json.loads(index.read_text(encoding="utf-8"))
        assert records.stored_images(content) == images
        told = preparation(content, ("picture", "film", "vector"))
        expected = {"raw": "raw", "jpeg": None}[images]
        assert [how.get("images") for how in told.values()] == [expected, expected, None]


@pytest.mark.media
def test_tfds_reads_the_records(both):
    import tensorflow_datasets as tfds

    folder = both[1]["raw"] / "folder/default-kaldi_fbank/1.0.0"
    source = tfds.builder_from_directory(folder).as_data_source(records.SPLIT)
    split = load("folder", both[1]["raw"], ("picture", "film")).splits["train"]
    ours, theirs = split.fetch(np.arange(1))["inputs"], source[int(split.rows[0])]
    for modality, array in ours.items():
        np.testing.assert_array_equal(theirs[modality], array[0])
