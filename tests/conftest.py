"""Eight simulated devices, a compile cache that outlives the run, tiny data and configurations."""

import functools
import gc
import mmap
import os
import pathlib
import threading

import jax
import jaxlib
import numpy as np
import pytest
from absl import flags

from mla_jax.config import fields, files
from mla_jax.datasets import ArraySplit, Dataset, load_dataset
from mla_jax.program import Program, build_program
from mla_jax.state import TrainState
from tests import drawing as drawn
from tests.commands import Commands

jax.config.update("jax_num_cpu_devices", 8)
# Machine code in haste, here and in the processes that tests start: compiling is half the suite.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Lowering in Python is the other half.  Where an operation came from is of use in a profile only.
jax.config.update("jax_traceback_in_locations_limit", 0)
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# Tracing makes millions of small objects, few of them in cycles: look for those after each module
# (without_old_garbage), and hardly ever in the processes that tests start.
gc.disable()
startup = str(pathlib.Path(__file__).parent / "startup")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [startup, os.environ.get("PYTHONPATH")]))
# Loops of small programs compile in half the time the older way, and in fewer pieces.
XLA_IN_HASTE = ("xla_cpu_use_fusion_emitters=false", "xla_cpu_parallel_codegen_split_count=1")


def known_to_xla(flag: str) -> bool:
    """Whether this XLA has the flag; one that it does not know would end the process."""
    for library in pathlib.Path(jaxlib.__file__).parent.glob("*.so"):
        with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as text:
            if text.find(b"\0" + flag.encode() + b"\0") >= 0:  # a field may have kept its name
                return True
    return False


known = [f"--{flag}" for flag in XLA_IN_HASTE if known_to_xla(flag.partition("=")[0])]
os.environ["XLA_FLAGS"] = " ".join([*known, os.environ.get("XLA_FLAGS", "")]).strip()
flags.FLAGS.mark_as_parsed()


def reuse_contexts(programs: int = 200) -> None:
    """A thread lowers this many programs in one MLIR context.

    JAX makes a new one for each, which takes a tenth of the suite's time.  Does nothing where JAX
    has no such function any more.
    """
    try:
        from jax._src.interpreters import mlir

        make = mlir.make_ir_context
    except (ImportError, AttributeError):
        return
    local = threading.local()

    def make_ir_context():
        if not getattr(local, "left", 0):
            local.context, local.left = make(), programs
        local.left -= 1
        return local.context

    mlir.make_ir_context = make_ir_context


reuse_contexts()
TINY = str(pathlib.Path(__file__).parent / "configs" / "tiny.py")
FEATURES, CLASSES, FEATURE_DIM, BATCH = 6, 3, 8, 16


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("cacheprovider"):
        cache = str(config.cache.mkdir("xla"))
        jax.config.update("jax_compilation_cache_dir", cache)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache  # for the processes that tests start
        # What compiles faster than it is written and read is not kept.
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def build_split(rng, centres, examples: int, missing: float) -> ArraySplit:
    label = rng.integers(0, CLASSES, examples).astype(np.int32)
    present = rng.random((examples, len(centres))) >= missing
    inputs = {}
    for i, (modality, centre) in enumerate(centres.items()):
        noisy = centre[label] + rng.normal(size=(examples, FEATURES))
        inputs[modality] = np.where(present[:, [i]], noisy, 0).astype(np.float32)
    return ArraySplit(inputs, label, present)


def build_dataset(
    modalities=("a", "b"), train=96, validation=24, test=40, missing=0.0, seed=0
) -> Dataset:
    """Vectors ``float32[6]`` around one centre per class and modality; later modalities are weaker.

    ``missing`` is the probability that an example lacks a modality (its input is then zeros).
    """
    rng = np.random.default_rng(seed)
    centres = {
        m: rng.normal(size=(CLASSES, FEATURES)) * 2 / (1 + i) for i, m in enumerate(modalities)
    }
    sizes = {"train": train, "validation": validation, "test": test}
    splits = {name: build_split(rng, centres, n, missing) for name, n in sizes.items()}
    names = ("one", "two", "three")
    return Dataset("synthetic", tuple(modalities), names, splits, f"synthetic-{seed}-{missing}")


def build_config(modalities=("a", "b"), method="mla", fidelity="paper", encoder=None, **overrides):
    """A configuration for ``build_dataset``; ``overrides`` are ``{"optimizer.name": "adam"}``."""
    config = fields.base_config()
    config.modalities = tuple(modalities)
    config.encoders = {m: dict(encoder or {"name": "mlp", "hidden": 8}) for m in modalities}
    config.method = fields.method_block(method, fidelity)
    if "blocks" in config.method:
        config.method.blocks = 2  # the five of MMIN compile for long
    config.feature_dim = FEATURE_DIM
    config.batch_size = BATCH
    config.epochs = 2
    config.compute_dtype = "float32"
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 1e-3
    config.log_every_steps = 0  # tests count the lines
    fields.override(config, overrides)
    return config


@functools.cache
def digits_program(method: str) -> tuple[Program, Dataset]:
    """A method's program on the digits of ``configs/tiny.py``, on one device, made once."""
    modalities = "audio" if method == "unimodal" else "audio+text"
    config = files.load_config(TINY, None, {"method": method, "modalities": modalities})
    config.epochs = 3
    config = fields.resolve(config)
    dataset = load_dataset(config.dataset, config.modalities)
    return build_program(config, dataset, jax.devices()[:1]), dataset


def fresh_state(program: Program, dataset: Dataset, seed: int = 0) -> TrainState:
    """``initial_state`` one operation at a time: those compiled for one method serve the next."""
    state = program.method.init(jax.random.key(seed), dataset.splits["train"].fetch(np.arange(1)))
    return jax.device_put(state, program.placement.replicated)


@pytest.fixture(scope="module", autouse=True)
def without_old_garbage():
    """What a module leaves behind, millions of objects, is not searched for garbage again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def without_plots():
    """The plots of runs are empty files, here and in what ``commands`` runs.

    ``test_plots`` draws, and so does every test that asks for ``drawing`` or starts a process of
    its own.
    """
    drawn.leave_out()
    yield
    drawn.restore()


@pytest.fixture
def drawing():
    """Plots are drawn after all."""
    drawn.restore()
    yield
    drawn.leave_out()


@pytest.fixture
def optimized():
    """Machine code as users run it, for what computes for longer than it compiles."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def commands():
    """``commands.run("mla_jax.main", options)``: a command of the package in its own process."""
    server = Commands()
    yield server
    server.close()


@pytest.fixture(scope="module")
def bucket():
    """A server of buckets on this machine (``bucket_server``); this process uses it too."""
    from tests.bucket_server import Server  # the emulator is not always installed

    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.stop()


@pytest.fixture(scope="session")
def make_dataset():
    return build_dataset


@pytest.fixture(scope="session")
def make_config():
    return build_config


@pytest.fixture(scope="session")
def make_program():
    """``make_program(dataset, method=..., ...)``: the program of a tiny run, on one device."""

    def build(dataset: Dataset, **options) -> Program:
        config = fields.resolve(build_config(dataset.modalities, **options))
        return build_program(config, dataset, jax.devices()[:1])

    return build
