"""A run looks at itself without changing what it computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import methods, telemetry
from mla_jax.compare import forgetting
from mla_jax.config import fields
from mla_jax.evaluate.shapley import shapley_values
from mla_jax.functional.losses import cross_entropy, masked_mean
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import build_program
from mla_jax.runs import telemetry_plot
from tests.conftest import TINY, build_config, build_dataset, digits_program, fresh_state
from tests.runs import PER_EPOCH, config_of, quietly

CONV = {"name": "conv2d", "widths": (4,)}
LINEAR = {"name": "features", "projection": "linear"}
INFO = StepInfo(*map(np.int32, (0, 0, 6)))


def prepared(method, **options):
    """A method on two modalities of which some examples lack one: stages, state, batch, probe."""
    names = ("a",) if methods.trains_one_modality(method) else ("a", "b")
    dataset = build_dataset(names, missing=0.2)
    config = fields.resolve(build_config(names, method, encoder=LINEAR, **options))
    program = build_program(config, dataset, jax.devices()[:1])
    batch = dataset.splits["train"].fetch(np.arange(16))
    return program.method, fresh_state(program, dataset), batch, telemetry.probe_batch(dataset, 32)


@functools.cache
def mla_in_its_third_batch():
    """MLA after two batches, where P is not the identity any more, and what it measures then."""
    method, state, batch, probe = prepared("mla")
    phases = method.stages[0].phases
    steps = [jax.jit(phase.update) for phase in phases]
    for _ in range(2):
        for step in steps:
            state, _ = step(state, batch, INFO)
    return method, steps, state, batch, probe, measured(method, state, batch, probe)


def measured(method, state, batch, probe):
    phases = method.stages[0].phases
    measure = functools.partial(telemetry.measure, method, True, phases)
    found = jax.jit(measure)(state, batch, INFO, probe)
    return jax.tree.map(float, found)


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_every_method_can_be_measured(name):
    method, state, batch, probe = prepared(name)
    for stage in method.stages:
        if stage.phases:
            measure = functools.partial(telemetry.measure, method, True, stage.phases)
            found = jax.eval_shape(measure, state, batch, INFO, probe)
            assert set(found["loss"]) == set(method.modalities)
            assert set(found["head_step"]) == {phase.name for phase in stage.phases}
            assert all(leaf.shape == () for leaf in jax.tree.leaves(found))


def test_head_steps_are_those_of_the_phases():
    method, steps, state, batch, probe, found = mla_in_its_third_batch()

    def loss(encoders, head, m):
        variables = {**state.variables, "params": {"encoder": encoders, "head": head}}
        logits = method.predict(variables, probe).unimodal[m]
        return masked_mean(cross_entropy(logits, probe["label"]), probe["present"][:, m])

    for step, phase in zip(steps, ("a", "b"), strict=True):
        after, _ = step(state, batch, INFO)
        for m, name in enumerate(("a", "b")):
            encoders, old, new = state.params["encoder"], state.params["head"], after.params["head"]
            change = loss(encoders, new, m) - loss(encoders, old, m)
            told = found["head_step"][phase]["taken"][name]
            np.testing.assert_allclose(told, change, rtol=1e-3, atol=1e-6)
            assert abs(told) > 1e-4
        state = after


def test_the_counterfactual_is_a_run_without_projection():
    """From one state the step is that of ``projection.enabled=false``."""
    _, _, state, batch, probe, found = mla_in_its_third_batch()
    plain, *_ = prepared("mla", **{"method.projection.enabled": False})
    head = state.opt_state["head"]["shared"]
    unprojected = state.replace(opt_state={**state.opt_state, "head": {"shared": head[1]}})
    told = measured(plain, unprojected, batch, probe)["head_step"]["a"]
    assert set(told) == {"taken", "gradient"}
    for name, value in told["gradient"].items():
        np.testing.assert_allclose(found["head_step"]["a"]["unprojected"][name], value, rtol=1e-4)
    assert found["head_step"]["a"]["gradient"]["length"] < told["gradient"]["length"]


def test_the_same_length_is_the_same_length():
    *_, found = mla_in_its_third_batch()
    for steps in found["head_step"].values():
        lengths = [steps[name]["length"] for name in ("same_length", "gradient", "taken")]
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)
        assert lengths[1] < 0.9 * lengths[2]  # which has momentum
        assert steps["same_length"]["b"] != steps["gradient"]["b"]


def test_without_a_step_yet_the_projection_changes_nothing():
    method, state, batch, probe = prepared("mla")
    steps = measured(method, state, batch, probe)["head_step"]["a"]  # P is still the identity
    for name in ("gradient", "unprojected", "same_length"):  # and there is no momentum
        assert steps["taken"] == pytest.approx(steps[name], rel=1e-4, abs=1e-7)


def test_with_adam_only_the_step_taken_is_measured():
    method, state, batch, probe = prepared("mla", **{"optimizer.name": "adam"})
    found = jax.eval_shape(
        functools.partial(telemetry.measure, method, True, method.stages[0].phases),
        *(state, batch, INFO, probe),
    )
    assert set(found["head_step"]["a"]) == {"taken"}
    assert "projection" in found


@pytest.mark.parametrize(
    "switch, value", [("order", "update_then_project"), ("apply", "add"), ("denominator", None)]
)
def test_counterfactuals_need_a_projection_that_is_a_product(switch, value):
    options = {f"method.projection.{switch}": value or "elementwise"}
    config = fields.resolve(build_config(("a", "b"), "mla", encoder=LINEAR, **options))
    assert telemetry.acts_as_product(config) == (value is None)
    method, state, batch, probe = prepared("mla", **options)
    measure = functools.partial(telemetry.measure, method, value is None, method.stages[0].phases)
    found = jax.eval_shape(measure, state, batch, INFO, probe)
    assert ("same_length" in found["head_step"]["a"]) == (value is None)
    assert ("head_cosine_projected" in found) == (value is None)


@pytest.mark.parametrize(
    ("method", "encoder", "devices"),
    [("mla", LINEAR, 2), ("late_fusion", LINEAR, 1), ("mla", CONV, 1)],
)
def test_the_parts_as_programs_of_their_own(method, encoder, devices, monkeypatch, caplog):
    """With many modalities: what one program measures, compiled part by part."""
    names = ("a", "b", "c")
    dataset = build_dataset(names, missing=0.2)
    options = {}
    if encoder is CONV:  # then the gradients are by program, too
        options["fidelity"], split = "released", dataset.splits["train"]
        inputs = {m: np.repeat(x, 6, 1).reshape(-1, 6, 6, 1) for m, x in split.inputs.items()}
        dataset.splits["train"] = split._replace(inputs=inputs)
    config = fields.resolve(build_config(names, method, encoder=encoder, **options), devices)
    program = build_program(config, dataset, jax.devices()[:devices])
    state, place = fresh_state(program, dataset), program.placement
    state = place.replicate(state)
    batch = place.shard(dataset.splits["train"].fetch(np.arange(16)))
    probe = place.replicate(telemetry.probe_batch(dataset, 32))
    (stage,) = program.method.stages
    found, measured = [], []
    for apart in (99, 2):
        monkeypatch.setattr(telemetry, "APART", apart)
        measured.append(telemetry.Measured(program.method, True, stage.phases))
        found.append(measured[-1](state, batch, INFO, probe))
    assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), *found)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        measured[1](state, batch, INFO, probe)
    assert "compilation of" not in caplog.text  # every program is found again


def test_norms_and_cosines():
    method, _, state, _, probe, found = mla_in_its_third_batch()
    kernel = state.params["head"]["shared"]["kernel"]

    def gradient(m):
        def loss(head):
            params = {**state.params, "head": {"shared": head}}
            logits = method.predict({**state.variables, "params": params}, probe).unimodal[m]
            return masked_mean(cross_entropy(logits, probe["label"]), probe["present"][:, m])

        found = jax.grad(loss)(state.params["head"]["shared"])
        return np.concatenate([np.ravel(found["kernel"]), np.ravel(found["bias"])])

    a, b = gradient(0), gradient(1)
    assert kernel.shape == (8, 3)
    np.testing.assert_allclose(found["gradient_norm"]["a"]["head"], np.linalg.norm(a), rtol=1e-4)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(found["head_cosine"]["a,b"], cosine, atol=1e-5)
    assert found["update_norm"]["a"]["encoder/b"] == 0 < found["update_norm"]["a"]["encoder/a"]


def test_spectrum():
    P = jnp.diag(jnp.array([1.0, 1.0, 0.0, 0.0]))
    found = telemetry.spectrum(P)
    assert [round(float(found[key]), 5) for key in ("largest", "median", "smallest")] == [1, 0.5, 0]
    np.testing.assert_allclose(found["effective_rank"], 2, rtol=1e-5)
    np.testing.assert_allclose(telemetry.spectrum(jnp.eye(5))["effective_rank"], 5, rtol=1e-5)


def test_discrepancy_ratio():
    """A modality that is certain of the right class, beside one that guesses among four."""
    label = jnp.array([0, 3])
    logits = jnp.stack([100 * jax.nn.one_hot(label, 4), jnp.zeros((2, 4))])
    found = telemetry.discrepancy_ratios(logits, label, jnp.ones((2, 2), bool), ("a", "b"))
    assert {m: round(float(value), 4) for m, value in found.items()} == {"a": 4.0, "b": 0.25}


def test_a_run_is_the_same_with_telemetry(tmp_path):
    program, dataset = digits_program("mla")
    plain = quietly(config_of("mla"), tmp_path / "plain", program)
    config = config_of("mla", **{"telemetry.every_steps": 10, "telemetry.examples": 64})
    watched = quietly(config, tmp_path / "watched", program)
    jax.tree.map(np.testing.assert_array_equal, plain.load(), watched.load())
    assert plain.result["test"] == watched.result["test"]
    assert "contributions" not in plain.result
    lines = forgetting.measurements(watched.metrics)
    assert [line["step"] for line in lines] == list(range(1, 3 * PER_EPOCH + 1, 10))
    assert not forgetting.measurements(plain.metrics)
    assert (watched.path / "telemetry.png").stat().st_size > 10_000
    assert "(telemetry.png)" in (watched.path / "report.md").read_text()
    assert not (plain.path / "telemetry.png").exists()
    axes = telemetry_plot.plot(watched.metrics).axes
    assert len(axes) == 5 and all(ax.lines for ax in axes)
    at = [line["step"] / PER_EPOCH for line in lines]
    np.testing.assert_allclose(axes[0].lines[0].get_xdata(), at)
    total = sum(watched.result["contributions"].values())
    commonest = np.bincount(dataset.splits["test"].label).max() / 950
    assert total == pytest.approx(watched.result["test"]["fused"] - commonest)

    again = fields.resolve(config)
    other = build_program(again, dataset, jax.devices()[:1])
    batch = dataset.splits["train"].fetch(np.arange(64))
    batch |= {"valid": np.ones(64, bool), "draw": np.zeros(64, np.uint32)}
    state = fresh_state(program, dataset)
    texts = [p.dispatches["alternate"].lower(0, state, batch, INFO) for p in (program, other)]
    assert texts[0].as_text() == texts[1].as_text()


def test_a_resumed_run_measures_what_an_unbroken_one_does(tmp_path):
    program, _ = digits_program("mla")
    fields_of = {"telemetry.every_steps": 10, "telemetry.examples": 64, "epochs": 1}
    fields_of["optimizer.decay_every"] = 70  # else the schedule would depend on the length
    quietly(config_of("mla", **fields_of), tmp_path / "cut", program)
    fields_of["epochs"] = 2
    cut = quietly(config_of("mla", **fields_of), tmp_path / "cut", program)
    whole = quietly(config_of("mla", **fields_of), tmp_path / "whole", program)
    assert forgetting.measurements(cut.metrics) == forgetting.measurements(whole.metrics)


def test_shapley_values():
    """A hand-made game of three: c adds nothing, a and b are worth it only together."""
    values = {"a": 0, "b": 0, "c": 0, "a+b": 1, "a+c": 0, "b+c": 0, "a+b+c": 1}
    assert shapley_values("abc", values, 0) == {"a": 0.5, "b": 0.5, "c": 0.0}
    rng = np.random.default_rng(0)
    values = {name: rng.random() for name in values}
    assert sum(shapley_values("abc", values, 0.1).values()) == pytest.approx(values["a+b+c"] - 0.1)


def line(epoch, a_on_b, unprojected, same_length):
    def step(value):
        return {"length": 1.0, "a": -1.0, "b": value}

    steps = {"gradient": a_on_b, "unprojected": unprojected, "same_length": same_length}
    steps["taken"] = 7.0
    step_of = {name: step(value) for name, value in steps.items()}
    found = {"loss": {"a": 1.0, "b": 1.0}, "head_step": {"a": step_of, "b": step_of}}
    return {"event": "telemetry", "step": epoch, "epoch": epoch, "telemetry": found}


def test_forgetting_is_added_up():
    runs = [[line(1, 1e-3, 5e-3, 3e-3), line(2, 3e-3, 7e-3, 5e-3), {"epoch": 2, "step": 9}]]
    runs.append([line(1, 0.0, 0.0, 0.0), line(2, 0.0, 0.0, 2e-3)])
    found = forgetting.summarize(runs)["a>b"]
    assert found["gradient"]["seeds"] == pytest.approx([2e-3, 0.0])
    assert found["prevented"]["seeds"] == pytest.approx([2e-3, 1e-3])
    # Student's t with one degree of freedom: 12.706 standard errors, here 0.5e-3.
    assert found["prevented"]["interval"] == pytest.approx((-4.853e-3, 7.853e-3), abs=1e-6)
    text = forgetting.table({"mla": forgetting.summarize(runs)})
    assert "| 1.000 [-11.706, 13.706] |" in text
    both = forgetting.summarize(runs)
    values = [both[pair]["prevented"]["mean"] for pair in ("a>b", "b>a", "all>all")]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2)
    assert both["all>itself"]["gradient"]["mean"] == pytest.approx(-0.4995)  # by hand
    runs[0][0]["telemetry"]["head_step"]["b"]["gradient"]["a"] = -5e-3
    both = forgetting.summarize(runs[:1])
    # a on b: 1e-3, 3e-3; b on a: -5e-3, -1
    assert both["all>others (size)"]["gradient"]["mean"] == pytest.approx(1.009 / 4)
    assert both["all>all"]["gradient"]["mean"] == pytest.approx(-1.001 / 4)
    assert both["all>others (harm)"]["gradient"]["mean"] == pytest.approx(0.004 / 4)
    epochs, values = forgetting.by_epoch(runs, "gradient", "a", "b")
    assert epochs.tolist() == [1, 2]
    np.testing.assert_allclose(values, [[1e-3, 3e-3], [0, 0]])
    assert len(forgetting.plot(runs).axes) == 2


def test_joint_training_has_no_pairs():
    joint = line(1, 0, 0, 0)
    joint["telemetry"]["head_step"] = {"joint": joint["telemetry"]["head_step"]["a"]}
    assert forgetting.summarize([[joint]]) == {} == forgetting.summarize([[]])


def test_runs_that_measured_at_other_batches_are_not_added_up():
    runs = [[line(1, 0, 0, 0), line(2, 0, 0, 0)], [line(1, 0, 0, 0)]]
    assert forgetting.summarize(runs) == {} == forgetting.summarize([runs[0], []])
    assert len(forgetting.sections({"mla": {}})) == 2  # no table, and no picture


def test_the_study_of_forgetting_can_be_run_again(commands, tmp_path):
    """Its picture is no stranger in its folder, and what is finished is not trained again."""
    options = [f"--config={TINY}", "--study=forgetting", "--seeds=0", f"--workdir={tmp_path / 'f'}"]
    options += ["--config.epochs=1", "--config.telemetry.examples=32"]
    texts = []
    for _ in range(2):
        done = commands.run("mla_jax.compare", options)
        assert done.returncode == 0, done.stderr
        texts.append((tmp_path / "f" / "comparison.md").read_text())
        assert (tmp_path / "f" / forgetting.PLOT).stat().st_size > 1000
    assert texts[0] == texts[1] and "| mla | audio | text |" in texts[0]
