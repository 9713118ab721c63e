"""A run: the folder of one training, which can be resumed, opened and used."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mla_jax import distributed, methods, storage
from mla_jax.config import fields
from mla_jax.data.dataset import Dataset, DataSpec, Split, SubsetOfModalities
from mla_jax.data.pipeline import Loader, batches_per_epoch, evaluation_batches
from mla_jax.errors import NonFiniteLossError, UserError, check_choice
from mla_jax.evaluate import Evaluator, outputs
from mla_jax.program import Program, build_program
from mla_jax.runs import checkpoint, metrics, predictions, reload, stablehlo, weights
from mla_jax.runs.checkpoint import Checkpoints
from mla_jax.runs.predictions import Predictions
from mla_jax.runs.progress import ProgressBar, Stopwatch
from mla_jax.runs.selection import Selector
from mla_jax.runs.workdir import Workdir
from mla_jax.state import TrainState

EPOCHS = ("chosen", "last")


def open_run(
    path: str | pathlib.Path,
    say: Callable[[str], None] = print,
    devices: Sequence[jax.Device] | None = None,
) -> "Run":
    """The run in a folder; neither its training data nor its configuration file must be at hand.

    A method of your own must be registered first.

    Args:
      path: the ``--workdir`` of the run, finished or not.
      say: takes each line meant for a person.
      devices: predict on the first of these and evaluate on all (default: the local ones).

    Raises:
      UserError: no run lives there, or a file of it is damaged.

    >>> mla_jax.open_run("runs/mfeat").modalities
    ('pixel', 'zernike')
    """
    workdir = Workdir(path)
    identity = workdir.identity() if workdir.path.is_dir() else None
    if identity is None:
        raise UserError(
            f"{workdir.path} holds no run (no config.json): name the --workdir of a training"
        )
    config = FrozenConfigDict(identity["config"])
    if config.method.name not in methods.REGISTRY:
        raise UserError(
            f"{workdir.path} was trained with the method '{config.method.name}', which is not part "
            "of mla_jax: call mla_jax.methods.register with its module first"
        )
    return Run(workdir, config, workdir.data(), identity["data"], say, devices)


def is_run(path: str | pathlib.Path) -> bool:
    """Whether a run lives in a folder: whether it has a ``config.json`` of ours."""
    return storage.is_known(path) and Workdir(path).is_run()


class Run:
    """One training: its folder, its identity, its checkpoints, its choice of epoch, its figures.

    ``train.train`` makes one and ``open_run`` opens one.

    >>> mla_jax.open_run("runs/mfeat").evaluate("test", modalities="pixel")["examples"]
    400
    """

    def __init__(
        self,
        workdir: Workdir,
        config: FrozenConfigDict,
        data: DataSpec,
        fingerprint: str,
        say: Callable[[str], None] = print,
        devices: Sequence[jax.Device] | None = None,
    ):
        """``config`` is resolved; ``fingerprint`` is that of the data set."""
        self.workdir = workdir
        self.config = config
        self.data = data
        self.identity: dict[str, Any] = {"config": fields.to_json(config), "data": fingerprint}
        self.selector = Selector(config, data)
        self.seconds = Stopwatch()
        self.say = say
        self._devices = list(devices) if devices else jax.local_devices()
        self._checkpoints: Any = None  # Checkpoints, from start to flush
        self._metrics: metrics.MetricsFile | None = None
        self._states: dict[int, TrainState] = {}
        self._chosen: dict[int, int] = {}  # the chosen step, by the newest one

    def __repr__(self) -> str:
        state = "finished" if self.result else f"{self.workdir.newest_checkpoint()} batches saved"
        return f"Run({str(self.path)!r}: {self.config.method.name} on {self.data.name}, {state})"

    @property
    def path(self) -> pathlib.Path:
        return self.workdir.path

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of ``result.json``; None while the run is not finished."""
        return self.workdir.result()

    def is_finished(self) -> bool:
        """Whether there is a result, and of no fewer epochs than are wanted."""
        saved = self.workdir.identity()
        return bool(self.result and saved and not self.workdir.is_shorter(saved, self.identity))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: one per epoch, and one per event, such as a NaN loss."""
        return metrics.read_lines(self.workdir.metrics)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.data.modalities

    # ---- Using it ------------------------------------------------------------------------------

    @functools.cached_property
    def program(self) -> Program:
        """The method, for prediction: on the first local device; nothing is compiled yet."""
        return build_program(self.config, self.data, self._devices[:1])

    def load(self, epoch: str = "chosen") -> TrainState:
        """The training state of the ``chosen`` epoch, whose test figures are the result.

        ``last`` is the newest checkpoint, which is also what a run without a choice has.

        Raises:
          UserError: another ``epoch``, no checkpoint, or a damaged one.
        """
        check_choice("epoch of a run", epoch, EPOCHS)
        step = self.workdir.newest_checkpoint()
        if not step:
            raise UserError(f"{self.path} has no checkpoint: train it first")
        if epoch == "chosen" and self.selector.keeps_best:
            if step not in self._chosen:
                chosen = checkpoint.read_progress(self.workdir.checkpoints, step)["chosen"]
                self._chosen = {step: chosen["step"] if chosen else step}
            step = self._chosen[step]
        if step not in self._states:
            self._states = {}  # only one state is in memory
            shapes = jax.eval_shape(self.program.method.init, jax.random.key(0), self.data.batch())
            where = self._placement()
            abstract = jax.tree.map(lambda x: x.update(sharding=where), shapes)
            self._states = {step: checkpoint.read_state(self.workdir.checkpoints, step, abstract)}
        return self._states[step]

    def keep(self, program: Program, step: int, state: TrainState) -> None:
        """Uses what training has compiled and computed: the program, and the state at its end."""
        self.use(program)
        self._states = {step: state}

    def use(self, program: Program) -> None:
        """Predicts and evaluates with a program that was compiled already."""
        self.__dict__ |= {"program": program, "_evaluator": program.evaluator}

    def subsets(
        self, split: str | Split = "test", epoch: str = "chosen", data_dir: str = ""
    ) -> dict[str, Any]:
        """The figures of every subset of the modalities: ``Evaluator.subsets``.

        Without the masks of a data set's split; else as ``evaluate`` and ``Evaluator.subsets``.
        """
        split = self.split_of(split, data_dir=data_dir)
        split = getattr(split, "unmasked", split)
        return self._evaluator.subsets(self.load(epoch), split, self.config.evaluation.batch_size)

    def _placement(self) -> jax.sharding.Sharding:
        if jax.process_count() > 1:  # orbax reads on all processes together
            return distributed.data_parallel(jax.device_count()).replicated
        return jax.sharding.SingleDeviceSharding(self._devices[0])

    def predict(
        self,
        inputs: Mapping[str, np.ndarray] | Split,
        present: np.ndarray | None = None,
        epoch: str = "chosen",
    ) -> Predictions:
        """What the run says of new examples; numpy in, numpy out, batched inside.

        Args:
          inputs: ``{modality: array[N, ...]}``, any of the run's modalities, shaped and typed as in
            ``data.json``; or a split of a data set.
          present: ``bool[N, len(inputs)]``, False where an example lacks a modality.
          epoch: ``chosen`` or ``last``, as in ``load``.

        Raises:
          UserError: inputs that this run cannot take, or no checkpoint.
        """
        split = self.split_of_arrays(inputs, present) if isinstance(inputs, Mapping) else inputs
        predictions.check_split(self.data, split)
        state, size = self.load(epoch), self.config.evaluation.batch_size
        found = []
        with ProgressBar(-(-split.examples // size), 0) as bar:
            for batch in evaluation_batches(split, size, 1):
                local = jax.tree.map(lambda array: array[0], batch)
                part = self._outputs(state.variables, state.method_state, local)
                n = int(local["valid"].sum())
                weights = part.weights if part.weights is None else np.asarray(part.weights)[:n]
                found.append(
                    part._replace(
                        fused=np.asarray(part.fused)[:n],
                        unimodal=np.asarray(part.unimodal)[:, :n],
                        weights=weights,
                    )
                )
                bar.update(1)
        return predictions.collect(found, self.data, split.present)

    def split_of_arrays(
        self, inputs: Mapping[str, np.ndarray], present: np.ndarray | None = None
    ) -> Split:
        """The checked split that ``predict`` makes of a user's arrays; arguments as there."""
        modules = self.program.encoders.modules
        vocabularies = {m: getattr(e, "vocabulary", 0) for m, e in modules.items()}
        return predictions.split_of_arrays(self.data, inputs, present, vocabularies)

    @functools.cached_property
    def _outputs(self) -> Callable[..., Any]:
        return jax.jit(outputs(self.program.method))

    def evaluate(
        self,
        split: str | Split = "test",
        modalities: str | Sequence[str] = (),
        epoch: str = "chosen",
        data_dir: str = "",
    ) -> dict[str, Any]:
        """Accuracy, macro-F1 and confusion counts over a split, as in ``result.json``.

        Args:
          split: a name, for which the data set is loaded again; or a split.
          modalities: those that are seen, as ``a+b`` or a sequence; the others count as missing,
            and examples with none of those seen are left out.  (): all.
          epoch: ``chosen`` or ``last``, as in ``load``.
          data_dir: where the data is now, if not where the run found it.

        Raises:
          UserError: an unknown split or modality, or data that differs from the run's.
        """
        name = split if isinstance(split, str) else ""
        split = self.split_of(split, modalities, data_dir)
        return self._evaluator(self.load(epoch), split, self.config.evaluation.batch_size, name)

    def split_of(
        self, split: str | Split, modalities: str | Sequence[str] = (), data_dir: str = ""
    ) -> Split:
        """The split that ``evaluate`` looks at; arguments, and what is raised, as there."""
        if isinstance(modalities, str):
            modalities = modalities.split("+") if modalities else ()
        for modality in modalities:
            what = f"modality of this run ({'+'.join(self.modalities)})"
            check_choice(what, modality, self.modalities)
            if list(modalities).count(modality) > 1:
                raise UserError(f"modalities={'+'.join(modalities)} names '{modality}' twice")
        if isinstance(split, str):
            check_choice(f"split of {self.data.name}", split, self.data.examples)
            split = self.dataset(data_dir).splits[split]
        if modalities:
            split = SubsetOfModalities(split, [m in modalities for m in self.modalities])
        predictions.check_split(self.data, split)
        return split

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.program.method, self._devices, Loader(**self.config.loader))

    def dataset(self, data_dir: str = "") -> Dataset:
        """The data set that the run was trained on, loaded again (``reload.py``)."""
        return reload.dataset_of(self.config, self.path, self.identity["data"], data_dir)

    def save_weights(
        self, path: str | pathlib.Path, encoder: str = "", epoch: str = "chosen"
    ) -> int:
        """Writes the weights to ``.safetensors``, ``.pth`` or a directory: ``weights.py``."""
        return weights.save_weights(self, path, encoder, epoch)

    def export(
        self, path: str | pathlib.Path, batch: int | str = "symbolic", epoch: str = "chosen"
    ) -> None:
        """Writes the prediction as StableHLO, which needs JAX alone to run: ``stablehlo.py``."""
        stablehlo.export_run(self, path, batch, epoch)

    # ---- Training it ---------------------------------------------------------------------------

    def start(self) -> None:
        """Takes the folder: creates and locks it, and opens the checkpoints.

        Raises:
          UserError: it cannot be written, its metrics are damaged, or another process is at work in
            it.
        """
        _ = self.metrics  # damaged ones must come out before anything is changed
        if distributed.is_main():
            self.workdir.create(self.identity, self.data)
        distributed.barrier("workdir")
        self._checkpoints = Checkpoints(self.workdir.checkpoints, self.config.checkpoint.keep)

    def restore(self, state: TrainState) -> tuple[TrainState, int, dict[str, Any]] | None:
        """The newest checkpoint, laid out like ``state``: state, batches done, sums of metrics.

        None where there is none.  The choice of epoch and the stopwatch go on from it.
        """
        restored = self._checkpoints.restore(state, damaged=self.say)
        if not restored:
            return None
        state, progress = restored
        self.workdir.require_same(progress["identity"], self.identity)
        if distributed.is_main():  # only now: a run that cannot be restored stays what it was
            self.workdir.extend(self.identity)
        self.selector.chosen = progress["chosen"]
        self.seconds.continue_from(progress["seconds"])
        if self.selector.keeps_best and self.selector.chosen:
            self._checkpoints.pin(self.selector.chosen["step"])
        return state, progress["batches"], progress["sums"]

    @contextlib.contextmanager
    def recording(self, batches: int) -> Iterator[None]:
        """Keeps ``metrics.jsonl`` open, from ``batches`` on; in the end, saves what is in flight.

        A loss that is no number gets a line of its own.
        """
        try:
            self._record_from(batches)
            yield
        except NonFiniteLossError as error:
            self.record({"event": metrics.NON_FINITE, **error.report})
            raise
        finally:
            self.flush()

    def _record_from(self, batches: int) -> None:
        """Opens ``metrics.jsonl`` and drops its lines past ``batches``, which happen again.

        Says which epochs it lacks, if it was cut short: no checkpoint holds their figures.
        """
        if not distributed.is_main():
            return
        self._metrics = self.workdir.metrics_file(batches)
        config, examples = self.config, self.data.training_examples
        ended = batches // batches_per_epoch(examples, config.batch_size, config.drop_last)
        missing = sorted(set(range(1, ended + 1)) - self._metrics.epochs)
        if missing:
            which = f"epoch{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
            self.say(
                f"{self.workdir.metrics} was cut short and lacks {which}: so will curves.png; "
                "the run itself goes on unchanged"
            )

    def record(self, line: dict[str, Any]) -> None:
        """Appends a line to ``metrics.jsonl``; on process 0 only."""
        if self._metrics:
            self._metrics.write(line)

    def save(
        self, done: int, state: TrainState, stage: str, sums: dict[str, Any], best: bool = False
    ) -> None:
        """Saves a checkpoint after ``done`` batches; ``best``: it is that of the chosen epoch."""
        if best:
            self._checkpoints.pin(done)
        progress = {
            "batches": done,
            "stage": stage,
            "sums": sums,
            "chosen": self.selector.chosen,
            "seconds": self.seconds.spent,
            "identity": self.identity,
        }
        self._checkpoints.save(done, state, progress)

    def flush(self) -> None:
        """Waits for the save in flight and closes the files."""
        files = (self._checkpoints, self._metrics)
        self._checkpoints = self._metrics = None
        with contextlib.ExitStack() as stack:  # closes all of them, whatever goes wrong
            for file in filter(None, files):
                stack.callback(file.close)

    def close(self) -> None:
        """Closes the files and gives the folder back."""
        self.flush()
        self.workdir.release()
