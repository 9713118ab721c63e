"""Configurations: files that are none, fields of another type, values that do not exist."""

import numpy as np

from tests.misuse.case import Case, npz, replaced

FILE = "main --config=mine.py"
HEAD = "from mla_jax.config import fields\n\n\ndef get_config(argument=None):\n"


def field(setting: str, sentence: str, **options: object) -> Case:
    """One field set on the command line."""
    return Case(f"main --config=small.py --config.{setting}", sentence, **options)


def argument(setting: str, sentence: str) -> Case:
    """One argument of the file."""
    return Case(f"main --config=small.py:{setting}", sentence)


def edited(old: str, new: str, sentence: str) -> Case:
    """``small.py`` with other words."""
    return Case(
        "main --config=small.py",
        sentence,
        files={"small.py": replaced(old, new)},
        holds=f"small.py: {new}",
    )


def switch(method: str, setting: str, sentence: str) -> Case:
    """One switch of a method."""
    return Case(f"main --config=small.py:method={method} --config.method.{setting}", sentence)


LINEAR = '"name": "features", "projection": "linear"'
CASES = {
    # ---- The file ------------------------------------------------------------------------------
    "empty_file": Case(FILE, "mine.py is not a configuration file: it has no function", files={"mine.py": ""}),
    "not_python": Case(FILE, "mine.py is not a configuration file: not Python (invalid", files={"mine.py": "epochs: 3\nmethod mla\n"}),
    "binary": Case(FILE, "mine.py is not a configuration file: not Python (source", files={"mine.py": b"\x00\xff\x80PK"}, holds="mine.py: bytes"),
    "null_bytes": Case(FILE, "mine.py is not a configuration file: not Python (source", files={"mine.py": b"x = 1\x00\n"}, holds="mine.py: a null byte"),
    "import_that_fails": Case(FILE, "mine.py, line 1 fails (ModuleNotFoundError: No module", files={"mine.py": "import no_such_library\n"}),
    "raises": Case(FILE, "mine.py, line 5 fails (AttributeError: module", files={"mine.py": HEAD + "    return fields.base_konfig()\n"}),
    "raises_at_import": Case(FILE, "mine.py, line 1 fails (ZeroDivisionError: division by", files={"mine.py": "x = 1 / 0\n"}),
    "returns_nothing": Case(FILE, "get_config of mine.py returns NoneType: it must return", files={"mine.py": HEAD + "    fields.base_config()\n"}),
    "returns_a_dictionary": Case(FILE, "get_config of mine.py returns dict: it must return the", files={"mine.py": HEAD + "    return {'epochs': 3}\n"}),
    "get_config_is_no_function": Case(FILE, "mine.py is not a configuration file: it has no function", files={"mine.py": "get_config = {'epochs': 3}\n"}),
    "misspelt_in_the_file": edited("config.feature_dim", "config.feature_dims", "unknown configuration field 'feature_dims': did you mean"),
    "type_in_the_file": edited('config.compute_dtype = "float32"', 'config.epochs = "many"', "small.py, line 17 fails (TypeError: Could not override"),
    "takes_no_argument": Case(FILE + ":method=mla", "mine.py fails (TypeError: get_config() takes 0 positional", files={"mine.py": "def get_config():\n    pass\n"}),

    "endless": Case(FILE, "mine.py, line 2 fails (RecursionError: maximum recursion", files={"mine.py": "def get_config(argument=None):\n    return get_config()\n"}),
    # ---- Missing modalities --------------------------------------------------------------------
    "missing_rule": field("missing.rule=rat", "unknown missing.rule 'rat': did you mean 'rate'?"),
    "missing_fill": field("missing.fill=mean", "unknown missing.fill 'mean': known: train_mean, zero"),
    "missing_rate_without_rule": field("missing.test=0.5", "missing.train=0 and missing.test=0.5 need a rule: set"),
    "missing_rate_above_1": field("missing.rule=rate --config.missing.test=1.5", "missing.test must be at least 0 and at most 1, not 1.5"),
    "missing_rate_word": field("missing.rule=rate --config.missing.train=half", "missing.train"),
    "missing_everything": field("missing.rule=bernoulli --config.missing.test=1", "missing.rule=bernoulli needs rates below 1: nothing would"),
    "missing_six_with_rate": field("missing.rule=six --config.missing.train=0.5", "missing.rule=six has no rates: leave out missing.train=0.5"),
    "missing_rule_and_masks": field("missing.rule=rate --config.missing.masks=m.npz", "missing.masks and missing.rule=rate both say what is"),
    "missing_no_masks": field("missing.masks=m.npz", "missing.masks=m.npz cannot be read"),
    "missing_masks_of_others": field("missing.masks=m.npz", "array 'train' of m.npz is bool[3, 2]: the train split needs", files={"m.npz": npz(train=np.ones((3, 2), bool))}, holds="m.npz: 3 rows"),
    "missing_masks_damaged": field("missing.masks=m.npz", "missing.masks=m.npz cannot be read", files={"m.npz": b"PK\x03\x04 and no more"}, holds="m.npz: cut off"),
    "missing_of_one_modality": Case("main --config=small.py:modalities=a --config.missing.rule=rate --config.missing.test=0.5", "missing modalities need at least two, and this run has only 'a'"),
    # ---- Arguments of the file -----------------------------------------------------------------
    "argument_name": argument("metod=mla", "unknown argument of the configuration 'metod': did you"),
    "argument_without_value": argument("method", "argument 'method' of the configuration needs a value:"),
    "argument_method": argument("method=nla", "unknown method 'nla': did you mean 'mla'?"),
    "argument_fidelity": argument("fidelity=papers", "unknown fidelity of method 'late_fusion' 'papers': did"),
    "argument_modality": argument("modalities=a+c", "the train split in data has no array 'c' (it has label, a, b):"),
    "argument_modality_twice": argument("modalities=a+a", "modalities name one twice: a+a"),
    "argument_no_modality": argument("modalities=", "modalities= has an empty name: write them as in a+b"),
    "argument_modality_empty": argument("modalities=a+", "modalities=a+ has an empty name: write them as in a+b"),
    "argument_epochs_word": Case("main --config=configs/digits.py:epochs=ten", "argument 'epochs' of the configuration takes int, not"),
    "argument_flag_word": Case("main --config=configs/cremad.py:synthetic=maybe", "argument 'synthetic' of the configuration takes bool, not"),
    "argument_of_arrays": Case("main --config=configs/arrays.py:encoders=features+mlp+mlp", "encoders=features+mlp+mlp names 3 encoders for 2"),
    "arrays_without_path": Case("main --config=configs/arrays.py", "dataset.path='' is not a folder: name the one that holds"),
    # ---- Fields --------------------------------------------------------------------------------
    "field_name": field("epoch=3", "unknown configuration field 'epoch': did you mean"),
    "field_of_a_group": field("optimizer.momentun=0.5", "unknown configuration field 'optimizer.momentun': did you"),
    "group_name": field("optimiser.momentum=0.5", "unknown configuration field 'optimiser.momentum': did you"),
    "group_itself": field("optimizer=adam", "configuration field 'optimizer' is a group: set one of"),
    "field_of_a_field": field("epochs.first=1", "unknown configuration field 'epochs.first': did you mean"),
    "field_without_value": field("epochs", "Missing value for flag --config.epochs (--help lists the"),
    "epochs_word": field("epochs=many", "flag --config.epochs=many: it must be an integer (--help"),
    "epochs_fraction": field("epochs=2.5", "flag --config.epochs=2.5: it must be an integer (--help"),
    "epochs_zero": field("epochs=0", "epochs must be at least 1, not 0"),
    "epochs_huge": field("epochs=99999999999999999999", "epochs must be at least 1 and at most 1000000, not"),
    "batch_zero": field("batch_size=0", "batch_size must be at least 1, not 0"),
    "batch_beyond_the_data": field("batch_size=64", "the training split has 16 examples, fewer than"),
    "batch_beside_the_devices": field("batch_size=9", "batch_size=9 does not divide among 8 devices"),
    "batch_evaluation_zero": field("evaluation.batch_size=0", "evaluation.batch_size must be at least 1, not 0"),
    "seed_negative": field("seed=-1", "seed must be at least 0, not -1"),
    "seed_huge": field("seed=4294967296", "seed must be at least 0 and at most 2147483647, not"),
    "width_zero": field("feature_dim=0", "feature_dim must be at least 1, not 0"),
    "dtype": field("compute_dtype=float16", "unknown compute_dtype 'float16': did you mean 'bfloat16'?"),
    "batch_norm": field("batch_norm=devise", "unknown batch_norm 'devise': did you mean 'device'?"),
    "batch_norm_of_all": field("batch_norm_devices=2", "batch_norm_devices=2 is for statistics of each device:"),
    "batch_norm_beside_the_batch": field("batch_norm=device --config.batch_norm_devices=3", "does not divide among batch_norm_devices=3"),
    "gradient_sum": field("gradient_sum_dtype=float64", "unknown gradient_sum_dtype 'float64': did you mean 'float32'?"),
    "protocol": field("protocol=loose", "unknown protocol 'loose': known: paper, strict"),
    "selection": field("selection=best", "unknown selection 'best': did you mean 'best_test'?"),
    "selection_on_test": field("selection=best_test", "selection=best_test chooses the epoch on the test set:"),
    "optimizer_name": field("optimizer.name=adm", "unknown optimizer.name 'adm': did you mean 'adam'?"),
    "schedule": field("optimizer.schedule=linar", "unknown optimizer.schedule 'linar': did you mean 'linear'?"),
    "momentum_of_two": field("optimizer.momentum=2", "optimizer.momentum must be at least 0 and at most 1, not"),
    "learning_rate_word": field("optimizer.learning_rate=small", "flag --config.optimizer.learning_rate=small: it must be a"),
    "warmup_negative": field("optimizer.warmup_epochs=-1", "optimizer.warmup_epochs must be at least 0, not -1"),
    "nesterov_word": field("optimizer.nesterov=perhaps", "flag --config.optimizer.nesterov=perhaps: it must be true"),
    "dataset_name": field("dataset.name=digit", "unknown dataset.name 'digit': did you mean 'digits'?"),
    "dataset_field_of_another": field("dataset.recipe=kaldi_fbank", "dataset 'arrays' has no dataset.recipe: leave it out"),
    "dataset_split_of_another": field("dataset.split=random", "dataset 'arrays' has no dataset.split: leave it out"),
    "dataset_synthetic": field("dataset.synthetic=true", "dataset 'arrays' has no dataset.synthetic: leave it out"),
    "dataset_variant": Case("main --config=configs/cremad.py:synthetic --config.dataset.variant=x", "unknown variant of dataset 'cremad' 'x': known: dimml, mla"),
    "dataset_variant_outside": Case("main --config=configs/folder.py:modalities=x,encoders=features --config.dataset.variant=../../data", "unknown variant of dataset 'folder' '../../data': name your"),
    "dataset_recipe_outside": Case("main --config=configs/folder.py:modalities=x,encoders=features --config.dataset.recipe=../../data", "unknown recipe of dataset 'folder' '../../data': known:"),
    "dataset_variant_of_python": Case("main --config=configs/kinetics_sounds.py --config.dataset.variant=..", "unknown variant of dataset 'kinetics_sounds' '..': name your"),
    "dataset_split": Case("main --config=configs/cremad.py:synthetic --config.dataset.split=mine", "unknown split of dataset 'cremad' 'mine': known: mla,"),
    "dataset_sizes_zero": Case("main --config=configs/cremad.py:synthetic --config.dataset.synthetic_sizes=(0,0,0)", "dataset.synthetic_sizes=(0, 0, 0) must be three sizes of"),
    "dataset_sizes_two": Case("main --config=configs/cremad.py:synthetic --config.dataset.synthetic_sizes=(8,8)", "dataset.synthetic_sizes=(8, 8) must be three sizes of at"),
    "crop_huge": Case("main --config=configs/cremad.py:synthetic --config.dataset.crop=100000", "dataset.crop=100000 is more than twice the stored 256"),
    "encoder_name": field("encoders.a.name=mpl", "unknown encoders.a.name 'mpl': did you mean 'mlp'?"),
    "encoder_field": field("encoders.a.hidden=4", "unknown configuration field 'encoders.a.hidden': did you"),
    "encoder_projection": field("encoders.a.projection=lineer", "encoders.a does not suit 'a': unknown projection of"),
    "encoder_without_projection": Case("main --config=small.py --config.encoders.a.projection=none --config.feature_dim=5", "encoders.a does not suit 'a': encoder 'features' got"),
    "encoder_of_pictures": edited('"name": "features", "projection": "linear"', '"name": "resnet18"', "encoders.a does not suit 'a': resnet18 needs a"),
    "encoder_of_words": edited('"name": "features", "projection": "linear"', '"name": "ngram_bag", "vocabulary": 8', "encoders.a does not suit 'a': ngram_bag takes token ids"),
    "encoder_missing": edited('for m in "ab"}', 'for m in "a"}', "unknown modality (it has no config.encoders entry) 'b':"),
    "encoder_without_name": edited('"name": "features", ', "", "config.encoders.a must be a group with a name, as in"),
    "encoder_type": edited('"name": "features", "projection": "linear"', '"name": "mlp", "hidden": "wide"', "encoders.a.hidden=wide must be of type int"),
    "encoders_are_words": edited('{m: {"name": "features", "projection": "linear"} for m in "ab"}', '{"a": "mlp", "b": "mlp"}', "config.encoders.a must be a group with a name, as in"),
    "method_switch": field("method.fusion=mean", "unknown value of method.fusion 'mean': known: entropy,"),
    "method_switch_value": Case("main --config=small.py:method=mla --config.method.fusion=mean", "unknown value of method.fusion 'mean': known:"),
    "fusion_weights_missing": Case("main --config=small.py:method=mla --config.method.fusion=fixed --config.method.fusion_weights=(0.5,)", "method.fusion_weights=(0.5,) must be 2 numbers of at"),
    "fusion_weights_word": Case("main --config=small.py:method=mla --config.method.fusion=fixed --config.method.fusion_weights=half", "method.fusion_weights=('half',) must be 2 numbers of at"),
    "unimodal_of_two": Case("main --config=small.py:method=unimodal", "method 'unimodal' trains exactly one modality, not a+b:"),
    "reserved_modality": edited('modalities=("a", "b")', 'modalities=("a", "fused")', "no modality may be called 'fused', a name of results:"),
    "workers_many": field("loader.workers=1000", "loader.workers must be at least 0 and at most 64, not 1000"),
    "workers_negative": field("loader.workers=-1", "loader.workers must be at least 0, not -1"),
    "workers_word": field("loader.workers=many", "loader.workers must be auto or a whole number, not 'many'"),
    "keep_zero": field("checkpoint.keep=0", "checkpoint.keep must be at least 1, not 0"),
    "noise_negative": field("dataset.noise=-1", "dataset.noise must be at least 0, not -1.0"),
    "noise_nan": field("dataset.noise=nan", "dataset.noise=nan must be a finite number"),
    "absent_word": field("absent=maybe", "unknown absent 'maybe': known: auto, skip, zeros"),
    "drop_last_word": field("drop_last=maybe", "flag --config.drop_last=maybe: it must be true or"),
    "head_init_word": field("head_init=zeros", "unknown head_init 'zeros': known:"),
    "width_huge": field("feature_dim=99999999999", "feature_dim must be at least 1 and at most 65536, not"),
    "batch_evaluation_huge": field("evaluation.batch_size=99999999999", "evaluation.batch_size must be at least 1 and at most"),
    "prefetch_huge": field("loader.prefetch=100000000", "loader.prefetch must be at least 1 and at most 1024, not"),
    "every_steps_negative": field("checkpoint.every_steps=-5", "checkpoint.every_steps must be at least 0, not -5"),
    "learning_rate_nan": field("optimizer.learning_rate=nan", "optimizer.learning_rate=nan must be a finite number"),
    "dimml_weight_negative": switch("dimml", "duc_weight=-1", "method.duc_weight must be at least 0, not -1.0"),
    "dimml_scale_negative": switch("dimml", "norm_scale_std=-1", "method.norm_scale_std must be at least 0, not -1.0"),
    "dimml_temperature_zero": switch("dimml", "temperature=0", "method.temperature and method.certainty_temperature must"),
    "dimml_split_beyond_the_end": switch("dimml", "split_epoch=2", "method.split_epoch=2 must be one of the 2 epochs after"),
    "dimml_epochs_huge": switch("dimml", "fusion_epochs=99999999999", "method.fusion_epochs must be at least 0 and at most"),
    "ogm_first_epoch_negative": switch("ogm", "first_epoch=-1", "method.first_epoch must be at least 0, not -1"),
    "ogm_last_epoch_negative": switch("ogm_ge", "last_epoch=-1", "method.last_epoch must be at least 0, not -1"),
    "ogm_last_epoch_huge": switch("ogm", "last_epoch=99999999999", "method.last_epoch must be at least 0 and at most"),
    "ogm_epochs_in_the_wrong_order": switch("ogm", "last_epoch=2 --config.method.first_epoch=3", "method.first_epoch=3 must not come after"),
    "ogm_alpha_nan": switch("ogm", "alpha=nan", "method.alpha=nan must be a finite number"),
    "dropout_of_everything": switch("modality_dropout", "rate=1", "method.rate must be at least 0 and less than 1, not 1.0"),
    "projection_alpha_negative": switch("mla", "projection.alpha=-1", "method.projection.alpha must be at least 0, not -1.0"),
    "encoder_epsilon_negative": edited(LINEAR, '"name": "resnet18", "epsilon": -1e-5', "encoders.a.epsilon=-1e-05 must be a positive number"),
    "encoder_epsilon_nan": edited(LINEAR, '"name": "m3ae_text", "epsilon": float("nan")', "encoders.a.epsilon=nan must be a positive number"),
    "encoder_size_huge": edited(LINEAR, '"name": "mlp", "hidden": 10**12', "encoders.a.hidden=1000000000000 must be at most 1048576"),
    "encoder_size_fraction": edited(LINEAR, '"name": "mlp", "hidden": 2.5', "encoders.a.hidden=2.5 must be of type int"),
    "encoder_widths_alone": edited(LINEAR, '"name": "conv1d", "widths": 16', "encoders.a.widths=16 must be several, as in (16, 32)"),
    "init_from_nothing": field("init_from=no.safetensors", "no checkpoint at no.safetensors"),
}  # fmt: skip
# ruff: noqa: E501
