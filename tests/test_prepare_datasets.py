"""Every data set from real media files to batches; damaged files counted, listed and bounded."""

import itertools
import json
import pathlib
import re

import numpy as np
import pytest

from mla_jax.config.fields import dataset_block
from mla_jax.data import audio
from mla_jax.datasets import DESCRIPTIONS, load_dataset, records
from mla_jax.errors import UserError
from mla_jax.prepare import media
from mla_jax.prepare.__main__ import main
from tests import trees
from tests.trees import TREES

pytestmark = pytest.mark.media
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


class Prepared:
    """A tree that went through the command; ``report`` is None if it was refused."""

    def __init__(self, name, folder, damage=False, **flags):
        self.name, self.folder, self.raw = name, folder, folder / "raw"
        own = TREES[name].build(self.raw)
        self.damage = TREES[name].damage(self.raw) if damage else ()
        self.flags = (*own, *(f"--{key}={value}" for key, value in flags.items()))
        self.status = self.run()
        reports = [*(folder / "data").rglob("prepare_report.json")]
        self.report = json.loads(reports[0].read_text()) if reports else None

    def run(self, *more):
        common = (f"--dataset={self.name}", f"--raw={self.raw}", f"--data_dir={self.folder}/data")
        return main([*common, "--workers=1", "--examples_per_shard=3", *self.flags, *more])

    def load(self, modalities=None, **fields):
        config = dataset_block(self.name)
        config.data_dir = f"{self.folder}/data"
        config.update(fields)
        return load_dataset(config, modalities or tuple(DESCRIPTIONS[self.name].modalities))

    def index(self):
        return json.loads(next((self.folder / "data").rglob("index.json")).read_text())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """``prepared(name)``: the whole tree, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = Prepared(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def test_every_description_has_a_tree():
    assert set(TREES) == set(DESCRIPTIONS) - {"folder"}, "add the data set's tree"


@pytest.mark.parametrize("name", TREES)
def test_from_files_to_batches(name, prepared):
    done = prepared(name)
    assert (done.status, done.report["unreadable"]) == (0, [])
    ids = done.index()["ids"]
    number = {class_name: i for i, class_name in enumerate(done.report["classes"])}
    strict = DESCRIPTIONS[name].default_split["strict"]
    fingerprints = set()
    for split, sizes in TREES[name].parts.items():
        dataset = done.load(split=split)
        fingerprints.add(dataset.fingerprint)
        assert {part: s.examples for part, s in dataset.splits.items()} == sizes
        for part in dataset.splits.values():
            batch = part.fetch(np.arange(part.examples)[::-1])
            assert set(batch) == {"inputs", "present", "label", "index", "valid", "aspect"}
            for modality, stream in dataset.streams.items():
                found = batch["inputs"][modality]
                assert found.shape == (part.examples, *stream.shape) == (
                    part.examples, *part.shapes[modality])  # fmt: skip
                assert found.dtype == np.dtype(stream.dtype)
                if stream.kind != "tokens":
                    assert all(len(np.unique(example)) > 1 for example in found)
            assert batch["present"].all() and batch["valid"].all()
            of = [ids[row] for row in part.rows[batch["index"]]]
            for id, label in zip(of, batch["label"], strict=True):
                if id in TREES[name].labels:
                    assert label == number[TREES[name].labels[id]]
    assert len(fingerprints) == len(TREES[name].parts), "a fingerprint names the split"
    assert done.load().fingerprint == done.load(split=strict).fingerprint
    assert set(TREES[name].labels) <= set(ids)


@pytest.mark.parametrize("name", TREES)
def test_from_files_to_a_result(name, prepared, commands, tmp_path):
    """One epoch of the small form of the data set's own configuration, through the command.

    With ``concat``, whose one phase sees all modalities and is compiled in a third of MLA's time.
    """
    done = prepared(name)
    dataset = done.load()
    batch_size = dataset.splits["train"].examples // 2
    options = [
        f"--config={CONFIGS / name}.py:method=concat,runlocal,epochs=1",
        f"--data_dir={done.folder}/data",
        f"--config.batch_size={batch_size}",
        f"--config.evaluation.batch_size={batch_size}",
        f"--workdir={tmp_path / 'run'}",
    ]
    ended = commands.run("mla_jax.main", options)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["dataset"], result["method"]) == (name, "concat")
    assert result["train"]["batches"] == 2
    assert result["test"]["examples"] == dataset.splits["test"].examples
    (line,) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert np.isfinite(line["train"]["joint/loss"])
    for modality in dataset.modalities:
        assert 0 <= result["test"][modality] <= 1


@pytest.mark.parametrize("name", TREES)
def test_damaged_files_are_counted_listed_and_bounded(name, tmp_path, capsys):
    done = Prepared(name, tmp_path, damage=True)
    assert done.status == 2, "far more than 1 % of these few cannot be used"
    (message,) = capsys.readouterr().err.splitlines()
    assert re.search(r"examples cannot be used in full, more than --max_unreadable", message)
    assert done.run("--max_unreadable=1") == 0
    report = json.loads(next(tmp_path.rglob("prepare_report.json")).read_text())
    for damage in done.damage:
        assert any(
            (found["id"], found["modality"]) == (damage.id, damage.modality)
            and re.search(damage.reason, found["reason"])
            and str(tmp_path) not in json.dumps(found)
            for found in report["unreadable"]
        ), (damage, report["unreadable"])
    assert {f["id"] for f in report["unreadable"]} == {damage.id for damage in done.damage}
    out = capsys.readouterr().out
    assert f"{len(report['unreadable'])} unusable files" in out
    # What is left of the damaged examples: the other modality, with this one marked as missing.
    dataset, index = done.load(split=next(iter(TREES[name].parts))), done.index()
    bad = {(f["id"], f["modality"]) for f in report["unreadable"]}
    for split in dataset.splits.values():
        batch = split.fetch(np.arange(split.examples))
        for i, row in enumerate(split.rows):
            for m, modality in enumerate(dataset.modalities):
                missing = (index["ids"][row], modality) in bad
                assert batch["present"][i, m] == (not missing)
                assert not missing or not batch["inputs"][modality][i].any()
    everywhere = set(itertools.chain(*(s.rows.tolist() for s in dataset.splits.values())))
    halves = {row for row in everywhere if not all(index["present"][row])}
    assert halves or name == "ave", "some example keeps one modality"


def test_incomplete_examples_can_be_left_out(tmp_path):
    done = Prepared("cremad", tmp_path, damage=True, max_unreadable=1)
    assert done.run("--drop_incomplete", "--max_unreadable=1") == 2, "other records are there"
    assert done.run("--drop_incomplete", "--max_unreadable=1", "--force") == 0
    kept = done.index()
    assert set(kept["ids"]) == set(trees.CLIPS[3:])
    assert np.all(kept["present"])


def one(dataset, done, id):
    """The inputs of the example ``id``, and its aspects."""
    row = done.index()["ids"].index(id)
    for split in dataset.splits.values():
        where = np.flatnonzero(split.rows == row)
        if len(where):
            batch = split.fetch(where[:1])
            return {m: x[0] for m, x in batch["inputs"].items()}, batch["aspect"][0]
    raise AssertionError(f"{id} is in no split")


def test_cremad_content(prepared):
    done = prepared("cremad")
    found, aspect = one(done.load(), done, trees.CLIPS[4])
    levels = found["video"].mean((1, 2, 3))
    np.testing.assert_allclose(levels, [34, 44, 54], atol=2)  # one frame per second
    np.testing.assert_allclose(aspect, [1, 1.5])
    waveform = media.read_sound(done.raw / f"AudioWAV/{trees.CLIPS[4]}.wav", 16_000)
    expected = audio.compute("kaldi_fbank", waveform).astype(np.float16)
    np.testing.assert_array_equal(found["audio"][..., 0], expected)


def test_frames_of_di_mml(tmp_path):
    trees.cremad(tmp_path / "raw")
    long = trees.CLIPS[0]
    trees.write_video(tmp_path / f"raw/VideoFlash/{long}.flv", seconds=4, sound=False, codec="flv1")
    for variant, frames in (("mla", [0, 1, 2]), ("dimml", [1, 2, 3])):
        flags = [f"--raw={tmp_path / 'raw'}", f"--data_dir={tmp_path}", f"--variant={variant}"]
        assert main(["--dataset=cremad", "--workers=1", *flags]) == 0
        config = dataset_block("cremad")
        config.update({"data_dir": str(tmp_path), "variant": variant, "split": "mla"})
        found = load_dataset(config, ("video",)).splits["test"].fetch([0])["inputs"]["video"][0]
        np.testing.assert_allclose(found.mean((1, 2, 3)), 30 + 10 * np.array(frames), atol=2)


def test_the_lists_keep_their_order(prepared):
    done = prepared("cremad")
    ids = done.index()["ids"]
    rows = done.load(split="mla").splits["train"].rows
    assert [ids[row] for row in rows] == trees.CLIPS[::-1][:6]


def test_speakers_are_disjoint_and_the_seed_draws_them(prepared):
    done = prepared("cremad")
    drawn = set()
    for seed in range(4):
        dataset = done.load(split_seed=seed)
        speakers = [{trees.CLIPS[r][:4] for r in s.rows} for s in dataset.splits.values()]
        assert not set.intersection(*speakers) and len(set.union(*speakers)) == 10
        drawn.add((dataset.fingerprint, tuple(sorted(speakers[-1]))))
    assert len(drawn) == 4


def test_sessions_are_left_out(prepared):
    done = prepared("iemocap")
    ids = done.index()["ids"]
    for k in range(1, 6):
        splits = done.load(split=f"leave_session_{k}_out").splits
        sessions = {part: {ids[row][:5] for row in s.rows} for part, s in splits.items()}
        assert sessions["test"] == {f"Ses{k:02d}"}
        assert len(sessions["validation"]) == 1 and len(sessions["train"]) == 3
        assert not sessions["train"] & (sessions["test"] | sessions["validation"])
    assert done.report["left_out"] == {"of other emotions": 5}


def test_kinetics_sounds_content(prepared):
    done = prepared("kinetics_sounds")
    assert done.report["left_out"] == {"of other classes": 1}
    dataset = done.load()
    sounds = [one(dataset, done, stem)[0]["audio"] for stem in trees.STEMS[:2]]
    ends = [int(np.flatnonzero(s.any((1, 2)))[-1]) for s in sounds]
    assert ends[0] == 297, "the wav beside the videos: 3 s are 298 frames"
    assert 290 < ends[1] < 310, "the sound of the video"
    assert set(done.load(split="ogm").splits) == {"train", "test"}


def test_kinetics_sounds_by_folders_and_with_other_classes(tmp_path):
    raw = tmp_path / "raw"
    for i in range(5):
        label = ("playing sitar", "bowling")[i % 2]
        part = "val" if i > 2 else "train"
        trees.write_video(raw / part / label.replace(" ", "_") / f"some-id-{i:03d}.mp4", seed=i)
    trees.write(tmp_path / "two.txt", "playing sitar", "bowling")
    trees.write(raw / "my_train_ks.txt", "some-id-004.mp4 playing sitar", "gone.mp4 bowling")
    trees.write(raw / "my_test_ks.txt", "some-id-001.mp4 bowling")
    flags = [f"--raw={raw}", f"--data_dir={tmp_path / 'data'}", "--workers=1"]
    own = ["--variant=two", f"--classes={tmp_path / 'two.txt'}"]
    assert main(["--dataset=kinetics_sounds", *flags, *own]) == 0
    config = dataset_block("kinetics_sounds")
    config.update({"data_dir": str(tmp_path / "data"), "variant": "two"})
    dataset = load_dataset(config, ("audio",))
    assert dataset.class_names == ("bowling", "playing sitar")
    labels = {part: s.label.tolist() for part, s in dataset.splits.items()}
    assert {part: sorted(found) for part, found in labels.items()} == {
        "train": [0, 1, 1], "test": [0, 1]}  # fmt: skip
    config.split = "mla"
    listed = load_dataset(config, ("audio",)).splits
    assert {part: s.label.tolist() for part, s in listed.items()} == {"train": [1], "test": [0]}
    config.variant = "ks31"
    with pytest.raises(UserError, match="there is: two-kaldi_fbank"):
        load_dataset(config, ("audio",))


def test_iemocap_by_the_lists_of_mla_and_from_videos(tmp_path):
    line = "{}.mp4 [split|sign] a cat [split|sign] {}"
    rows = [line.format(u, ("Angry", "Sad")[i % 2]) for i, u in enumerate(trees.UTTERANCES[:4])]
    trees.write(tmp_path / "raw/my_train_iemo.txt", *rows[:3])
    trees.write(tmp_path / "raw/my_test_iemo.txt", rows[3])
    for i, utterance in enumerate(trees.UTTERANCES[:4]):
        trees.write_sound(tmp_path / f"raw/subaudio/{utterance}.wav", seed=i)
        trees.write_video(tmp_path / f"raw/subvideo/{utterance}.mp4", seed=i)
    vocabulary = trees.write_vocabulary(tmp_path / "vocab.txt")
    flags = [f"--raw={tmp_path / 'raw'}", f"--data_dir={tmp_path}", f"--vocab={vocabulary}"]
    assert main(["--dataset=iemocap", *flags, "--workers=1"]) == 0
    config = dataset_block("iemocap")
    config.update({"data_dir": str(tmp_path), "split": "mla"})
    splits = load_dataset(config, ("audio", "image", "text")).splits
    assert {part: s.label.tolist() for part, s in splits.items()} == {
        "train": [0, 3, 0], "test": [3]}  # fmt: skip
    image = splits["test"].fetch([0])["inputs"]["image"]
    assert abs(image.mean() - 43) < 2, "the middle one of the frames at 0, 1 and 2 seconds"


def test_ave_takes_the_segment(prepared):
    done = prepared("ave")
    whole, _ = one(done.load(), done, "v0@0-3@Bark")
    late, _ = one(done.load(), done, "v5@1-3@Horse")
    assert whole["video"].mean((1, 2, 3)).min() < 45
    np.testing.assert_array_less(44, late["video"].mean((1, 2, 3)))
    np.testing.assert_allclose(late["audio"].astype(float).mean(), 0, atol=1e-2)


def test_text_is_tokenized(prepared):
    found, aspect = one(prepared("food101").load(), prepared("food101"), "pizza_2.jpg")
    assert found["text"][:7].tolist() == [5, 6, 11, 9, 7, 8, 0]  # a cat , on dog ##s
    assert (found["text"][6:] == 0).all()
    np.testing.assert_allclose(aspect, [1, 4 / 3], rtol=1e-6)


def test_ucf101_content(prepared):
    done = prepared("ucf101")
    released = done.load(variant="released")
    assert released.streams["flow"].flip == "released"
    assert done.load().streams["flow"].flip == "corrected"
    assert released.fingerprint != done.load().fingerprint
    found, _ = one(released, done, f"{trees.ACTIONS[4]}#test")

    def stored(path):
        stored = records.decode_jpeg(path.read_bytes())
        return stored.mean((0, 1)) if stored.ndim == 3 else stored.mean()

    start = 12 // 2 - 5  # of 12 flow frames, although there are 13 RGB ones
    for component, name in enumerate("uv"):
        files = sorted((done.raw / f"tvl1_flow/{name}/{trees.ACTIONS[4]}").iterdir())
        expected = [stored(file) for file in files[start : start + 10]]
        np.testing.assert_allclose(found["flow"][..., component].mean((1, 2)), expected, atol=1.5)
    rgb = sorted((done.raw / f"jpegs_256/{trees.ACTIONS[4]}").iterdir())[start + 6]
    np.testing.assert_allclose(found["rgb"].mean((0, 1)), stored(rgb), atol=1.5)


def test_modelnet40_takes_opposite_views(prepared):
    done = prepared("modelnet40")
    found, _ = one(done.load(), done, "xbox_0003.obj.shaded")
    for modality, view in (("front", "v001"), ("rear", "v007")):
        path = done.raw / f"xbox/train/xbox_0003.obj.shaded_{view}.png"
        expected = np.asarray(media.open_picture(path)).mean((0, 1))
        np.testing.assert_allclose(found[modality].mean((0, 1)), expected, atol=1.5)


def test_recipes_have_records_of_their_own(prepared):
    done = prepared("cremad")
    with pytest.raises(UserError, match=r"no records.*there is: mla-kaldi_fbank.*--recipe=stft_3s"):
        done.load(recipe="stft_3s")
    assert done.run("--recipe=stft_3s") == 0
    found = done.load(recipe="stft_3s")
    assert found.splits["test"].fetch([0])["inputs"]["audio"].shape == (1, 188, 257, 1)
    assert found.fingerprint != done.load().fingerprint
