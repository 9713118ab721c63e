"""TATE: tag-assisted transformer encoder (Zeng, Liu and Zhou, SIGIR 2022).

Every modality is a step of a sequence; z_m is 0 where the modality is missing.

    e_m = block_m(W_m z_m)
    c_m = [e_m P_mk for all k != m],   one matrix P_mk = P_km per unordered pair
    X   = [c_m; tag],  tag = (complete, missing_1, ..., missing_M), the same at every step
    E   = block_enc(X),   D = block_dec(E),   g = gated attention pooling of E
    o   = V (U g) + b
    L   = CE(o, y) + 0.1 KL(E, E_guide) + 0.1 KL(D, X) + 0.1 mean |tag - sigmoid(g_tag)|
          + 1e-5 / 2 ||(V, b)||^2

KL is symmetric, between softmaxes over the features of a step, and a mean over steps; g_tag is the
part of g in the tag's place.  Stage ``guide`` trains the same network on complete inputs, without
the guide's term.  Stage ``missing`` continues from there on masked inputs, and E_guide is the
output of a frozen copy of the guide on the complete inputs.  A modality that the data itself lacks
adds nothing to the guide's term.

Source: ``iemocap/network.py`` and ``module.py`` of ``JaydenZeng/TATE``.  Only what this code
shows is implemented.  It has no encoders, but sequences of precomputed features with 300 steps in
all; here the encoder gives one vector, so a modality is one step.  Neither has position embeddings.
For M modalities P_mk is d x d/(M - 1), 300 x 150 there; with one modality c_m = e_m.  Pairs
and tags are in alphabetical order of the modalities, so that their order in the configuration does
not matter; the tag is padded with zeros so that the heads divide the width.  ``width`` 0 means
feature_dim, ``missing_epochs`` 0 as many as the guide's.  Published: Adam 1e-3, width 300, batches
of 32.

``released`` repeats the code's mistakes: every example has the last tag (``self.flag[i] == -1``
compares a tensor with a number, which is False; quirk i), the guide sees the masked inputs (quirk
iii), and the terms of the tag and the classifier, which unlike the others do not grow with the
batch, have weight 1/32.  Its dropout stays on at test time (quirk ii), which is not repeated.
LayerNorm's epsilon is 1e-8 there: at a vector of zeros it multiplies gradients by 10,000, which
Adam tolerates and SGD does not; so ``norm_epsilon`` is a switch.  MOSI's code has ten times the L2
weight.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.functional import attention
from mla_jax.functional.heads import HIGHEST, apply_head, init_head
from mla_jax.functional.losses import accuracy, cross_entropy, shared_out
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods.base import Method, Phase, ReduceTraining, Stage, Task
from mla_jax.methods.joint import Features, joint_fusion, visible
from mla_jax.state import Batch, Metrics, Prediction, TrainState

FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        "width": 0,
        "attention_heads": 4,
        "dropout": 0.2,
        "norm_epsilon": 1e-2,
        "guide_weight": 0.1,
        "decoder_weight": 0.1,
        "tag_weight": 0.1,
        "l2_weight": 1e-5,
        "missing_epochs": 0,
        "tags": "real",
        "guide_input": "whole",
    },
    "released": {
        "tag_weight": 0.1 / 32,
        "l2_weight": 1e-5 / 32,
        "tags": "last",
        "guide_input": "masked",
    },
}
CHOICES = {"tags": ("real", "last"), "guide_input": ("whole", "masked")}
LIMITS = {
    "width": (0, 100_000),
    "attention_heads": (1, 1000),
    "dropout": (0, 0.99),
    "norm_epsilon": (1e-12, 1),
    **dict.fromkeys(("guide_weight", "decoder_weight", "tag_weight", "l2_weight"), (0, math.inf)),
    "missing_epochs": (0, 1_000_000),
}
HANDLES_MISSING = True
SEES_HIDDEN = True


class Pass(NamedTuple):
    """One pass through the network."""

    steps: jax.Array
    """X, ``float32[B, M, W]``."""
    encoded: jax.Array
    """E, ``float32[B, M, W]``."""
    pooled: jax.Array
    """g, ``float32[B, W]``."""
    logits: jax.Array


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """TATE for any number of modalities."""
    modalities, M = encoders.modalities, len(encoders.modalities)
    network = Network(switches, encoders, task)
    epsilon, heads_of = switches.norm_epsilon, switches.attention_heads

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        encoder_rng, head_rng = jax.random.split(rng)
        encoder_params, batch_stats = encoders.init(encoder_rng, batch["inputs"])
        params = {"encoder": encoder_params, "head": network.init(head_rng)}
        opt_state = {
            group: {key: optimizer.init(module) for key, module in modules.items()}
            for group, modules in params.items()
        }
        nobody = jax.tree.map(jnp.zeros_like, {"params": params, "batch_stats": batch_stats})
        key = jax.random.key_data(jax.random.fold_in(rng, 2))
        return TrainState(params, batch_stats, opt_state, {"dropout": key, "guide": nobody})

    def update(state: TrainState, batch: Batch, info: StepInfo, guided: bool):
        shown = {**batch, **(batch if guided else batch["whole"])}
        present, valid, label = shown["present"], batch["valid"], batch["label"]
        kept = network.kept(state.method_state["dropout"], batch, info)
        target = guide_of(state, batch) if guided else None
        kept_decoder = kept["decoder"] if kept else None

        def objective(params):
            z, stats = encoders.features(params["encoder"], state.batch_stats, shown, train=True)
            heads = params["head"]
            found = network(heads, visible(z, present, modalities), present, kept)
            decoded = attention.block(
                heads["decoder"], found.encoded, heads_of, epsilon, kept_decoder
            )
            of_steps = attention.symmetric_divergence(decoded, found.steps).mean(1)
            losses = cross_entropy(found.logits, label) + switches.decoder_weight * of_steps
            losses += switches.tag_weight * network.tag_loss(found.pooled, present)
            classifier = sum((leaf**2).sum() for leaf in jax.tree.leaves(heads["classifier"]))
            losses += switches.l2_weight / 2 * classifier
            if target is not None:
                has = batch["whole"]["present"][:, network.columns]
                apart = attention.symmetric_divergence(found.encoded, target)
                mean = jnp.where(has, apart, 0).sum(1) / jnp.maximum(has.sum(1), 1)
                losses += switches.guide_weight * mean
            losses = shared_out(losses, valid)
            return losses.mean(), (losses, found.logits, stats)

        grad = jax.value_and_grad(objective, has_aux=True)
        (loss, (losses, logits, stats)), gradients = grad(state.params)
        occurs = dict(zip(modalities, present.any(0), strict=True))
        params, opt_state = {}, {}
        for group, modules in state.params.items():
            stepped = {
                key: optimizer.step(
                    gradients[group][key],
                    state.opt_state[group][key],
                    module,
                    info,
                    where=occurs.get(key),
                )
                for key, module in modules.items()
            }
            params[group] = {key: new for key, (new, _) in stepped.items()}
            opt_state[group] = {key: new for key, (_, new) in stepped.items()}
        metrics = {
            "loss": loss,
            "accuracy": accuracy(logits, label, valid),
            "examples": valid.sum(),
            "example_loss": losses,
        }
        return TrainState(params, stats, opt_state, state.method_state), metrics

    def guide_of(state: TrainState, batch: Batch) -> jax.Array:
        """E of the guide, ``float32[B, M, W]``."""
        guide = state.method_state["guide"]
        whole = batch["whole"] if switches.guide_input == "whole" else batch
        frozen = guide["params"]["encoder"], guide["batch_stats"]
        z, _ = encoders.features(*frozen, whole, train=False)
        z = visible(z, whole["present"], modalities)
        return network(guide["params"]["head"], z, whole["present"], None).encoded

    def learn_whole(state: TrainState, batch: Batch, info: StepInfo) -> tuple[TrainState, Metrics]:
        return update(state, batch, info, guided=False)

    def learn_missing(
        state: TrainState, batch: Batch, info: StepInfo
    ) -> tuple[TrainState, Metrics]:
        return update(state, batch, info, guided=True)

    def freeze(state: TrainState, epoch: int, reduce_training: ReduceTraining) -> TrainState:
        """Before the first epoch with masks: the guide becomes a copy of the network."""
        del reduce_training
        if epoch:
            return state
        guide = jax.tree.map(jnp.copy, state.variables)  # a buffer can be donated only once
        return state.replace(method_state={**state.method_state, "guide": guide})

    def predict(variables: dict[str, Any], batch: Batch) -> Prediction:
        params, present = variables["params"], batch["present"]
        z, _ = encoders.features(params["encoder"], variables["batch_stats"], batch, train=False)

        def logits(shown: jax.Array) -> jax.Array:
            return network(params["head"], visible(z, shown, modalities), shown, None).logits

        # Separate, so that XLA drops the unimodal logits where they are not used.
        alone = present & jnp.eye(M, dtype=bool)[:, None]
        return Prediction(jax.vmap(logits)(alone), joint=logits(present))

    stages = (
        Stage("guide", task.epochs, (Phase("guide", learn_whole),)),
        Stage(
            "missing",
            switches.missing_epochs or task.epochs,
            (Phase("missing", learn_missing),),
            freeze,
        ),
    )
    return Method("tate", modalities, task.classes, init, stages, predict, joint_fusion)


class Network:
    """The transformer between features and logits, as functions of its parameters."""

    def __init__(self, switches: Any, encoders: Encoders, task: Task):
        self.switches, self.encoders, self.task = switches, encoders, task
        self.names = sorted(encoders.modalities)
        """The modalities in the order of steps, pairs and tags."""
        self.pairs = [_pair(*pair) for pair in itertools.combinations(self.names, 2)]
        self.columns = jnp.array([encoders.modalities.index(m) for m in self.names])
        heads, M = switches.attention_heads, len(self.names)
        self.width = switches.width or _multiple(encoders.feature_dim, heads)
        attention.check_width(self.width, heads)
        self.pair_width = math.ceil(self.width / max(M - 1, 1))
        self.common = self.pair_width * (M - 1) or self.width
        self.step_width = _multiple(self.common + 1 + M, heads)

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """The heads: one per modality, one per pair, and the common one."""
        law, D, W = self.task.head_init, self.encoders.feature_dim, self.step_width
        keys = jax.random.split(jax.random.fold_in(rng, 1), 4)

        def of_modality(key: jax.Array) -> dict[str, Any]:
            first, second = jax.random.split(key)
            matrix = init_head(first, D, self.width, law)["kernel"]
            return {"projection": matrix, "block": attention.init_block(second, self.width, law)}

        own = jax.vmap(of_modality)(self._keys(rng, self.names))
        blocks = jax.vmap(lambda key: attention.init_block(key, W, law))(jax.random.split(keys[0]))
        return {
            **_unstacked(own, self.names),
            **self._init_pairs(rng),
            **_unstacked(blocks, ["encoder", "decoder"]),
            "pool": attention.init_pool(keys[1], W, law),
            "pooled": {"projection": init_head(keys[2], W, self.width, law)["kernel"]},
            "classifier": init_head(keys[3], self.width, self.task.classes, law),
        }

    def _init_pairs(self, rng: jax.Array) -> dict[str, Any]:
        """The common spaces; none with one modality."""
        if not self.pairs:
            return {}
        keys, law = self._keys(rng, self.pairs), self.task.head_init
        matrices = attention.init_matrices(keys, self.width, self.pair_width, law)
        return _unstacked({"projection": matrices}, self.pairs)

    def _keys(self, rng: jax.Array, names: Sequence[str]) -> jax.Array:
        return jnp.stack([self.encoders.key(rng, name) for name in names])

    def __call__(
        self,
        heads: Mapping[str, Any],
        features: Features,
        present: jax.Array,
        kept: Mapping[str, jax.Array] | None,
    ) -> Pass:
        """``features``: zeros where ``present: bool[B, M]`` is False; ``kept``: see ``kept``."""
        of = (self.switches.attention_heads, self.switches.norm_epsilon)
        own = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(heads[m] for m in self.names))
        z = jnp.stack([features[m] for m in self.names])
        x = jnp.matmul(z, own["projection"], precision=HIGHEST)[:, :, None]
        blocks = jax.vmap(lambda params, x, kept: attention.block(params, x, *of, kept))
        e = blocks(own["block"], x, kept["own"] if kept else None)[:, :, 0]  # [M, B, d]
        if self.pairs:
            matrices = [
                [heads[_pair(m, k)]["projection"] for k in self.names if k != m] for m in self.names
            ]
            e = jnp.einsum("mbd,mkdp->mbkp", e, jnp.array(matrices), precision=HIGHEST)
        tag = jnp.broadcast_to(self.tags(present), (*e.shape[:2], self.step_width - self.common))
        x = jnp.concatenate([e.reshape(*e.shape[:2], -1), tag], 2).swapaxes(0, 1)
        encoded = attention.block(heads["encoder"], x, *of, kept["encoder"] if kept else None)
        pooled = attention.pool(heads["pool"], encoded)
        u = jnp.matmul(pooled, heads["pooled"]["projection"], precision=HIGHEST)
        return Pass(x, encoded, pooled, apply_head(heads["classifier"], u))

    def tags(self, present: jax.Array) -> jax.Array:
        """``float32[B, step_width - common]`` of ``present: bool[B, M]``."""
        missing = ~present[:, self.columns]
        bits = jnp.concatenate([~missing.any(1, keepdims=True), missing], 1)
        if self.switches.tags == "last":
            bits = jnp.broadcast_to(jnp.arange(bits.shape[1]) == bits.shape[1] - 1, bits.shape)
        fill = self.step_width - self.common - bits.shape[1]
        return jnp.pad(bits.astype(jnp.float32), ((0, 0), (0, fill)))

    def tag_loss(self, pooled: jax.Array, present: jax.Array) -> jax.Array:
        """The mean error of the tag, the last entries of g: ``float32[B]``."""
        bits = 1 + len(self.names)
        found = jax.nn.sigmoid(pooled[:, self.common : self.common + bits])
        return jnp.abs(self.tags(present)[:, :bits] - found).mean(1)

    def kept(self, key_data: jax.Array, batch: Batch, info: StepInfo) -> dict[str, Any] | None:
        """The dropout factors of the attention weights of each block: 0 or 1 / (1 - rate).

        They depend on the run's seed, the step and the example, not on its place in the batch.
        """
        rate, M, heads = self.switches.dropout, len(self.names), self.switches.attention_heads
        if not rate:
            return None
        key = jax.random.wrap_key_data(key_data)
        number = jnp.asarray(info.epoch) * info.batches_per_epoch + info.batch_index
        key = jax.random.fold_in(key, number)

        def draw(index: jax.Array) -> jax.Array:
            shape = (heads, 2 * M + 1, M)
            return jax.random.bernoulli(jax.random.fold_in(key, index), 1 - rate, shape)

        drawn = jax.vmap(draw)(batch["index"]) / (1 - rate)
        own = drawn[:, :, 2 * M].transpose(2, 0, 1)[..., None, None]
        return {"own": own, "encoder": drawn[:, :, :M], "decoder": drawn[:, :, M : 2 * M]}


def _pair(one: str, other: str) -> str:
    """The name of an unordered pair."""
    return "+".join(sorted((one, other)))


def _unstacked(tree: Any, names: Sequence[str]) -> dict[str, Any]:
    """A tree per name, from one tree whose leaves have the names along their first axis."""
    return {name: jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i, name in enumerate(names)}


def _multiple(number: int, of: int) -> int:
    """The smallest multiple that is at least ``number``."""
    return -(-number // of) * of
