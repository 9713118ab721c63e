"""Data sets in a bucket: copied once to a local folder, resumably, and compared."""

import json
import pathlib

import numpy as np
import pytest

from mla_jax.config.fields import dataset_block
from mla_jax.datasets import load_dataset, records
from mla_jax.errors import NoSpaceError, UserError
from mla_jax.prepare.__main__ import main
from tests.bucket_server import BUCKET
from tests.trees import write

pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
from mla_jax import storage
from mla_jax.storage import stage

DATA = f"gs://{BUCKET}/data"
EXAMPLES = 40


@pytest.fixture(scope="module")
def prepared(bucket, tmp_path_factory):
    """The local folder of a prepared data set that also lies in the bucket."""
    root = tmp_path_factory.mktemp("stage")
    rows = ["id,label,split,a,b"]
    for i in range(EXAMPLES):
        for name in "ab":
            write(root / "raw" / f"{name}{i}.npy", "")
            np.save(root / "raw" / f"{name}{i}.npy", np.full(4, i, np.float32))
        split = "test" if i % 4 == 3 else "train"
        rows.append(f"e{i},{('cat', 'dog')[i % 2]},{split},a{i}.npy,b{i}.npy")
    write(root / "raw" / "examples.csv", *rows)
    words = ["--dataset=folder", f"--raw={root / 'raw'}", f"--data_dir={root / 'data'}"]
    assert main([*words, "--workers=1", "--examples_per_shard=10"]) == 0
    storage.file_system().put(str(root / "data"), DATA, recursive=True)
    return root / "data"


def load(data_dir, stage_dir=""):
    config = dataset_block("folder")
    config.data_dir, config.stage_dir = str(data_dir), str(stage_dir)
    return load_dataset(config, ("a", "b"))


@pytest.fixture
def folder(prepared):
    """The bucket's folder of the records."""
    (index,) = prepared.rglob(records.INDEX)
    return storage.place(f"{DATA}/{index.parent.relative_to(prepared)}")


def test_a_data_set_in_a_bucket_is_the_same(prepared, tmp_path, capsys):
    local, remote = load(prepared), load(DATA, tmp_path)
    assert local.fingerprint == remote.fingerprint
    for part, split in local.splits.items():
        index = np.arange(split.examples)
        theirs = remote.splits[part].fetch(index)
        for m, array in split.fetch(index)["inputs"].items():
            np.testing.assert_array_equal(array, theirs["inputs"][m])
    said = capsys.readouterr().out
    assert said.startswith("copying 11 of 11 files (") and f"copied {DATA}/folder" in said
    load(DATA, tmp_path)
    assert capsys.readouterr().out == "", "nothing is copied twice"


def test_training_on_it(prepared, bucket, commands, tmp_path):
    options = ["--config=configs/folder.py:modalities=a+b,encoders=features+features",
               "--config.epochs=1", "--config.batch_size=8", f"--workdir={tmp_path / 'run'}",
               f"--stage_dir={tmp_path / 'copies'}"]  # fmt: skip
    done = commands.run("mla_jax.main", [*options, f"--data_dir={DATA}"], **bucket.environment)
    assert done.returncode == 0, done.stderr
    assert "copying 11 of 11 files" in done.stdout
    assert (tmp_path / "run" / "result.json").is_file()


def shards(folder):
    return sorted(path.name for path in folder.glob("*.array_record-*"))


def test_a_copy_that_was_cut_goes_on(folder, tmp_path, monkeypatch):
    """Only the bytes that are not there yet are read again."""
    read, original = [], storage.file_system().cat_file
    monkeypatch.setattr(stage, "CHUNK", 10_000)
    monkeypatch.setattr(stage, "THREADS", 1)

    def failing(path, start, end):
        if len(read) == 5:
            raise ConnectionError("gone")
        read.append((path, start))
        return original(path, start=start, end=end)

    monkeypatch.setattr(storage.file_system(), "cat_file", failing)
    with pytest.raises(UserError, match="cannot be reached"):
        stage.local_copy(folder, tmp_path, lambda line: None)
    assert list(tmp_path.rglob("*.part"))
    before = set(read)

    def going(path, start, end):
        assert (path, start) not in before, "read twice"
        return original(path, start=start, end=end)

    monkeypatch.setattr(storage.file_system(), "cat_file", going)
    said = []
    local = stage.local_copy(folder, tmp_path, said.append)
    assert "are here) from" in said[0]
    for name in shards(folder):
        assert (local / name).read_bytes() == (folder / name).read_bytes()
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_part_is_copied_again(folder, tmp_path):
    local = stage.local_copy(folder, tmp_path, lambda line: None)
    name = shards(folder)[0]
    content = (local / name).read_bytes()
    notes = json.loads((local / stage.NOTES).read_text())
    part = local / f"{name}.{notes[name][2]}.part"
    part.write_bytes(b"x" * (len(content) // 2))
    (local / name).unlink()
    stage.local_copy(folder, tmp_path, lambda line: None)
    assert (local / name).read_bytes() == content


def test_changes_in_the_bucket_are_followed(folder, tmp_path):
    """A file of another size here, another object there, or none there any more."""
    local = stage.local_copy(folder, tmp_path, lambda line: None)
    first, *_, last = shards(folder)
    (local / first).write_bytes(b"cut")
    (folder / last).write_bytes(content := (folder / last).read_bytes())  # a new generation
    (folder / "extra.json").write_text("{}")
    said = []
    stage.local_copy(folder, tmp_path, said.append)
    assert said[0].startswith("copying 3 of 12 files")
    assert (local / last).read_bytes() == content
    (folder / "extra.json").unlink()
    stage.local_copy(folder, tmp_path, said.append)
    assert not (local / "extra.json").exists() and len(said) == 2


def test_what_cannot_be_copied_is_said(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another folder with --stage_dir"):
        stage.local_copy(folder, tmp_path / "file")
    monkeypatch.setattr(stage, "free_space", lambda path: 10)
    with pytest.raises(NoSpaceError):
        stage.local_copy(folder, tmp_path, lambda line: None)
    monkeypatch.undo()
    monkeypatch.setattr(stage, "_crc32c", lambda path: "other")
    with pytest.raises(UserError, match="differs from the bucket's, twice"):
        stage.local_copy(folder, tmp_path, lambda line: None)


def test_a_bucket_without_records(prepared, tmp_path):
    with pytest.raises(UserError, match="holds no records"):
        load(f"gs://{BUCKET}/elsewhere", tmp_path)


def test_the_default_folder_is_the_users_own(folder):
    place = pathlib.Path(stage._place_of(folder, ""))
    assert place.name == records.VERSION and "mla_jax-" in str(place)
