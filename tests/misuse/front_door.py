"""Python: ``mla_jax.load_config``, ``train``, ``open_run`` and what a run can be asked."""

from tests.misuse.case import Case, python

OPEN = "run = mla_jax.open_run('run')\n"
CONFIG = "config = mla_jax.load_config('small.py')\n"
ARRAYS = "import numpy as np\nx = np.ones((2, 4), np.float32)\n"


def of_run(typed: str, sentence: str = "?") -> Case:
    return python(OPEN + typed, sentence, needs_run=True)


def predicted(arguments: str, sentence: str = "?") -> Case:
    return python(OPEN + ARRAYS + f"run.predict({arguments})", sentence, needs_run=True)


def trained(change: str, sentence: str = "?") -> Case:
    return python(CONFIG + change + "\nmla_jax.train(config, 'x')", sentence)


CASES = {
    "load_no_file": python("mla_jax.load_config('smal.py')", "there is no configuration file smal.py (in .: small.py)"),
    "load_folder": python("mla_jax.load_config('data')", "there is no configuration file data (in .: small.py)"),
    "load_field": python("mla_jax.load_config('small.py', {'epoch': 3})", "unknown configuration field 'epoch': did you mean"),
    "load_group": python("mla_jax.load_config('small.py', {'optimizer': 'adam'})", "unknown configuration field 'optimizer': did you mean"),
    "load_type": python("mla_jax.load_config('small.py', {'epochs': 'many'})", "configuration field 'epochs' takes int, not 'many'"),
    "load_fraction": python("mla_jax.load_config('small.py', {'epochs': 2.5})", "configuration field 'epochs' takes int, not 2.5"),
    "load_argument": python("mla_jax.load_config('small.py', arguments={'metod': 'mla'})", "unknown argument of the configuration 'metod': did you"),
    "load_method": python("mla_jax.load_config('small.py', arguments={'method': 'nla'})", "unknown method 'nla': did you mean 'mla'?"),
    "load_path_object": python("import pathlib\nmla_jax.load_config(pathlib.Path('smal.py'))", "there is no configuration file smal.py (in .: small.py)"),
    "train_epochs": trained("config.epochs = 0", sentence="epochs must be at least 1, not 0"),
    "train_modalities": trained("config.modalities = ()", sentence="config.modalities is empty: name at least one modality"),
    "train_path": trained("config.dataset.path = 'nowhere'", sentence="dataset.path='nowhere' is not a folder: name the one that"),
    "train_encoder": trained("config.encoders.a.name = 'mpl'", sentence="unknown encoders.a.name 'mpl': did you mean 'mlp'?"),
    "train_new_field": trained("with config.unlocked():\n    config.feature_dims = 4", sentence="unknown configuration field 'feature_dims': did you mean"),
    "train_bucket": python(CONFIG + "mla_jax.train(config, 's3://bucket/run')", "s3:// is not supported: name a local folder"),
    "train_file": python(CONFIG + "mla_jax.train(config, 'small.py')", "--workdir=small.py: small.py is a file: give another"),
    "train_dictionary": python("mla_jax.train({'epochs': 3}, 'x')", "a configuration is needed, not dict: mla_jax.load_config"),
    "train_file_name": python("mla_jax.train('small.py', 'x')", "a configuration is needed, not str: mla_jax.load_config"),
    "open_nothing": python("mla_jax.open_run('rum')", "rum holds no run (no config.json): name the --workdir of"),
    "open_file": python("mla_jax.open_run('small.py')", "small.py holds no run (no config.json): name the"),
    "open_data": python("mla_jax.open_run('data')", "data holds no run (no config.json): name the --workdir of"),
    "open_bucket": python("mla_jax.open_run('gs:///run')", "gs:///run has no bucket name: write gs://BUCKET/FOLDER"),
    "run_epoch": of_run("run.load('best')", sentence="unknown epoch of a run 'best': known: chosen, last"),
    "run_split": of_run("run.evaluate('tset')", sentence="unknown split of arrays 'tset': did you mean 'test'?"),
    "run_modality": of_run("run.evaluate(modalities='a+c')", sentence="unknown modality of this run (a+b) 'c': known: a, b"),
    "run_modality_twice": of_run("run.evaluate(modalities=('a', 'a'))", sentence="modalities=a+a names 'a' twice"),
    "run_split_type": of_run("run.evaluate(3)", sentence="give arrays by modality or a split of a data set, not"),
    "run_data_dir": of_run("run.dataset('nowhere')", sentence="dataset.path='nowhere' is not a folder: name the one that"),
    "run_export_batch": of_run("run.export('x.stablehlo', batch=-1)", sentence="batch=-1 should be a number of at least 1, or symbolic"),
    "run_export_ending": of_run("run.export('x.hlo')", sentence="x.hlo should end in .stablehlo"),
    "run_weights_ending": of_run("run.save_weights('w.npz')", sentence="w.npz should be a .safetensors, .pth or .pt file, or a"),
    "run_weights_encoder": of_run("run.save_weights('w.safetensors', encoder='c')", sentence="unknown modality of this run (a+b) 'c': known: a, b"),
    "predict_nothing": predicted("{}", sentence="give at least one of the modalities a, b"),
    "predict_name": predicted("{'c': x}", sentence="unknown modality of this run (a+b) 'c': known: a, b"),
    "predict_array": predicted("x", sentence="give arrays by modality or a split of a data set, not"),
    "predict_list": predicted("{'a': [[1.0, 2.0], [3.0]]}", sentence="inputs need arrays, not lists of other shapes (setting an"),
    "predict_rank": predicted("{'a': x[0]}", sentence="input 'a' is float32[4], and this run takes float32[N, 4]"),
    "predict_width": predicted("{'a': x[:, :3]}", sentence="input 'a' is float32[2, 3], and this run takes float32[N,"),
    "predict_rows": predicted("{'a': x, 'b': x[:1]}", sentence="inputs need the same number of examples, at least one, not"),
    "predict_none": predicted("{'a': None}", sentence="inputs need the same number of examples, at least one, not"),
    "predict_text": predicted("{'a': 'hello'}", sentence="inputs need the same number of examples, at least one, not"),
    "predict_integers": predicted("{'a': x.astype(int)}", sentence="input 'a' is int64[2, 4], and this run takes float32[N,"),
    "predict_infinite": predicted("{'a': x / 0}", sentence="input 'a' holds NaN, infinity or values too large for"),
    "predict_present": predicted("{'a': x, 'b': x}, present=np.ones((2, 1), bool)", sentence="'present' is bool[2, 1]: it must be bool[2, 2], one"),
    "predict_present_numbers": predicted("{'a': x, 'b': x}, present=np.ones((2, 2))", sentence="'present' is float64[2, 2]: it must be bool[2, 2], one"),
    "predict_present_none": predicted("{'a': x, 'b': x}, present=np.zeros((2, 2), bool)", sentence="example 0 has no modality: leave it out"),
}  # fmt: skip
# ruff: noqa: E501
