"""Arguments, checks and presets: what a user may write, and what a mistake is told."""

import json

import pytest
from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from mla_jax.config import fields, files
from mla_jax.config.command_line import ConfigFileParser
from mla_jax.config.fields import (
    base_config,
    completed,
    differing_fields,
    method_block,
    override,
    parse_arguments,
    resolve,
    to_json,
)
from mla_jax.errors import UserError, nearest

DEFAULTS = {
    "method": "mla",
    "modalities": ("image", "audio"),
    "seed": 0,
    "rate": 0.5,
    "fast": False,
}


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (None, {}),
        ("", {}),
        ("method=concat", {"method": "concat"}),
        ("modalities=text", {"modalities": ("text",)}),
        (
            "method=concat,modalities=image+audio+text",
            {"method": "concat", "modalities": ("image", "audio", "text")},
        ),
        ("seed=7,rate=1e-3", {"seed": 7, "rate": 1e-3}),
        ("fast", {"fast": True}),
        ("fast=true", {"fast": True}),
        ("fast=False", {"fast": False}),
        ("seed=3,", {"seed": 3}),
    ],
)
def test_arguments(text, changed):
    assert parse_arguments(text, **DEFAULTS).to_dict() == {**DEFAULTS, **changed}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metod=mla", "argument of the configuration 'metod'.*'method'"),
        ("zzz=1", "'zzz': known: fast, method"),
        ("seed=one", "'seed' of the configuration takes int, not 'one'"),
        ("seed=1.5", "'seed' of the configuration takes int, not '1.5'"),
        ("rate=much", "'rate' of the configuration takes float, not 'much'"),
        ("fast=perhaps", "'fast' of the configuration takes bool, not 'perhaps'"),
        ("seed", "'seed' of the configuration needs a value: seed="),
    ],
)
def test_wrong_arguments(text, words):
    with pytest.raises(UserError, match=words):
        parse_arguments(text, **DEFAULTS)


def changed(**overrides) -> ConfigDict:
    config = base_config()
    override(config, {name.replace("__", "."): value for name, value in overrides.items()})
    return config


def test_the_base_configuration_resolves_to_a_frozen_one():
    config = base_config()
    resolved = resolve(config)
    assert isinstance(resolved, FrozenConfigDict)
    assert resolved.method.projection.enabled is True
    assert resolved.method.fusion == "entropy"
    assert config.method.fusion is None, "the user's configuration must stay as it is"
    assert resolve(resolved) == resolved


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"epochs": -1}, "epochs must be at least 1, not -1"),
        ({"feature_dim": 0}, "feature_dim must be at least 1"),
        ({"check_loss_every": 0}, "check_loss_every must be"),
        ({"evaluation__batch_size": 0}, r"evaluation\.batch_size must be"),
        ({"evaluation__every_epochs": 0}, r"evaluation\.every_epochs must be"),
        ({"checkpoint__keep": 0}, r"checkpoint\.keep must be"),
        ({"checkpoint__every_epochs": -1}, r"checkpoint\.every_epochs must be at least 0, not -1"),
        ({"checkpoint__every_steps": -5}, r"checkpoint\.every_steps must be at least 0, not -5"),
        ({"optimizer__learning_rate": float("inf")}, r"learning_rate=inf must be a finite number"),
        ({"optimizer__learning_rate": float("nan")}, r"learning_rate=nan must be a finite number"),
        ({"optimizer__learning_rate": -0.1}, r"learning_rate must be at least 0, not -0\.1"),
        ({"optimizer__momentum": 1.5}, r"momentum must be at least 0 and at most 1, not 1\.5"),
        (
            {"optimizer__warmup_epochs": 5, "epochs": 4},
            r"optimizer\.warmup_epochs=5 is more than epochs=4, so the learning rate would never",
        ),
        ({"protocol": "strikt"}, "protocol 'strikt'.*'strict'"),
        ({"selection": "best"}, "selection 'best'.*best_test"),
        ({"compute_dtype": "float64"}, "compute_dtype 'float64'.*float32"),
        ({"modalities": ("a", "b", "a")}, r"twice: a\+b\+a"),
        ({"selection": "best_test"}, "set protocol=paper"),
        ({"method__name": "mlaa"}, "method 'mlaa'.*'mla'"),
        ({"method__fidelity": "relesed"}, "fidelity of method 'mla' 'relesed'.*'released'"),
        ({"method__fusion": "entropi"}, r"value of method\.fusion 'entropi'.*'entropy'"),
        ({"method__projection__order": "late"}, r"value of method\.projection\.order 'late'"),
        (
            {"method__name": "concat", "method__zero_grad_drift": True},
            "switch of method 'concat' 'zero_grad_drift'",
        ),
        (
            {"method__name": "late_fusion", "method__projection__alpha": 0.1},
            r"switch of method 'late_fusion' 'projection\.alpha'",
        ),
    ],
)
def test_what_resolve_refuses(overrides, words):
    with pytest.raises(UserError, match=words):
        resolve(changed(**overrides))


def test_every_number_of_a_configuration_has_its_limits():
    """A field that is added later must say what it may be, or this fails."""
    numbers = {
        name: value
        for name, value in fields.flatten(base_config().to_dict()).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
        if not name.startswith("method.")
    }
    assert numbers.keys() == fields.LIMITS.keys()
    for name, value in numbers.items():
        wrong = [-1, float("nan"), float("inf")] if isinstance(value, float) else [-1]
        for number in wrong:
            with pytest.raises(UserError, match=rf"^{name}[ =].*must be"):
                resolve(changed(**{name.replace(".", "__"): number}))


@pytest.mark.parametrize(("written", "value"), [("auto", "auto"), ("0", 0), ("2", 2)])
def test_the_number_of_workers_is_a_number_or_auto(written, value):
    options = ["main", "--config=tests/configs/tiny.py", f"--config.loader.workers={written}"]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=options)
    values["config"].parser = ConfigFileParser()
    values(options)
    resolved = resolve(values.config)
    assert resolved.loader.workers == value
    assert resolve(changed(loader__workers=value)).loader.workers == value
    saved = to_json(resolved) | {"loader": {"workers": 0, "threads": 1, "prefetch": 4}}
    assert completed(saved)["loader"]["workers"] == 0, "of a run from before there was auto"
    assert differing_fields(saved, to_json(resolved)) == []


@pytest.mark.parametrize("wrong", [-1, 65, 1.5, True, "many", None])
def test_what_the_number_of_workers_cannot_be(wrong):
    with pytest.raises(UserError, match=r"^loader\.workers must be"):
        resolve(changed(loader__workers=wrong))


def test_best_test_is_allowed_under_the_paper_protocol():
    assert resolve(changed(selection="best_test", protocol="paper")).selection == "best_test"


def test_another_method_name_alone_leaves_the_unset_switches_of_the_old_one_behind():
    resolved = resolve(changed(method__name="concat"))
    assert resolved.method.to_dict() == {"name": "concat", "fidelity": "paper"}


def test_fidelity_set_after_the_fact_moves_all_switches_left_alone():
    config = base_config()
    config.method.fidelity = "released"
    method = resolve(config).method
    assert not method.projection.enabled
    assert (method.fusion, method.zero_grad_drift) == ("batch_entropy", True)

    config.method.zero_grad_drift = False  # and one that was set stays
    config.method.fusion_weights = (0.5, 0.5)
    method = resolve(config).method
    assert (method.fusion, method.zero_grad_drift) == ("batch_entropy", False)
    assert method.fusion_weights == (0.5, 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fusion", 3), ("zero_grad_drift", "yes"), ("projection.alpha", "small"), ("projection", 1)],
)
def test_a_switch_keeps_its_type(field, value):
    block = method_block("mla")
    with pytest.raises(TypeError):
        block.update_from_flattened_dict({field: value})


@pytest.mark.parametrize("name", ["digits", "folder", "ave"])
def test_no_epochs_are_refused_however_they_are_written(name):
    """As an argument of the file, 0 once meant as many as the file says."""
    own = {"folder": ":modalities=a,"}.get(name, ":")
    for config in (
        files.load_config(f"configs/{name}.py{own}epochs=0"),
        files.load_config(f"configs/{name}.py{own}seed=1", {"epochs": 0}),
    ):
        with pytest.raises(UserError, match="epochs must be at least 1, not 0"):
            resolve(config)
    said, unsaid = (files.load_config(f"configs/{name}.py{own}{a}") for a in ("epochs=7", "seed=1"))
    assert said.epochs == 7 and unsaid.epochs in (15, 100, 150)


def test_unknown_method_block():
    with pytest.raises(UserError, match=r"method 'conkat'.*'concat'"):
        method_block("conkat")


def test_override_takes_dotted_names():
    config = changed(optimizer__learning_rate=0.5, seed=3)
    assert (config.optimizer.learning_rate, config.seed) == (0.5, 3)
    with pytest.raises(UserError, match=r"'optimizer\.lerning_rate'.*'optimizer\.learning_rate'"):
        override(config, {"optimizer.lerning_rate": 0.1})


def test_json_holds_everything_and_reads_back_equal():
    saved = to_json(resolve(base_config()))
    assert json.loads(json.dumps(saved)) == saved
    assert saved["modalities"] == ["image", "audio"]
    assert saved["method"]["projection"]["denominator"] == "scalar"


def test_differing_fields():
    saved = to_json(resolve(base_config()))
    assert differing_fields(saved, saved) == []
    other = to_json(
        resolve(changed(seed=1, modalities=("audio",), optimizer__momentum=0.5, checkpoint__keep=9))
    )
    assert differing_fields(saved, other) == [
        "modalities: ['image', 'audio'] -> ['audio']",
        "optimizer.momentum: 0.9 -> 0.5",
        "seed: 0 -> 1",
    ]
    released = to_json(resolve(changed(method__fidelity="released")))
    assert {line.partition(":")[0] for line in differing_fields(saved, released)} == {
        "absent",
        "drop_last",
        "head_init",
        "method.fidelity",
        "method.fusion",
        "method.projection.enabled",
        "method.zero_grad_drift",
    }
    fewer = {k: v for k, v in saved.items() if k != "seed"}
    assert differing_fields(fewer, saved) == ["seed: None -> 0"]


@pytest.mark.parametrize("field", ["checkpoint.every_steps", "check_loss_every"])
def test_fields_that_no_number_depends_on_do_not_differ(field):
    config = base_config()
    override(config, {field: 17})
    assert differing_fields(to_json(resolve(base_config())), to_json(resolve(config))) == []


def test_nearest():
    assert nearest("lerning", ["learning", "other"]).startswith("did you mean 'learning'?")
    assert nearest("zzz", ["b", "a"]) == "known: a, b"


@pytest.mark.parametrize("name", ["fused", "shared", "examples"])
def test_modalities_that_results_would_hide(name):
    config = fields.base_config()
    config.modalities = ("image", name)
    with pytest.raises(UserError, match=f"no modality may be called '{name}'"):
        fields.resolve(config)
