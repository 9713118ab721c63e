"""Encoders: raw modality input -> features ``[B, D]``, one per modality, all of one width D."""

import dataclasses
import inspect
import math
import typing
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mla_jax.encoders import cavmae, conventions, features, m3ae, many, resnet, small
from mla_jax.encoders.spread import ALONE, Spread
from mla_jax.errors import UserError, check_choice
from mla_jax.state import Batch, Stacks, TrainState

REGISTRY: dict[str, type[nn.Module]] = {
    "cavmae_audio": cavmae.CAVMAEAudio,
    "cavmae_visual": cavmae.CAVMAEVisual,
    "conv1d": small.Conv1D,
    "conv2d": small.Conv2D,
    "features": features.Features,
    "m3ae_image": m3ae.M3AEImage,
    "m3ae_text": m3ae.M3AEText,
    "mlp": small.Mlp,
    "ngram_bag": small.NgramBag,
    "resnet18": resnet.ResNet18,
}

KINDS: dict[Any, tuple[type[Any], ...]] = {
    int: (int,), float: (int, float), bool: (bool,), str: (str,)
}  # fmt: skip
"""What a field of this annotation takes."""


LARGEST = 2**20
"""Of the sizes that an encoder may be given."""


class Encoders(NamedTuple):
    """One Linen module per modality, behind two pure functions."""

    modules: Mapping[str, nn.Module]
    feature_dim: int
    complete: bool = False
    """Whether every example of every training batch has every modality, as far as is known before
    compiling.  Batch statistics then need no mask, and the program is the one without."""
    spread: Spread = ALONE
    """How the devices share a training batch."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.modules)

    @property
    def have_batch_statistics(self) -> bool:
        """Whether it matters to any of them which examples lack their modality."""
        return any(map(_knows_present, self.modules.values()))

    def kind(self, modality: str) -> Any:
        """Equal for encoders that are alike: of one class, with equal fields."""
        module = self.modules[modality]
        names = (f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name"))
        return type(module), tuple((name, _key(getattr(module, name))) for name in names)

    @property
    def conventions(self) -> dict[str, dict[str, Any]]:
        """By modality, what pretrained weights must have been made for (``conventions.py``).

        Empty for encoders that any weights of their shape suit.

        Raises:
          UserError: an encoder has a switch of unknown value, or names one that it does not have.
        """
        found = {}
        for modality, module in self.modules.items():
            switches = getattr(module, "switches", None)
            found[modality] = {} if switches is None else conventions.bound(switches)
            if differs := getattr(module, "differs_from_weights", ()):
                if switches is None:
                    raise UserError(
                        f"the encoder of '{modality}' has the field 'differs_from_weights' but no "
                        "'switches': give its class both, or neither"
                    )
                differs = (differs,) if isinstance(differs, str) else tuple(differs)
                for name in differs:
                    check_choice(f"switch in differs_from_weights of '{modality}'", name, switches)
                found[modality]["differs_from_weights"] = differs
        return found

    def fitted(self, streams: Mapping[str, Any]) -> dict[str, Any]:
        """The streams of a data set, normalised as the encoders' weights expect.

        An image stream gets the statistics of its encoder's ``image_normalization``; one of filter
        banks is left as it is by the transform if its encoder normalises it itself.  Others stay.
        ``streams``: ``{modality: named tuple with mean, std, test_mean, test_std}``.
        """
        fitted = dict(streams)
        for modality, module in self.modules.items():
            switches = getattr(module, "switches", None) or {}
            if modality not in streams:
                continue
            if "image_normalization" in switches:
                mean, std = conventions.IMAGE_STATISTICS[switches["image_normalization"]]
            elif "fbank_normalization" in switches:
                mean, std = (), ()
            else:
                continue
            stream = streams[modality]
            fitted[modality] = stream._replace(mean=mean, std=std, test_mean=(), test_std=())
        return fitted

    def key(self, rng: jax.Array, modality: str) -> jax.Array:
        """A key that depends on ``rng`` and the modality's name, not on its company or place."""
        return jax.random.fold_in(rng, self._number(modality))

    def keys(self, rng: jax.Array) -> dict[str, jax.Array]:
        """``key`` of every modality."""
        numbers = {m: np.uint32(self._number(m)) for m in self.modules}
        return many.by_name(lambda n: jax.random.fold_in(rng, n), self.modalities, numbers)

    def _number(self, modality: str) -> int:
        return zlib.crc32(modality.encode()) & 0x7FFFFFFF

    def init(self, rng: jax.Array, inputs: Mapping[str, jax.Array]) -> tuple[dict, dict]:
        """``(params, batch_stats)`` keyed by modality.

        The same audio encoder starts a unimodal run and a trimodal one (``key``).

        Raises:
          UserError: an encoder cannot take the inputs of its modality.
        """
        examples = {m: jnp.asarray(inputs[m][:1]) for m in self.modules}
        keys = self.keys(rng)
        found: dict[str, Any] = {}
        for group in self._alike(lambda m: self.modules[m].init, keys, examples):
            try:
                found |= many.by_group(lambda m: self.modules[m].init, [group], keys, examples)
            except UserError as error:
                raise UserError(
                    f"encoders.{group[0]} does not suit '{group[0]}': {error}"
                ) from error
        # Precomputed features have no parameters.
        params = {m: found[m].get("params", {}) for m in self.modules}
        return params, {m: found[m].get("batch_stats", {}) for m in self.modules}

    def _alike(
        self, function_of: Callable[[str], Callable[..., Any]], *arguments: Mapping[str, Any]
    ) -> list[list[str]]:
        """``many.alike`` for ``function_of(modality)``, which is called with what each of the
        ``arguments`` has for the modality; one by one where it convolves."""
        found = []
        for group in many.alike(self.modalities, self.kind, *arguments):
            of_first = [argument[group[0]] for argument in arguments]
            apart = len(group) > 1 and many.convolves(function_of(group[0]), *of_first)
            found += [[m] for m in group] if apart else [group]
        return found

    def apply(
        self,
        modality: str,
        params: Any,
        batch_stats: Any,
        inputs: jax.Array,
        train: bool,
        present: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Features ``float32[B, D]`` and the new running statistics of one modality.

        In training the examples outside ``present: bool[B]`` (default: none is) take no part in
        batch statistics.
        """
        module = self.modules[modality]
        if not train:
            variables = {"params": params, "batch_stats": batch_stats}
            features: Any = module.apply(variables, inputs, train=False)
            return _full_precision(features), batch_stats

        def forward(
            params: Any, batch_stats: Any, inputs: jax.Array, present: jax.Array | None
        ) -> tuple[jax.Array, Any]:
            options: dict[str, Any] = {} if present is None else {"present": present}
            features, updated = module.apply(
                {"params": params, "batch_stats": batch_stats},
                inputs,
                train=True,
                mutable=["batch_stats"],
                **options,
            )
            return _full_precision(features), updated.get("batch_stats", batch_stats)

        masked = present is not None and not self.complete and _knows_present(module)
        normalized = bool(jax.tree.leaves(batch_stats))
        shared = self.spread.over(forward, normalized, hasattr(module, "axis_name"))
        return shared(params, batch_stats, inputs, present if masked else None)

    def features(
        self, params: Any, batch_stats: Any, batch: Mapping[str, Any], train: bool
    ) -> tuple[Mapping[str, jax.Array], Mapping[str, Any]]:
        """``apply`` to every modality of a batch: ``({modality: [B, D]}, batch_stats)``.

        In training the encoders that the state holds together are computed as one, and the results
        are ``Stacks``; in evaluation all that are alike, and the results are dictionaries.
        """

        def of(m: str) -> Callable[..., tuple[jax.Array, Any]]:
            return lambda theta, stats, x, present: self.apply(m, theta, stats, x, train, present)

        present = many.by_rows(self.modalities, batch["present"].T)
        given = (params, batch_stats, batch["inputs"], present)
        if not train:
            found = many.by_group(of, self._alike(of, *given), *given)
            return _pair({m: found[m] for m in self.modules})
        groups = params.groups if isinstance(params, Stacks) else [[m] for m in self.modalities]
        inputs: Any = {m: batch["inputs"][m] for m in self.modules}
        if self.spread.modality_axis and isinstance(params, Stacks):
            stacks = zip(groups, Stacks.of(groups, inputs).trees, strict=True)
            undivided = self.spread.undivided
            inputs = Stacks(groups, [undivided(x) if g[1:] else x for g, x in stacks])
        given = (params, batch_stats, inputs, present)
        return _pair(many.by_group(of, groups, *given, axis=self.spread.modality_axis))

    def alike(self, state: TrainState, batch: Batch, heads: bool = True) -> dict[str, many.Groups]:
        """``Phase.alike`` of a step that takes every encoder through ``features``, and, with
        ``heads``, the heads that are called like the modalities as one."""

        def of(m: str) -> Callable[..., tuple[jax.Array, Any]]:
            return lambda theta, stats, x, *_: self.apply(m, theta, stats, x, True, present)

        present, params, opt_state = batch["present"][:, 0], state.params, state.opt_state
        inputs = {m: batch["inputs"][m] for m in self.modules}
        given = (params["encoder"], state.batch_stats, inputs, opt_state["encoder"])
        found: dict[str, many.Groups] = {"encoder": self._alike(of, *given)}
        named = [m for m in self.modules if m in params["head"]]
        if heads and len(named) == len(self.modules) == len(params["head"]):
            of_heads = (params["head"], opt_state["head"])
            found["head"] = many.alike(self.modalities, lambda m: "", *of_heads)
        return found


def _pair(found: Mapping[str, Any]) -> tuple[Mapping[str, jax.Array], Mapping[str, Any]]:
    features, batch_stats = many.unzipped(found)
    return features, batch_stats


def _knows_present(module: nn.Module) -> bool:
    """Whether an encoder has batch statistics to keep absent examples out of."""
    takes = "present" in inspect.signature(type(module).__call__).parameters
    return takes and getattr(module, "norm", True)


def _full_precision(features: jax.Array) -> jax.Array:
    """At least float32: bfloat16 goes up, the parity tool's float64 stays."""
    return features.astype(jnp.promote_types(features.dtype, jnp.float32))


def _problem(value: Any, annotation: Any) -> str:
    """What the value of a field must be, as "of type int"; empty if it is that.

    All numbers are sizes or LayerNorm's epsilon, so none may be 0.
    """
    members = typing.get_args(annotation) or (annotation,)
    kind = next((member for member in members if member in KINDS), None)
    if kind is None or (value is None and type(None) in members):
        return ""
    several = typing.get_origin(annotation) is Sequence
    listed = isinstance(value, tuple | list)
    if several and kind is int and not (listed and value):
        return "several, as in (16, 32)"
    for one in value if several and listed else (value,):
        if not isinstance(one, KINDS[kind]) or (isinstance(one, bool) and kind is not bool):
            return f"of type {kind.__name__}"
        if kind is float and not 0 < one < math.inf:
            return "a positive number"
        if kind is int and not 1 <= one <= LARGEST:
            return "at least 1" if one < 1 else f"at most {LARGEST}"
    return ""


def create_encoders(
    configs: Mapping[str, Any],
    modalities: tuple[str, ...],
    feature_dim: int,
    dtype: jnp.dtype,
    spread: Spread = ALONE,
) -> Encoders:
    """Builds ``config.encoders``: per modality a ``name`` of ``REGISTRY`` and the module's fields.

    Raises:
      UserError: a modality without an encoder, an unknown encoder, or an unknown field.
    """
    modules = {}
    for modality in modalities:
        check_choice("modality (it has no config.encoders entry)", modality, configs)
        options = configs[modality]
        if not hasattr(options, "keys") or "name" not in options:
            raise UserError(
                f"config.encoders.{modality} must be a group with a name, as in {{'name': 'mlp'}}"
            )
        options = dict(options)
        name = options.pop("name")
        check_choice(f"encoders.{modality}.name", name, REGISTRY)
        parameters = inspect.signature(REGISTRY[name]).parameters
        for field in options:
            known = parameters.keys() - {"parent", "name", "dtype", "axis_name", "compiled_for"}
            check_choice(f"field of encoder '{name}'", field, known)
            problem = _problem(options[field], parameters[field].annotation)
            if problem:
                raise UserError(f"encoders.{modality}.{field}={options[field]} must be {problem}")
        if "axis_name" in parameters:
            options["axis_name"] = spread.axis_name
        if "compiled_for" in parameters:
            options["compiled_for"] = spread.platform
        modules[modality] = REGISTRY[name](feature_dim=feature_dim, dtype=dtype, **options)
    if not modules:
        raise UserError("config.modalities is empty: name at least one modality")
    encoders = Encoders(modules, feature_dim, spread=spread)
    _ = encoders.conventions  # unknown values are refused before anything is compiled
    return encoders


def _key(value: Any) -> Any:
    """Equal for equal fields of a module.  The ``repr`` of a large array leaves most of it out."""
    leaves, structure = jax.tree.flatten(value)
    arrays = [(x.shape, x.tobytes()) if isinstance(x, np.ndarray | jax.Array) else repr(x)
              for x in leaves]  # fmt: skip
    return str(structure), tuple(arrays)
