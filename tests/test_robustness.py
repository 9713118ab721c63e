"""Corrupted modalities: the same bits for everybody, and what the measure makes of accuracies."""

import json
import math

import jax
import numpy as np
import pytest

from mla_jax.compare import robustness
from mla_jax.data import corruptions
from mla_jax.data.corruptions import corrupted, kinds_of
from mla_jax.data.dataset import ArraySplit, Dataset, SubsetOfModalities
from mla_jax.data.streams import Stream
from mla_jax.errors import UserError
from mla_jax.evaluate import Evaluator
from mla_jax.evaluate import __main__ as evaluate
from tests.comparisons import undocumented
from tests.conftest import digits_program
from tests.runs import config_of, open_run, quietly
from tests.small_study import ROWS

EXAMPLES = 12
CLIP = Stream("clip", (4, 8, 6, 3), crop=6, mean=(0.4, 0.5, 0.6), std=(0.2,) * 3)
NATURES = {
    "pixels": ("image", (8, 6, 3), np.uint8, None),
    "grey": ("image", (9, 9, 1), np.float32, None),
    "movie": ("clip", CLIP.shape, np.uint8, CLIP),
    "motion": ("flow", (3, 8, 6, 2), np.uint8, Stream("flow", (3, 8, 6, 2), flip="none")),
    "mel": ("spectrogram", (20, 8, 1), np.float16,
            Stream("spectrogram", (20, 8, 1), "float16", mean=(-5.0,), std=(4.0,))),
    "mfcc": ("sequence", (20, 5), np.float32, None),
    "features": ("vector", (30,), np.float32, Stream("vector", (30,), "float32")),
    "words": ("tokens", (16,), np.int32, Stream("tokens", (16,), "int32")),
    "counts": ("other", (2, 3), np.int32, None),
}  # fmt: skip
"""By modality: its nature, and shape, type and stream of its examples."""


def built() -> Dataset:
    """Twelve examples of everything; example 3 lacks all but ``pixels``, NaN stands there."""
    rng = np.random.default_rng(0)
    inputs = {}
    for name, (_, shape, dtype, _) in NATURES.items():
        high = 200 if dtype == np.uint8 else 50
        whole = rng.integers(1, high, (EXAMPLES, *shape))
        values = whole if np.dtype(dtype).kind in "iu" else rng.normal(-5, 4, whole.shape)
        inputs[name] = values.astype(dtype)
        if np.dtype(dtype).kind == "f":
            inputs[name][3] = np.nan
    present = np.ones((EXAMPLES, len(NATURES)), bool)
    present[3, 1:] = False
    splits = dict.fromkeys(
        ("train", "test"), ArraySplit(inputs, np.zeros(EXAMPLES, np.int32), present)
    )
    streams = {name: stream for name, (*_, stream) in NATURES.items() if stream}
    return Dataset("built", tuple(NATURES), ("a", "b"), splits, "x", streams=streams)


DATA = built()
SPLIT, SPEC = DATA.splits["test"], DATA.spec()
CASES = [(m, kind) for m in NATURES for kind in kinds_of(SPEC, m)]


def spoilt(modality, kind, severity, index=range(EXAMPLES), **options):
    found = corrupted(SPLIT, SPEC, modality, kind, severity, **options)
    return found.fetch(np.asarray(index))["inputs"][modality]


def test_what_a_modality_can_suffer_follows_from_its_examples():
    for name, (nature, *_) in NATURES.items():
        assert corruptions.nature_of(SPEC, name) == nature
    assert len(CASES) == 2 + 2 + 3 + 3 + 2 + 2 + 1 + 1
    assert kinds_of(SPEC, "pixels")["noise"].levels == (0, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert kinds_of(SPEC, "grey")["noise"].levels[-1] == 3 and not kinds_of(SPEC, "counts")


@pytest.mark.parametrize(("modality", "kind"), CASES)
def test_the_same_examples_are_the_same_bits(modality, kind):
    """Whatever the batch; of another kind or seed they differ; nothing else changes."""
    column, levels = list(NATURES).index(modality), kinds_of(SPEC, modality)[kind].levels
    clean, worst = SPLIT.inputs[modality], spoilt(modality, kind, levels[-2])
    assert worst.dtype == clean.dtype and worst.shape == clean.shape
    one_by_one = np.concatenate([spoilt(modality, kind, levels[-2], index=[i]) for i in range(12)])
    np.testing.assert_array_equal(worst, one_by_one)
    np.testing.assert_array_equal(worst[[7, 2]], spoilt(modality, kind, levels[-2], index=[7, 2]))
    changed = np.array([not np.array_equal(a, b) for a, b in zip(worst, clean, strict=True)])
    assert changed[SPLIT.present[:, column]].mean() > 0.7
    np.testing.assert_array_equal(
        worst[~SPLIT.present[:, column]], clean[~SPLIT.present[:, column]]
    )
    if kind != "blur":
        other = spoilt(modality, kind, levels[-2], seed=1)
        assert not np.array_equal(other, worst, equal_nan=True)
    assert corrupted(SPLIT, SPEC, modality, kind, levels[0]) is SPLIT
    split = corrupted(SPLIT, SPEC, modality, kind, levels[-1])
    batch, before = split.fetch(np.arange(12)), SPLIT.fetch(np.arange(12))
    assert list(batch["inputs"]) == list(NATURES) and split.shapes == SPLIT.shapes
    for name in NATURES:
        if name != modality:
            np.testing.assert_array_equal(batch["inputs"][name], before["inputs"][name])
    for key in ("present", "label", "index", "valid"):
        np.testing.assert_array_equal(batch[key], before[key])
    subset = SubsetOfModalities(split, [name == modality for name in NATURES])
    seen = subset.fetch(np.arange(subset.examples))["inputs"][modality]
    np.testing.assert_array_equal(seen, batch["inputs"][modality][SPLIT.present[:, column]])


def test_what_is_done_has_the_size_that_is_said():
    there = SPLIT.present[:, 1]
    clean = {m: x[there].astype(np.float64) for m, x in SPLIT.inputs.items()}
    noise = {m: spoilt(m, "snr", -6.0)[there] - clean[m] for m in ("mel", "mfcc")}
    for modality, mean in (("mel", -5.0), ("mfcc", 0.0)):
        ratio = np.square(clean[modality] - mean).mean() / np.square(noise[modality]).mean()
        assert 10 * np.log10(ratio) == pytest.approx(-6, abs=0.3)
    added = spoilt("grey", "noise", 2.0)[there] - clean["grey"]
    assert added.std() == pytest.approx(2 * np.sqrt(clean["grey"].var(0).mean()), rel=0.05)
    pixels = SPLIT.inputs["pixels"].astype(int)
    middle = (pixels > 80) & (pixels < 175)
    assert (spoilt("pixels", "noise", 0.1) - pixels)[middle].std() == pytest.approx(25.5, rel=0.15)
    assert spoilt("pixels", "noise", 0.5).min() == 0 and spoilt("pixels", "noise", 0.5).max() == 255
    rough = [spoilt("pixels", "blur", share).astype(float).std() for share in (0, 0.05, 0.1, 0.2)]
    assert sorted(rough, reverse=True) == rough
    flat = np.full((1, *SPLIT.inputs["pixels"].shape[1:]), 77, np.uint8)
    assert (corruptions._blurred(flat, 0.2) == 77).all()


def test_what_is_dropped_stays_dropped():
    movies = [spoilt("movie", "frames", share) for share in (0.4, 0.8, 1.0)]
    blank = np.rint(255 * np.array(CLIP.mean))
    gone = [(x == blank).all((2, 3, 4)) for x in movies]
    assert (gone[0] <= gone[1]).all() and gone[0].sum() < gone[1].sum() < gone[2].sum()
    assert gone[2][SPLIT.present[:, 2]].all()
    assert (spoilt("motion", "frames", 1.0)[0] == 128).all()
    assert (
        not spoilt("mfcc", "frames", 1.0)[0].any() and (spoilt("mel", "frames", 1.0)[0] == -5).all()
    )
    zeros = [spoilt("words", "dropout", share)[:3] == 0 for share in (0.2, 0.8, 1.0)]
    assert (zeros[0] <= zeros[1]).all() and zeros[0].sum() < zeros[1].sum() and zeros[2].all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mfcc", "'mfcc' is not a corruption: write MODALITY:KIND=NUMBER, as in audio:snr=0"),
        ("mfcc:snr=loud", "write MODALITY:KIND=NUMBER"),
        ("mfc:snr=0", "unknown modality of this run"),
        ("mfcc:srn=0", "unknown kind of corruption 'srn': did you mean 'snr'?"),
        ("mfcc:blur=0.1", "'blur' does not apply to 'mfcc' of the kind sequence, float32[20, 5]: "
         "take snr or frames"),
        ("counts:noise=1", "'noise' does not apply to 'counts' of the kind other, int32[2, 3]: "
         "corrupt another modality"),
        ("movie:frames=1.5", "must be a number (share of frames dropped) of at least 0 and at"),
        ("features:noise=-1", "must be a number (standard deviations) of at least 0; 0 changes"),
        ("features:noise=inf", "must be a number"),
        ("mfcc:snr=nan", "must be a number (dB) of at least -100; inf changes nothing"),
        ("mfcc:snr=-inf", "must be a number (dB)"),
    ],
)  # fmt: skip
def test_mistakes(text, sentence):
    with pytest.raises(UserError) as caught:
        corrupted(SPLIT, SPEC, *corruptions.parse(text))
    assert sentence in str(caught.value)


def test_a_modality_that_nobody_has():
    split = SPLIT._replace(present=SPLIT.present & (np.arange(len(NATURES)) != 5))
    with pytest.raises(UserError, match="no example of the split has 'mfcc'"):
        corrupted(split, SPEC, "mfcc", "snr", 0)


# ---- Runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    """The folders of two tiny runs of MLA."""
    folder = tmp_path_factory.mktemp("row") / "mla"
    for seed in (0, 1):
        program, _ = digits_program("mla")
        quietly(config_of("mla", seed=seed), folder / f"seed{seed}", program)
    return [folder / "seed0", folder / "seed1"]


@pytest.fixture(scope="module")
def curves(row):
    """Their curves, and how often a program was made for them, and traced."""
    done, original = [], robustness.build_program

    def build(*arguments):
        done.append("built")
        program = original(*arguments)

        def predict(*inputs):
            done.append("traced")
            return program.method.predict(*inputs)

        method = program.method._replace(predict=predict)
        return program._replace(evaluator=Evaluator(method, jax.devices()[:1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "build_program", build)
        return robustness.curves_of(row, "mla"), done


def test_a_row_compiles_once(curves):
    assert curves[1] == ["built", "traced"]


def test_no_corruption_gives_the_figures_of_the_result(curves, row):
    for found, folder in zip(curves[0], row, strict=True):
        test = json.loads((folder / "result.json").read_text())["test"]
        assert list(found) == ["audio:snr", "audio:frames", "text:dropout"]
        for panel, figures in found.items():
            assert figures["fused"][0] == test["fused"]
            assert figures["itself"][0] == test[panel.partition(":")[0]]


def test_more_damage_is_not_better_in_the_mean(curves):
    """Accuracy goes up and down between levels: what holds is the start, the area and the end."""
    panels = robustness.summarize(curves[0])
    for found in panels.values():
        alone = np.mean(found["itself"], 0)
        assert alone[0] >= np.mean(alone[1:-1]) > alone[-1]
    for panel in ("audio:frames", "text:dropout"):  # nothing is left, and all classes are as large
        assert {curve[-1] for curve in panels[panel]["itself"]} == {0.1}
    assert panels["audio:snr"]["drop"]["mean"] > 0.02


def test_the_other_modality_is_untouched(row):
    """To the bit: MLA predicts each modality by itself."""
    run = open_run(row[0])
    split = corrupted(run.dataset().splits["test"], run.data, "audio", "snr", -10)
    found = run.evaluate(split)
    assert found["text"] == run.result["test"]["text"]
    assert found["audio"] < run.result["test"]["audio"] - 0.05
    kept, said = run.predict(split).modalities["text"], run.predict(split._split).modalities["text"]
    np.testing.assert_array_equal(kept.logits, said.logits)


def test_figures_are_kept_for_as_long_as_the_result_is(curves, row, monkeypatch):
    monkeypatch.setattr(robustness, "measure", lambda run: {"measured": "again"})
    assert robustness.curves_of(row, "mla") == curves[0]
    for changed in ("", "{", '{"identity": 3}'):
        text = (row[1] / robustness.KEPT).read_text()
        (row[1] / robustness.KEPT).write_text(changed)
        assert robustness.kept(open_run(row[1])) is None
        (row[1] / robustness.KEPT).write_text(text)
    result = (row[1] / "result.json").read_text()
    (row[1] / "result.json").write_text(result.replace('"seconds": ', '"seconds": 1'))
    assert robustness.kept(open_run(row[1])) is None
    (row[1] / "result.json").write_text(result)
    assert robustness.kept(open_run(row[1])) == curves[0][1]


def test_areas():
    assert robustness.area([0, 0.5, 2], [1.0, 0.5, 0.5]) == pytest.approx((0.375 + 0.75) / 2)
    levels = {"levels": [0.0, 0.2, 1.0]}
    runs = [{"a:frames": {**levels, "fused": [1.0, x, 0.5], "itself": [x] * 3}} for x in (0.8, 0.9)]
    found = robustness.summarize(runs)["a:frames"]
    assert found["area"]["seeds"] == pytest.approx([0.7, 0.75]) and found["axis"] == [0, 0.2, 1]
    assert found["area"]["std"] == pytest.approx(0.05 / math.sqrt(2))
    assert found["drop"]["mean"] == pytest.approx(0.275)
    flat = robustness.summarize([{"a:frames": {**levels, "fused": [0.6] * 3, "itself": [0.6] * 3}}])
    worse = {"drop": {"seeds": [0.0, 0.1]}}
    assert robustness.effective(found, worse)["seeds"] == pytest.approx([-0.3, -0.15])
    text = "\n".join(
        robustness.sections({"x": {"a:frames": found}, "y": flat | {"b:noise": found}})
    )
    assert "| x | 1.000 ± 0.000 | 0.725 ± 0.035 | – |" in text and "| y | 0.600 | 0.600 |" in text
    assert robustness.baseline_of("mla, epochs=2") == "late_fusion, epochs=2"
    assert "Not measured" in robustness.sections({})[1]


def test_the_command_evaluates_a_corrupted_split(row, capsys):
    usual = [f"--run={row[0]}"]
    assert evaluate.main([*usual, "--corrupt=audio:snr=inf"]) == 0
    assert evaluate.main(usual) == 0
    first, second = capsys.readouterr().out.split("mla on digits")[1:]
    assert first.partition("\n")[2] == second.partition("\n")[2]
    options = ["--corrupt=audio:frames=1", "--corrupt=text:dropout=1"]
    assert evaluate.main([*usual, *options, "--subsets"]) == 0
    said = capsys.readouterr().out
    assert "with audio:frames=1 and text:dropout=1:" in said and said.count("0.1000") >= 3
    assert evaluate.main([*usual, "--corrupt=text:snr=0"]) == 2
    error = capsys.readouterr().err
    assert "'snr' does not apply to 'text' of the kind tokens" in error
    assert ": take dropout" in error and error.count("\n") == 1


def test_the_study(commands, tmp_path):
    """Repeated, it evaluates nothing again."""
    options = ["--config=tests/configs/tiny.py", "--config.epochs=1", "--study=noise", "--seeds=0"]
    options += ["--config.selection=last", f"--workdir={tmp_path / 'study'}"]
    done = commands.run("tests.small_study", options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("robustness of ") == len(ROWS)
    found = json.loads((tmp_path / "study" / "comparison.json").read_text())
    rows = found["study"]["robustness"]
    assert list(rows) == [row["label"] for row in found["rows"]]
    assert all("effective" in panel for row in rows.values() for panel in row.values())
    assert rows["mla"]["audio:snr"]["levels"][0] is None
    for label in ("mla", "late_fusion"):
        clean = next(row for row in found["rows"] if row["label"] == label)["test"]
        assert rows[label]["text:dropout"]["fused"][0][0] == clean["fused"][0]
    assert not undocumented(rows, [*rows, "audio:snr", "audio:frames", "text:dropout"])
    assert (tmp_path / "study" / robustness.PLOT).stat().st_size > 10_000
    again = commands.run("tests.small_study", options)
    assert again.returncode == 0 and "robustness of " not in again.stdout
    assert json.loads((tmp_path / "study" / "comparison.json").read_text()) == found
