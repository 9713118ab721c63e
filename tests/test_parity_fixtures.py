"""The reference's numbers, stored, against ours: every fidelity mode, without PyTorch."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from mla_jax.parity import __main__ as parity
from mla_jax.parity import columns, compare, fixtures, ours, recursion, rows
from mla_jax.parity.columns import COLUMNS, MLA
from mla_jax.parity.ours.compiled import CompiledMethod

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
OTHERS = [f"method_{name}" for name in fixtures.METHODS]
MISSING = [f"missing_{name}" for name in columns.MISSING]
NAMES = [*(f"toy_{mode}" for mode in MLA), "resnet18", "optimizers", *OTHERS, *MISSING]
NAMES.append("transformers")
UNIMODAL, FUSED = "unimodal logits, evaluation", "fused logits"
NO_QUANTITY = (rows.INITIAL, rows.TRAINED)


@functools.cache
def stored(name):
    with np.load(FIXTURES / f"{name}.npz") as file:
        return fixtures.unpacked({key: file[key] for key in file.files})


@pytest.mark.parametrize("name", NAMES)
def test_replay(name):
    verdicts = fixtures.replay(name, stored(name))
    assert jax.config.values["jax_disable_most_optimizations"], "the rest of the suite wants it"
    quantities = [key for key in stored(name) if not key.startswith(NO_QUANTITY)]
    assert {key.partition("/")[0] for key in quantities} == set(verdicts)
    failed = compare.failures({"released": verdicts})
    assert not failed, "\n".join(failed)


def test_every_fixture_is_replayed_and_small():
    assert sorted(path.stem for path in FIXTURES.glob("*.npz")) == sorted(NAMES)
    assert all(path.stat().st_size < fixtures.LIMIT for path in FIXTURES.glob("*.npz"))
    assert all((FIXTURES / f"{name}.npz").stat().st_size < 100_000 for name in OTHERS)


@pytest.mark.parametrize(
    ("name", "switches", "wrong", "right"),
    [
        ("sum", {"unimodal_bias": "full"}, "unimodal logits, evaluation", "fused logits"),
        (
            "dimml_fused",
            {"certainty_temperature": 1.0},
            "fused logits",
            "unimodal logits, evaluation",
        ),
    ],
)
def test_a_switch_of_a_method_set_wrong_is_noticed(name, switches, wrong, right):
    """Of evaluation, which is soon compiled; for the others see the tests of their parts."""
    fixture = stored(f"method_{name}")
    compiled = CompiledMethod(COLUMNS[name], COLUMNS[name].toy(), **switches)
    trained = rows.without_prefix(fixture, rows.TRAINED)
    learnt = {"fused": np.array(True)} if name == "dimml_fused" else None
    found = ours.joint.evaluate(compiled, trained, learnt)
    found = {key: value for key, value in found.items() if key in fixture}
    verdicts = compare.compare({key: fixture[key] for key in found}, found)
    assert not verdicts[wrong].passed
    assert verdicts[right].passed, "only what the switch concerns may differ"


def test_the_stored_numbers_are_not_degenerate():
    """OGM slows one modality and then another; QMF ranks; both of DI-MML's modalities teach."""
    for name in ("ogm_ge", "ogm_three"):
        fixture = stored(f"method_{name}")
        modulated = {
            key.split()[-1] for key, k in fixture.items()
            if key.startswith("coefficient k") and k < 0.99
        }  # fmt: skip
        assert modulated >= {"audio", "visual"}, name
    fixture = stored("method_qmf")
    assert any(v > 1e-3 for key, v in fixture.items() if key.startswith("ranking loss"))
    fixture = stored("method_dimml_duc")
    for key, mask in fixture.items():
        assert not key.startswith("dimensions that teach") or 0 < mask.sum() < len(mask)
    assert abs(fixture["DUC loss/batch 1"] - 2 * np.log(8)) > 0.05, "some are told apart"
    for name in fixtures.METHODS:
        for key, value in stored(f"method_{name}").items():
            assert not key.startswith("gradient of") or np.abs(value).max() > 0, (name, key)


def test_only_encoders_differ_between_concatenation_and_its_modulation():
    plain, slowed = stored("method_concat"), stored("method_ogm_ge")
    rows = ("features, training", "logits", "loss", "gradient of the head", "parameters after 1")
    same = {
        key: np.array_equal(plain[key], slowed[key]) for key in plain if key.split("/")[0] in rows
    }
    differing = {key for key, equal in same.items() if not equal}
    assert differing and all("parameters after 1/params/encoder" in k for k in differing)
    assert all(key.endswith("kernel") for key in differing), "kernels of convolutions only"


def replay_training(name, broken):
    """Our toy training with another switch, against the mode's fixture."""
    compiled = CompiledMethod(COLUMNS[name], COLUMNS[name].toy(), broken=broken)
    found = ours.mla.train(compiled, compiled.start({}))
    fixed = {n: v for n, v in stored(f"toy_{name}").items() if n in found}
    return compare.compare(fixed, found)


@pytest.mark.parametrize(
    ("name", "broken", "row"),
    [
        ("released", "zero_grad_drift", "parameters after 1"),
        ("released_torch1", "zero_grad_drift", "parameters after 1"),
        ("first_drop", "projection_order", "gradient of the head, projected"),
        ("paper", "projection_order", "gradient of the head, projected"),
    ],
)
def test_a_switch_set_wrong_is_noticed(name, broken, row):
    verdicts = replay_training(name, broken)
    assert not verdicts[row].passed
    assert verdicts["features, training"].passed, "only what the switch concerns may differ"


def test_the_modes_are_different_algorithms():
    ends = [stored(f"toy_{mode}")["parameters after 3/params/head/shared/kernel"] for mode in MLA]
    for i, a in enumerate(ends):
        for b in ends[i + 1 :]:
            assert np.abs(a - b).max() > 1e-4 * np.abs(a).max()


def test_the_released_projection_never_runs():
    fixture = stored("toy_released")
    for name, value in fixture.items():
        if name.startswith("projection matrix"):
            np.testing.assert_array_equal(value, np.eye(16))


def test_paper_projection_in_the_specification_s_example():
    means, alphas = np.array([[1.0, 1, 2], [1, 0, 1]]), (0.1, 0.1**1.5)
    G, P = np.array([[1.0, 0, -1], [0.5, 2, 0]]), np.eye(3)
    assert (recursion.project(G, P) == G).all()
    P = recursion.update(P, means[0], alphas[0])
    expected = [[1.163934, 0.163934, -0.672131], [0.090164, 1.590164, -0.819672]]
    np.testing.assert_allclose(recursion.project(G, P), expected, atol=1e-6)
    P = recursion.update(P, means[1], alphas[1])
    np.testing.assert_allclose(P[0], [0.371740, 0.285413, -0.342847], atol=1e-6)


def test_verdicts():
    good = {"loss/a": np.array([1.0]), "predictions/x": np.array([1, 2])}
    assert not compare.failures({"paper": compare.compare(good, good)})
    for bad in (
        {**good, "loss/a": np.array([1.0 + 1e-4])},
        {**good, "loss/a": np.array([np.nan])},
        {**good, "loss/a": np.array([np.nan]), "loss/b": np.array([1.0])},
        {**good, "loss/a": np.array([1.0, 1.0])},
        {**good, "predictions/x": np.array([1, 3])},
        {"loss/a": good["loss/a"]},
        {**good, "loss/b": np.array([1.0])},
    ):
        assert len(compare.failures({"paper": compare.compare(good, bad)})) == 1
    assert not compare.compare(good, {**good, "loss/a": np.array([1 + 1e-8])}, True)["loss"].passed


def test_reports(tmp_path):
    table = {"paper": compare.compare({"loss/a": np.ones(1)}, {"loss/a": np.ones(1) * 2})}
    compare.write(tmp_path, table, ["a note"], {"float64": False})
    content = json.loads((tmp_path / "parity.json").read_text())
    assert not content["passed"] and not content["modes"]["paper"]["loss"]["passed"]
    assert "| loss | 1e-05 | 1.0e+00 / 1.0e+00 **out** |" in (tmp_path / "parity.md").read_text()


def test_a_wrong_path_names_the_missing_file_and_no_torch_is_said(tmp_path):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import mla_jax.parity.__main__, mla_jax.convert\n"
        "sys.exit(mla_jax.parity.__main__.main(sys.argv[1:]))"
    )

    def run():
        command = [sys.executable, "-c", program, f"--reference={tmp_path}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 2
    assert f"{tmp_path / 'main.py'} not found" in done.stderr and "Traceback" not in done.stderr
    from mla_jax.parity.theirs.clones import REPOSITORIES

    for name in REPOSITORIES["reference"].required:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    done = run()
    assert done.returncode == 2
    assert "pip install torch" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "one or several of --reference=PATH, --dimml=PATH, --gcnet=PATH"),
        (["--reference=x", "--modes=film"], "mode film is compared with a clone that --dimml=PATH"),
        (["--dimml=x", "--modes=qmf"], "mode qmf is compared with a clone that --reference=PATH"),
        (["--reference=x", "--modes=qfm"], "did you mean 'qmf'"),
        (["--reference=x", "--modes=qmf", "--break=epsilon"], "--break is for MLA's modes"),
        (["--dimml=/nowhere"], "main_CFT.py not found: --dimml should be a clone of"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence, capsys):
    assert parity.main(arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("switch", "wrong", "right"),
    [
        ({"reconstruction_weight": 2.7}, "loss, later batches", "logits"),
        ({"head_layers": (12,)}, None, None),
    ],
)
def test_a_switch_of_ae_set_wrong_is_noticed(switch, wrong, right):
    column = COLUMNS["gcnet_ae"]
    column = column._replace(switches={**column.switches, **switch})
    fixture = stored("missing_gcnet_ae")
    if wrong is None:
        with pytest.raises(ValueError, match="our ae has no"):
            ours.run(column, None, fixture, np.float32)
        return
    found = ours.run(column, None, fixture, np.float32)
    verdicts = compare.compare(rows.quantities(fixture), found)
    assert not verdicts[wrong].passed
    assert verdicts[right].passed, "only what the switch concerns may differ"
