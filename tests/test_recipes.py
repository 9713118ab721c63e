"""Every published hyper-parameter of every configuration, number by number.

The sources are files and lines of the two PyTorch references: MLA's ``main.py`` and DI-MML's
``main_CFT.py``, ``main_CFT_stage2.py`` and ``README.md``.
"""

import pathlib

import pytest

from mla_jax.config import fields, files
from mla_jax.datasets import mfeat
from mla_jax.methods import dimml

FOLDER = pathlib.Path(__file__).parents[1] / "configs"

OPTIMIZER = {
    "name": "sgd",  # MLA main.py:749, DI-MML main_CFT.py:250 and main_CFT_stage2.py:284
    "learning_rate": 1e-3,  # main.py:32, main_CFT.py:32
    "momentum": 0.9,  # the lines of "sgd"
    "nesterov": False,  # PyTorch's default, which both keep
    "beta1": 0.9,  # of Adam, which neither uses
    "clip_norm": 0.0,  # neither clips
    "weight_decay": 1e-4,  # the lines of "sgd"
    "schedule": "step",  # main.py:760, main_CFT.py:251
    "decay_every": 70,  # main.py:33, main_CFT.py:33
    "decay_rate": 0.1,  # main.py:34, main_CFT.py:34
    "warmup_epochs": 0,  # neither has one
}
MLA = {"batch_size": 64, "epochs": 100}  # main.py:28-29
DIMML = {"batch_size": 16, "epochs": 150}  # main_CFT.py:26-27

RESNET = {"name": "resnet18"}
LINEAR = {"name": "features", "projection": "linear"}
IMAGE = {"name": "m3ae_image", "convention": "pretraining"}
TEXT = {
    "name": "m3ae_text",
    "convention": "pretraining",
    "text_length": 256,  # MLA's dataset/dataset.py: its tokens are [1, 256]
    "differs_from_weights": ("text_length",),
}
RECIPES = {
    # D is 512 of ResNet-18 (MLA models/basic_model.py:46) and of CLIP (:300), 768 of M3AE and
    # CAV-MAE (:176, :245).  MLA visits the modalities in this order (main.py:439-470).
    "arrays": {**MLA, "feature_dim": 512, "encoders": {"image": LINEAR, "text": LINEAR}},
    "ave": {**DIMML, "feature_dim": 512, "encoders": {"audio": RESNET, "video": RESNET}},
    "cremad": {**MLA, "feature_dim": 512, "encoders": {"audio": RESNET, "video": RESNET}},
    "folder": {**MLA, "feature_dim": 512, "encoders": {"image": RESNET, "sound": RESNET}},
    "food101": {**MLA, "feature_dim": 768, "encoders": {"text": TEXT, "image": IMAGE}},
    "iemocap": {
        **MLA,
        "feature_dim": 768,
        "encoders": {
            "audio": {"name": "cavmae_audio", "convention": "pretraining"},
            "image": IMAGE,
            "text": TEXT,
        },
    },
    "kinetics_sounds": {**MLA, "feature_dim": 512, "encoders": {"audio": RESNET, "video": RESNET}},
    "modelnet40": {**DIMML, "feature_dim": 512, "encoders": {"front": RESNET, "rear": RESNET}},
    "mvsa": {**MLA, "feature_dim": 768, "encoders": {"text": TEXT, "image": IMAGE}},
    "ucf101": {**DIMML, "feature_dim": 512, "encoders": {"flow": RESNET, "rgb": RESNET}},
    # Nothing is published: the recipe behind the figures of the README.
    "digits": {
        "batch_size": 64,
        "epochs": 15,
        "feature_dim": 64,
        "encoders": {
            "image": {"name": "conv2d", "widths": (8, 16)},
            "audio": {"name": "conv1d", "widths": (16, 32)},
            "text": {"name": "ngram_bag", "vocabulary": 1024},
        },
        "optimizer": {**OPTIMIZER, "learning_rate": 5e-2, "decay_every": 0},
    },
    "mfeat": {
        "batch_size": 64,
        "epochs": 15,
        "feature_dim": 64,
        "encoders": {m: {"name": "mlp", "hidden": 64, "norm": False} for m in mfeat.MODALITIES},
        "optimizer": {**OPTIMIZER, "name": "adam", "decay_every": 0},
    },
}


def load(name: str, words: str = ""):
    return files.load_config(f"{FOLDER / name}.py" + (f":{words}" if words else ""))


def test_every_configuration_has_a_row():
    assert set(RECIPES) == {path.stem for path in FOLDER.glob("*.py")}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_is_the_published_one(name):
    expected = {"optimizer": OPTIMIZER, **RECIPES[name]}
    for words in ("", "method=concat", "method=dimml,fidelity=released", "protocol=paper"):
        config = load(name, words)
        assert {key: config.to_dict()[key] for key in expected} == expected
    modalities = tuple(expected["encoders"])
    assert config.modalities == (modalities[:2] if name == "digits" else modalities)
    assert fields.resolve(config).to_dict()["optimizer"] == expected["optimizer"]


TEMPERATURES = {
    # DI-MML README.md:23-36: --temperature of main_CFT.py and of main_CFT_stage2.py.
    "cremad": {"temperature": 50, "certainty_temperature": 1},
    "ave": {"temperature": 10, "certainty_temperature": 3},
    "ucf101": {"temperature": 10, "certainty_temperature": 1},
    "modelnet40": {"temperature": 50, "certainty_temperature": 3},
}


@pytest.mark.parametrize("name", TEMPERATURES)
def test_dimml_on_its_own_data_sets(name):
    config = fields.resolve(load(name, f"method=dimml,fidelity=released_{name}"))
    expected = {
        **TEMPERATURES[name],
        "shared_weight": 1,  # main_CFT.py:44
        "duc_weight": 1,  # main_CFT.py has no factor on it
        "fused_head": "concat",
        "heads": "torch",
    }
    assert {key: config.method[key] for key in expected} == expected
    assert {f"released_{name}" for name in TEMPERATURES} == set(dimml.FIDELITY) - {
        "paper", "released"
    }  # fmt: skip


SWITCHES = [
    # main.py:36-38
    ("ogm", "paper", {"alpha": 0.3, "first_epoch": 0, "last_epoch": 50}),
    ("ogm_ge", "released", {"alpha": 0.3, "first_epoch": 0, "last_epoch": 50}),
    ("qmf", "released", {"ranking_weight": 0.1, "fused_loss": True}),  # main.py:268
    ("qmf", "released_m3ae", {"ranking_weight": 1, "fused_loss": False}),  # main.py:203, 229
]


@pytest.mark.parametrize(("method", "fidelity", "expected"), SWITCHES)
def test_published_values_of_methods(method, fidelity, expected):
    config = fields.resolve(load("cremad", f"method={method},fidelity={fidelity}"))
    assert {key: config.method[key] for key in expected} == expected
