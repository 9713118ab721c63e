"""Intervals and tests between the rows of a comparison, against known values."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from mla_jax.compare import ranks, statistics, table
from mla_jax.errors import UserError
from mla_jax.evaluate import Classes
from mla_jax.runs.predictions import read_classes, save_classes


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (3, 11), (11, 3), (40, 41), (900, 1100)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    first = np.repeat([True, False, True, False], [b, c, 5, 7])
    second = np.repeat([False, True, True, False], [b, c, 5, 7])
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert statistics.mcnemar(second, first) == statistics.mcnemar(first, second)


def test_mcnemar_far_out_and_of_many():
    few, many = np.zeros(3000, bool), np.ones(3000, bool)
    assert statistics.mcnemar(few, many) == 0.0  # 2^-2999
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 200_000)) < 0.5
    b, c = (first & ~second).sum(), (second & ~first).sum()
    expected = stats.binomtest(int(b), int(b + c)).pvalue
    assert statistics.mcnemar(first, second) == pytest.approx(expected, rel=1e-6)


def test_holm_by_hand():
    found = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 3 x .01, .06, 2 x .03, 4 x .005
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_mean_and_std():
    assert statistics.mean_and_std([1, 2, 3]) == (2.0, 1.0)
    mean, std = statistics.mean_and_std([0.5])
    assert mean == 0.5 and math.isnan(std)


def drawn(rng, seeds: int, examples: int, rows: int = 1, shift: float = 0.0) -> np.ndarray:
    """``bool[R, S, N]`` of rows with accuracy ``Phi(1 / sqrt(2.04))``: examples are harder or
    easier for all rows, seeds are better or worse; ``shift`` makes the first row better."""
    hard, noise = rng.normal(size=examples), rng.normal(size=(rows, seeds, examples))
    own = 0.2 * rng.normal(size=(rows, seeds, 1))
    return 1 + shift * (np.arange(rows) == 0)[:, None, None] + hard + own + noise > 0


TRUTH = stats.norm.cdf(1 / math.sqrt(1 + 1 + 0.2**2))


def test_the_interval_covers_and_the_test_keeps_its_level(monkeypatch):
    """If it covered in just 93 %, and rejected in 7 %, this fails with probability 3 in 10,000."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    monkeypatch.setattr(statistics, "FEWEST_RESAMPLES", 500)
    rng, times, covered, rejected = np.random.default_rng(0), 100, 0, 0
    for _ in range(times):
        found = statistics.resampled_accuracies(drawn(rng, 4, 100, rows=2))
        low, high = statistics.percentile_interval(found[:, 0])
        covered += low <= TRUTH <= high
        rejected += statistics.bootstrap_p(found[:, 0] - found[:, 1]) <= 0.05
    most = 18
    assert stats.binom.sf(most, times, 0.07) < 3e-4 / 2
    assert times - covered <= most and rejected <= most


def test_the_variance_is_that_of_seeds_plus_that_of_examples():
    """Where every example is the same, there are seeds alone, and the reverse."""
    seeds = np.array([0.1, 0.4, 0.3, 0.9])
    by_seed = np.arange(1000) < 1000 * seeds[:, None]
    shuffled = np.random.default_rng(0).permuted(by_seed, axis=1)
    found = statistics.resampled_accuracies(shuffled[None])
    assert found.std() == pytest.approx(seeds.std(ddof=1) / 2, rel=0.05)
    examples = np.broadcast_to(np.arange(400) < 300, (1, 3, 400))
    found = statistics.resampled_accuracies(examples)
    assert found.std() == pytest.approx(math.sqrt(0.75 * 0.25 / 400), rel=0.05)
    assert found.mean() == pytest.approx(0.75, abs=0.002)


def test_bootstrap_p():
    assert statistics.bootstrap_p(np.zeros(99)) == 1.0
    assert statistics.bootstrap_p(np.ones(99)) == pytest.approx(2 / 100)
    differences = np.repeat([-1.0, 1.0], [10, 89])
    assert statistics.bootstrap_p(differences) == pytest.approx(2 * 11 / 100)
    assert statistics.bootstrap_p(-differences) == statistics.bootstrap_p(differences)


def test_rows_against_the_best():
    correct = drawn(np.random.default_rng(0), 3, 600, rows=4, shift=1.0)
    correct[1] = correct[0]
    correct[1, :, :3] = False  # nearly as good
    found = statistics.compare_rows(dict(zip("abcd", correct, strict=True)))
    assert (found["best"], found["seeds"], found["examples"]) == ("a", 3, 600)
    assert [row["bold"] for row in found["rows"].values()] == [True, True, False, False]
    for name, own in zip("bcd", correct[1:], strict=True):
        row = found["rows"][name]
        assert row["difference"] == pytest.approx(correct[0].mean() - own.mean())
        low, high = row["difference_interval"]
        assert low <= row["difference"] <= high and row["p"] <= row["p_holm"]
        assert (low > 0) == (row["p"] < 0.05)
        by_seed = [statistics.mcnemar(x, y) for x, y in zip(correct[0], own, strict=True)]
        assert row["mcnemar_by_seed"] == by_seed and row["mcnemar"] == np.median(by_seed)
    assert "p" not in found["rows"]["a"]
    assert found == statistics.compare_rows(dict(zip("abcd", correct, strict=True)))


@pytest.mark.parametrize("classes", [3, 40_000])
def test_predictions_are_read_as_they_were_written(tmp_path, classes):
    rng = np.random.default_rng(0)
    unimodal = rng.integers(-1, classes, (2, 50)).astype(np.int32)
    fused, label = rng.integers(0, classes, (2, 50)).astype(np.int32)
    fused[0] = classes - 1
    wanted = Classes(("a", "b"), fused, unimodal, label)
    save_classes(tmp_path / "p.npz", wanted)
    found = read_classes(tmp_path / "p.npz")
    assert found.modalities == wanted.modalities
    for got, array in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(got, array)
    with np.load(tmp_path / "p.npz") as file:
        assert file["fused"].dtype == (np.int16 if classes == 3 else np.int32)
        np.testing.assert_array_equal(file["present"], (unimodal >= 0).T)
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_no_predictions_and_damaged_ones(tmp_path):
    assert read_classes(tmp_path / "p.npz") is None
    (tmp_path / "p.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"p\.npz is damaged"):
        read_classes(tmp_path / "p.npz")


def test_the_table_marks_rows_and_has_dashes():
    row = {
        "label": "mla", "switches": {}, "fidelity": "paper", "test": {"fused": [0.5, 0.6]},
        "interval": {"fused": (0.5, 0.6)}, "seconds": [1.0, 1.0], "examples_per_second": 1.0,
        "parameters": 1, "compile_seconds": 1.0, "flops": None,
    }  # fmt: skip
    assert len(table.columns(["fused"])) == len(table.cells(row, ["fused"]))
    assert table.cells(row, ["fused"])[2:5] == ["[0.500, 0.600]", "–", "–"]
    found = {"interval": [0.4, 0.7], "p_holm": 1e-4, "bold": False}
    cells = table.cells(row, ["fused"], {"rows": {"mla": found}})
    assert cells[3:5] == ["[0.400, 0.700]", "< 0.001"]
    assert not table.is_bold(row, None) and not table.is_bold(row, {"rows": {"mla": found}})
    assert table.marked([["mla", "0.5"]] * 2, [True, False], "**{}**") == [
        ["mla", "**0.5**"],
        ["mla", "0.5"],
    ]


# ---- Ranks over data sets ----------------------------------------------------------------------


def demsar() -> dict[str, list[float]]:
    """Four methods on 14 data sets with the mean ranks of Demsar 2006, section 3.2.2: 3.143, 2,
    2.893 and 1.964."""
    places = [(4, 1, 2, 3), (4, 2, 3, 1), (4, 3, 1, 2), (3, 2, 4, 1), (4, 2, 3, 1), (2, 1, 4, 3)]
    places += [(4, 2, 3, 1)] * 3 + [(3, 1, 4, 2), (1, 2.5, 2.5, 4), (1, 2, 3, 4)]
    places += [(3, 4, 1, 2), (3, 1.5, 3.5, 1.5)]
    return dict(zip("wxyz", (-np.array(places, float)).T.tolist(), strict=True))


def test_demsars_example():
    scores = demsar()
    found = ranks.friedman(scores)
    assert list(found.mean.values()) == pytest.approx([3.143, 2.0, 2.893, 1.964], abs=5e-4)
    assert found.statistic == pytest.approx(9.28, abs=0.005)
    assert found.f_statistic == pytest.approx(3.69, abs=0.005)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    q = found.critical_difference / math.sqrt(4 * 5 / (6 * 14))
    assert q == pytest.approx(2.569, abs=5e-4)
    assert found.p == pytest.approx(stats.f.sf(3.69, 3, 39), rel=0.02) and found.p < 0.05


def test_friedman_is_scipys_where_nothing_is_tied():
    values = np.random.default_rng(0).random((5, 9))
    found = ranks.friedman(dict(zip("abcde", values, strict=True)))
    assert found.statistic == pytest.approx(stats.friedmanchisquare(*values).statistic)


def test_cliques_and_the_diagram(tmp_path, drawing):
    from mla_jax.runs import plots

    found = ranks.Ranks({"d": 4.0, "a": 1.1, "c": 2.9, "b": 2.0}, 9, 1.0, 1.0, 0.01, 1.0)
    assert ranks.cliques(found) == [["a", "b"], ["b", "c"]]
    plots.save(ranks.critical_difference(found), tmp_path / "cd.png")
    assert (tmp_path / "cd.png").read_bytes().startswith(b"\x89PNG")
    apart = found._replace(critical_difference=0.1)
    assert ranks.cliques(apart) == []


@pytest.mark.parametrize(
    "scores",
    [{"a": [1, 2], "b": [1, 2]}, {"a": [1, 2, 3]}, {"a": [1, 2, 3], "b": [1, 2]},
     {"a": [1, 2, 3], "b": [1, 2, math.nan]}],
)  # fmt: skip
def test_what_cannot_be_ranked(scores):
    with pytest.raises(UserError, match="ranks need"):
        ranks.friedman(scores)


# ---- Runs --------------------------------------------------------------------------------------


def finished(folder, label, correct, seed=0):
    """A folder that looks like a finished run."""
    folder.mkdir(parents=True)
    test = {"examples": len(label), "macro_f1": {"fused": 0.5}, "fused": 0.5}
    train = dict.fromkeys(("epochs", "steps"), 1) | {"stages": {}, "seconds": 1.0}
    train |= dict.fromkeys(("examples_per_second", "compile_seconds", "evaluate_seconds"), 1.0)
    words = dict.fromkeys(("dataset", "method", "fidelity", "protocol", "device", "commit"), "x")
    result = words | {
        "seed": seed, "parameters": 1, "versions": {}, "selection": {"rule": "last", "epoch": 1},
        "test": test, "train": train,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    fused = np.where(correct, label, label + 1).astype(np.int32)
    save_classes(folder / "predictions.npz", Classes(("a",), fused, fused[None], label))
    return folder


def test_rows_that_cannot_be_paired_are_named(tmp_path):
    label = np.arange(40, dtype=np.int32) % 3
    rng = np.random.default_rng(0)
    rows = {
        name: [finished(tmp_path / f"{name}{s}", label, rng.random(40) < 0.7, s) for s in (0, 1)]
        for name in ("one", "two", "old")
    }
    rows["other seeds"] = [finished(tmp_path / f"s{s}", label, label == 0, s) for s in (0, 2)]
    rows["other data"] = [finished(tmp_path / f"d{s}", label[::-1], label == 0, s) for s in (0, 1)]
    rows["unimodal"] = [tmp_path / "unimodal" / "seed0", tmp_path / "unimodal" / "seed1"]
    (tmp_path / "old1" / "predictions.npz").unlink()
    found = statistics.of_runs(rows)
    assert set(found["rows"]) == {"one", "two"}
    assert set(found["without"]) == {"old", "other seeds", "other data", "unimodal"}
    assert "no predictions.npz" in found["without"]["old"]
    assert "seeds [0, 2]" in found["without"]["other seeds"]
    json.dumps(found)
    nothing = statistics.of_runs({"unimodal": rows["unimodal"]})
    assert nothing["best"] is None and nothing["rows"] == {}
