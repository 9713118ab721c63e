"""What the parity tool reads from a clone's own scripts: here from scripts written for the test."""

import importlib.util
import math

import numpy as np
import pytest

from mla_jax.errors import UserError
from mla_jax.functional.fusion import RELEASED_FIXED_WEIGHTS
from mla_jax.functional.heads import init_head
from mla_jax.parity import compare, rows
from mla_jax.parity.columns import COLUMNS
from mla_jax.parity.ours.compiled import learning_rates, unit_noise

torch = pytest.importorskip("torch")

from mla_jax.parity.theirs import published  # noqa: E402
from mla_jax.parity.theirs.clones import Clone  # noqa: E402

OPTIONS = """
import argparse, torch

def options():
    parser = argparse.ArgumentParser()
    for name in ("dataset", "ckpt_path", "tensorboard_path", "logs_path", "gpu_ids", "lorb",
                 "load_path", "load_path_other"):
        parser.add_argument("--" + name)
    for name in ("train", "no_cuda", "gs_flag", "modal3"):
        parser.add_argument("--" + name, action="store_true")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--drop_every", type=int, default=70)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--embed_dim", type=int, default=512)
    return parser.parse_args()

def learner(chosen, parameters):
    sgd = torch.optim.SGD(parameters, chosen.rate, momentum=0.9, weight_decay=1e-4)
    return sgd, torch.optim.lr_scheduler.StepLR(sgd, chosen.drop_every, gamma=0.1)
"""
MAIN = (
    OPTIONS.replace("EPOCHS", "100")
    + """
def draw(layer):
    if isinstance(layer, torch.nn.Linear):
        torch.nn.init.xavier_normal_(layer.weight, gain=1.0)
        torch.nn.init.zeros_(layer.bias)

class AVClassifier(torch.nn.Module):
    def __init__(self, chosen):
        super().__init__()
        self.head = torch.nn.Linear(512, 6)

AVDataset = DataLoader = SummaryWriter = train_epoch = valid = None

def main(share=0.5):
    chosen = options()
    model = AVClassifier(chosen)
    model.apply(draw)
    model.to(torch.device("cuda:0"))
    model = torch.nn.DataParallel(model, device_ids=[]).cuda()
    sgd, schedule = learner(chosen, model.parameters())
    data = DataLoader(AVDataset(chosen, mode="train"), num_workers=32)
    for epoch in range(chosen.epochs):
        train_epoch(chosen, epoch, model, "cuda:0", data, sgd, schedule, av_alpha=share)
        valid(chosen, model, "cuda:0", data, av_alpha=share)

if __name__ == "__main__":
    main(share=0.55)
"""
)
STAGE1 = (
    OPTIONS.replace("EPOCHS", "150")
    + """
AClassifier = VClassifier = CramedDataset = get_indices = train_epoch = valid = None

def main():
    chosen = options()
    first, second = AClassifier(chosen), VClassifier(chosen)
    shared = torch.nn.Linear(512, 6)
    sgd, schedule = learner(chosen, shared.parameters())
    for epoch in range(chosen.epochs):
        if epoch == 20:
            get_indices(chosen, first, second)
        train_epoch(chosen, epoch, first, second, shared, "cpu", [], sgd, schedule, [], [], 1, 1)
        valid()

if __name__ == "__main__":
    main()
"""
)
STAGE2 = (
    OPTIONS.replace("EPOCHS", "20")
    + """
AClassifier = VClassifier = AVClassifier = CramedDataset = None
train_combine_classifier_epoch = None

def main():
    chosen = options()
    first, fused = AClassifier(chosen), AVClassifier(chosen).fusion_module
    first.load_state_dict(torch.load(chosen.load_path)["model"])
    sgd, schedule = learner(chosen, fused.parameters())
    train_combine_classifier_epoch(chosen, 0, first.net, first.net, fused, None, None, "cpu", [],
                                   sgd, schedule)

if __name__ == "__main__":
    main()
"""
)
SCRIPTS = {"main": MAIN, "stage1": STAGE1, "stage2": STAGE2}
RATES = {"main": 100, "stage1": 150, "stage2": 20}


def read(tmp_path, script, *edit):
    """What the tool reads from a script, in which ``edit`` replaces one word by another."""
    text = SCRIPTS[script]
    assert not edit or edit[0] in text
    path = tmp_path / f"{script}_{len(list(tmp_path.iterdir()))}.py"
    path.write_text(text.replace(*edit) if edit else text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clone = Clone(torch=torch, **{script: module})
    if script == "main":
        return published.mla(clone, True, COLUMNS["released"].command)
    if script == "stage1":
        return published.stage1(clone, own_model=False)
    return published.stage2(clone, torch.nn.Linear(2, 2))


def momentum_of(found):
    """How far the second of two steps goes on a gradient of 1, in learning rates."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = found.optimizer_of([weight], 1.0)
    for _ in range(2):
        weight.grad, before = torch.ones_like(weight), weight.item()
        optimizer.step()
    return before - weight.item()


@pytest.mark.parametrize("script", SCRIPTS)
def test_momentum_is_the_script_s(script, tmp_path):
    """And decay: 1.9 is 1 + 0.9, less 1e-4 of the first step."""
    assert momentum_of(read(tmp_path, script)) == pytest.approx(1.9 - 1e-4, abs=1e-9)
    edited = read(tmp_path, script, "momentum=0.9", "momentum=0.8")
    assert momentum_of(edited) == pytest.approx(1.8 - 1e-4, abs=1e-9)


def rates_agree(found):
    ours = learning_rates(len(found.rates))
    return not compare.failures({"released": compare.compare(rows.rates(found.rates), ours)})


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_schedule_is_the_script_s(script, tmp_path):
    """Of stage 2, whose 20 epochs end before the first step down, the rate only."""
    found = read(tmp_path, script)
    assert len(found.rates) == RATES[script] and rates_agree(found)
    edits = [("default=0.001", "default=0.002")]
    if script != "stage2":
        edits += [("default=70", "default=60"), ("gamma=0.1", "gamma=0.2")]
    for edit in edits:
        assert not rates_agree(read(tmp_path, script, *edit)), edit


def test_the_epoch_of_the_split_is_the_script_s(tmp_path):
    assert read(tmp_path, "stage1").splits == (20,)
    assert read(tmp_path, "stage1", "== 20", "== 30").splits == (30,)


def test_the_fixed_weight_of_the_first_modality_is_the_script_s(tmp_path):
    """``av_alpha``: what the command passes, not the default of its function."""
    weight = RELEASED_FIXED_WEIGHTS[2][0]
    assert read(tmp_path, "main").evaluation == {"av_alpha": weight}
    assert read(tmp_path, "main", "share=0.55", "share=0.6").evaluation == {"av_alpha": 0.6}


def test_the_initialisation_is_the_script_s(tmp_path):
    with unit_noise():
        head = init_head(None, 512, 6)
    ours = {"kernel": np.asarray(head["kernel"]).T, "bias": np.asarray(head["bias"])}

    def agrees(*edit):
        with published.unit_draws(torch):
            (model,) = read(tmp_path, "main", *edit).models
        theirs = {"kernel": model.head.weight.detach(), "bias": model.head.bias.detach()}
        both = (
            rows.initialization(x) for x in ({n: np.asarray(t) for n, t in theirs.items()}, ours)
        )
        return not compare.failures({"released": compare.compare(*both)})

    assert ours["kernel"].max() == pytest.approx(math.sqrt(2 / 518), rel=1e-6)
    assert agrees()
    assert not agrees("gain=1.0", "gain=1.1")
    assert not agrees("xavier_normal_", "xavier_uniform_")
    assert not agrees("model.apply(draw)", "pass")


@pytest.mark.parametrize(
    ("script", "call"),
    [("main", "valid(chosen"), ("stage1", "train_epoch(chosen"), ("stage2", "train_combine")],
)
def test_a_script_that_does_not_train_is_named(script, call, tmp_path):
    with pytest.raises(UserError, match=f"{script}_0.py does not train as the published one"):
        read(tmp_path, script, f"    {call}", f"    0 and {call}")


def test_a_script_that_does_nothing_is_named(tmp_path):
    with pytest.raises(UserError, match="does nothing as a command"):
        read(tmp_path, "main", "__main__", "__mian__")
