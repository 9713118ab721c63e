"""Runs the MLA repository's training and evaluation of its other methods.

OGM reports its coefficients to the TensorBoard writer, for which the recorder stands in.  OGM-GE
draws noise; here each draw is 1 on both sides, so that what is compared is its standard deviation.
"""

import functools
from typing import Any
from unittest import mock

import numpy as np

from mla_jax.parity import rows
from mla_jax.parity.cases import EXAMPLES
from mla_jax.parity.formula import Tensors
from mla_jax.parity.theirs.classifiers import SHORT, Trial, wrapped
from mla_jax.parity.theirs.recording import (
    NO_SCHEDULER,
    Features,
    Recorder,
    loader,
    softmaxes,
    to_numpy,
)

HISTORIES = {
    2: {"audio": "txt_history", "visual": "img_history"},
    3: {"audio": "audio_history", "visual": "img_history", "text": "txt_history"},
}
"""``train_epoch``'s names of the histories; with two modalities the first counts as text."""

QMF_MEANS = {
    2: ("audio", "visual", "joint", "audio", "visual"),
    3: ("audio", "visual", "text", "text", "audio", "visual"),
}
MEANS = {2: ("joint", "audio", "visual"), 3: ("joint", "text", "audio", "visual")}
"""The mean cross-entropies in the order in which ``train_epoch`` computes them."""


def run(trial: Trial) -> Tensors:
    """Every quantity of a column."""
    found = train(trial)
    return found | rows.with_prefix(trial.tensors(), rows.TRAINED) | evaluate(trial)


class ModulatedRecorder(Recorder):
    """Also the writer that OGM reports to."""

    def after_backward(self, loss: Any) -> None:
        """Also keeps the gradients before any modulation."""
        self.k: dict[str, float] = {}
        self.raw = self.trial.gradients()
        super().after_backward(loss)

    def add_scalar(self, tag: str, value: Any, iteration: int) -> None:
        """One call for each modality's coefficient, and for ratios, which are not compared."""
        del iteration
        for m in self.trial.case.modalities:
            if tag == f"data/coefficient {SHORT[m]}":
                self.k[m] = value if isinstance(value, int) else value.item()

    def before_step(self, *_: Any) -> None:
        """Gradients as the optimiser gets them."""
        column, case = self.trial.column, self.trial.case
        if not column.method.startswith("ogm"):
            return
        applied = self.trial.gradients()
        if self.batch == 1:
            modulated = (applied, case.modalities, case.named, ", modulated")
            self.found |= rows.encoder_gradients(*modulated)
        for m, k in self.k.items() if column.epoch == 0 else ():
            self.found[f"coefficient k{self.at} {m}"] = np.array(k)
            if column.method == "ogm_ge":
                name = f"params/encoder/{m}/{case.named[0]}"
                sigma = np.mean(applied[name] - k * self.raw[name], dtype=np.float64)
                self.found[f"deviation of the noise{self.at} {m}"] = sigma


def _inputs_as(modality: str) -> Features:
    """What a head gets, as the features of a modality."""
    return lambda inputs, output: [(modality, inputs[0])]


def train(trial: Trial) -> Tensors:
    """One epoch of the reference's training function over the training set."""
    clone, column, case, _, model, *_ = trial
    torch, modalities = clone.torch, case.modalities
    optimizer = trial.sgd(model.parameters())
    whole = wrapped(torch, model)
    features: dict[Any, Features]
    features = {whole: lambda inputs, output: zip(modalities, output, strict=False)}
    if column.method == "qmf":
        features = {getattr(model, f"{m}_fc"): _inputs_as(m) for m in modalities}
    recorder = ModulatedRecorder(trial, features)
    recorder.means_of = (QMF_MEANS if column.method == "qmf" else MEANS)[len(modalities)]
    histories = {m: clone.utils.History(EXAMPLES) for m in modalities}
    rank_loss = clone.main.rank_loss

    def recorded_rank_loss(confidence: Any, index: Any, history: Any) -> Any:
        value = rank_loss(confidence, index, history)
        (m,) = [m for m, known in histories.items() if known is history]
        recorder.found[f"ranking loss{recorder.at} {m}"] = to_numpy(value)
        recorder.found[f"history{recorder.at} {m}"] = history.correctness.copy()
        return value

    with (
        recorder.watching(optimizer),
        mock.patch.object(clone.main, "rank_loss", recorded_rank_loss),
        mock.patch.object(torch.Tensor, "normal_", lambda t, mean, std: t.fill_(mean + std)),
    ):
        clone.main.train_epoch(
            trial.script.options, column.epoch, whole, torch.device("cpu"),
            loader(torch, case.training_batches(trial.dtype)), optimizer, NO_SCHEDULER,
            writer=recorder, **{HISTORIES[len(modalities)][m]: h for m, h in histories.items()},
        )  # fmt: skip
    return recorder.found


def evaluate(trial: Trial) -> Tensors:
    """The reference's evaluation over a ragged test set."""
    clone, _, case, dtype, model, *_ = trial
    order = ("fused", *(m for m in ("visual", "audio", "text") if m in case.modalities))
    valid = functools.partial(
        clone.main.valid, trial.script.options, wrapped(clone.torch, model),
        clone.torch.device("cpu"), loader(clone.torch, case.test_batches(dtype)),
        **trial.script.evaluation,
    )  # fmt: skip
    scores, logits = softmaxes(clone.torch, order, valid)
    return rows.predictions(logits, dict(zip(("fused", *case.modalities), scores, strict=True)))
