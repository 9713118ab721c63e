"""One sentence per field of the configuration, per switch of a method and per field of an encoder.

The site's reference is made of them (``docs/generate``).  A test holds that each field, switch and
encoder field of the code has one, and that none is left over.
"""

FIELDS: dict[str, str] = {
    "seed": "Seed of the initial weights and of the order of the examples.",
    "dataset.name": "Name of the data set.",
    "dataset.path": "`digits`: another copy of its file. `arrays`: the folder of the arrays.",
    "dataset.data_dir": "Folder or bucket that `python -m mla_jax.prepare` wrote to.",
    "dataset.stage_dir": "Folder that data of a bucket is copied to. Empty: mla_jax-USER in the "
    "system's temporary folder, which later starts use again.",
    "dataset.variant": "Variant of the data set, or the name given to `prepare`.",
    "dataset.recipe": "How sound is represented. Empty: the data set's default.",
    "dataset.split": "How the data is divided into train, validation and test. `auto`: as the "
    "protocol says.",
    "dataset.split_seed": "Seed of splits that are drawn at random.",
    "dataset.crop": "Side in pixels of the square cut from pictures. 0: the data set's own.",
    "dataset.noise": "Deviation of one fixed noise pattern added to pictures within [0, 1].",
    "dataset.synthetic": "Whether to train on generated data of the same shapes and classes.",
    "dataset.synthetic_sizes": "Generated examples: training, validation, test.",
    "modalities": "The modalities to train on, in the order in which MLA visits them.",
    "encoders": "For each modality, the name of an encoder and its fields.",
    "feature_dim": "D, the width of the features. All encoders share it.",
    "head_init": "How linear layers on features start. `auto`: `xavier` under `fidelity=paper`. "
    "Under the others as published: `torch` for the classifiers of transformers and stored "
    "features, `xavier_untruncated` for the rest.",
    "compute_dtype": "Type of the encoders' arithmetic. `auto`: `float32` on a CPU, `bfloat16` on "
    "GPU and TPU.",
    "method": "The method, its fidelity and its switches.",
    "init_from": "Checkpoints to start from, runs or converted weights, as `a,b`.",
    "optimizer.name": "The optimiser, with the update rule of `torch.optim`.",
    "optimizer.learning_rate": "The learning rate before the schedule lowers it.",
    "optimizer.momentum": "Momentum of `sgd`.",
    "optimizer.nesterov": "Whether the momentum of `sgd` is Nesterov's.",
    "optimizer.beta1": "First decay rate of `adam` and `adamw`.",
    "optimizer.clip_norm": "Largest norm of the gradient of each encoder and head. 0: no clipping.",
    "optimizer.weight_decay": "Weight decay on every parameter.",
    "optimizer.schedule": "How the learning rate changes. `linear`: constant for the first fifth "
    "of the epochs, then down in a straight line, to 0 after the last.",
    "optimizer.decay_every": "Epochs per step of `schedule=step`. 0: one step at 70 % of the "
    "epochs.",
    "optimizer.decay_rate": "Factor of each step of `schedule=step`.",
    "optimizer.warmup_epochs": "Epochs in which the learning rate rises to its value.",
    "batch_size": "Examples per batch, over all devices.",
    "batch_norm": "Statistics of batch normalisation in training: `global`, of the whole batch; "
    "`device`, of each device's part of it, as in `DataParallel`.",
    "batch_norm_devices": "For `batch_norm=device`: how many devices are meant. 0: those of the "
    "run.",
    "modality_devices": "How many devices share the encoders of eight or more alike modalities "
    "between them, for methods that train them together. Each part of the batch is then on all of "
    "these devices. Without effect on one device.",
    "gradient_sum_dtype": "Type in which the devices' gradients are summed. `compute`: as "
    "computed.",
    "drop_last": "Whether to leave out the last, partial batch of an epoch. Unset: true under "
    "`fidelity=paper` alone.",
    "absent": "What methods make of a missing modality: `skip` it, or take it for `zeros`, as the "
    "published code does. `auto`: `skip` under `fidelity=paper` and for methods that are about "
    "missing modalities, else `zeros`.",
    "missing.rule": "Rule by which modalities of the examples are hidden.",
    "missing.train": "Rate of hidden modalities in the training split; `rule` says how.",
    "missing.test": "Rate of hidden modalities in the test and validation splits.",
    "missing.seed": "Seed of the masks. They do not depend on `seed`.",
    "missing.fill": "What stands for a missing input.",
    "missing.masks": "An `.npz` file with masks, in place of a rule.",
    "epochs": "Epochs of training.",
    "protocol": "`strict`: never select on the test set. `paper`: report the best test epoch.",
    "selection": "How the reported epoch is chosen. `auto`: `best_test` under `protocol=paper`; "
    "else `validation` where the data set can be selected on, else `last`.",
    "evaluation.batch_size": "Examples per batch of evaluation.",
    "evaluation.every_epochs": "Epochs from one evaluation to the next.",
    "telemetry.every_steps": "Batches from one measurement to the next. 0: no telemetry.",
    "telemetry.examples": "Examples of the probe batch.",
    "checkpoint.every_epochs": "Epochs from one checkpoint to the next. 0: by batches alone.",
    "checkpoint.every_steps": "Batches from one checkpoint to the next. 0: by epochs alone.",
    "checkpoint.keep": "How many of the newest checkpoints stay.",
    "loader.workers": "Processes that load batches. 0: the training process does. `auto`: 0 "
    "for data in memory, on fewer than 4 cores and in a script of yours; else one per usable core "
    "but one, at most 16.",
    "loader.threads": "Threads per loading process, each of which loads a batch.",
    "loader.prefetch": "Batches held ready per loading process.",
    "check_loss_every": "Batches from one check that the loss is finite to the next.",
    "log_every_steps": "Batches per line about loss and speed. 0: no such lines.",
    "profile": "`FROM:TO`: trace these batches with `jax.profiler`. `FROM:TO:all`: on every "
    "process.",
}

_DROPOUT = "Dropout rate of the heads."
_LAYERS = "Widths of the autoencoder's layers. Empty: the published ones relative to M D."
_HEAD_LAYERS = "Widths of the head's hidden layers. Empty: the published ones relative to D."
_START = "How linear layers start. `head_init`: as the field of that name says."
_PROJECTIONS = "k, directions or code numbers per view. 0: 10, or the smallest width if less."
_PAIRS = "Whether covariances count filled entries, or only examples that have both modalities."
_AUTOENCODER = {
    "layers": _LAYERS,
    "head_layers": _HEAD_LAYERS,
    "reconstruction_weight": "w, the weight of the reconstruction of what masks hide.",
    "dropout": _DROPOUT,
    "initialization": _START,
}
_IMAGINATION = {
    "layers": _LAYERS,
    "blocks": "Autoencoders in the cascade.",
    "head_layers": _HEAD_LAYERS,
    "dropout": "Dropout rate of the student's classifier.",
    "teacher_dropout": "Dropout rate of the teacher's head.",
    "teacher_epochs": "Epochs of the teacher. 0: the published share of the epochs.",
    "initialization": _START,
}
_CORRELATION = {
    "projections": _PROJECTIONS,
    "regularization": "r, added to the covariances.",
    "pairs": _PAIRS,
    "svm_cost": "C of the linear SVM.",
}
_DEEP = {
    **_CORRELATION,
    "third_encoder": "`own`: an encoder per modality. `second`: the third modality takes the "
    "second's encoder, as released.",
}
_MODULATION = {
    "joint": "The joint method that is modulated.",
    "unimodal_bias": "How a modality's own score counts the bias of the head, under `joint=sum`.",
    "alpha": "How strongly the leading encoder is slowed down.",
    "ratio": "How the ratio of more than two modalities is formed.",
    "tensors": "Which tensors of an encoder are modulated.",
    "first_epoch": "First epoch with modulation.",
    "last_epoch": "Last epoch with modulation.",
}

SWITCHES: dict[str, dict[str, str]] = {
    "unimodal": {"fusion": "One modality needs no fusion; the switch has one value."},
    "ensemble": {"average": "What is averaged at test time."},
    "late_fusion": {"fusion": "Weights of the modalities at test time."},
    "sum": {
        "unimodal_bias": "How a modality is scored alone: with its bias, or in evaluation with the "
        "bias divided by M, as released.",
    },
    "concat": {},
    "film": {"condition_on": "The modality that modulates the others. Empty: the first."},
    "gated": {"gate": "The modality that is gated. Empty: the last."},
    "modality_dropout": {
        "rate": "Chance that a modality of an example is hidden in training. An example that would "
        "lose all of them keeps all."
    },
    "ogm": _MODULATION,
    "ogm_ge": _MODULATION,
    "qmf": {
        "fused_loss": "Whether the loss of the fused logits counts.",
        "ranking_weight": "lambda, the weight of the ranking loss.",
        "margin": "Whether the margin of the ranking loss is enforced or a tolerance.",
    },
    "dimml": {
        "heads": "How the heads of the first stage start.",
        "norm_scale_std": "Deviation of the initial scales of batch normalisation around 1.",
        "shared_weight": "lambda, the weight of the shared head's loss. 0: no shared head.",
        "duc_weight": "Weight of the contrastive loss. 0: no contrastive loss.",
        "temperature": "Temperature of the contrastive loss.",
        "fusion": "Weights of the predictions at test time.",
        "certainty_temperature": "tau_2, the temperature of the weighting by certainty.",
        "split_epoch": "Epoch before which dimensions are split. 0: the published share.",
        "fusion_epochs": "Epochs of the second stage. 0: the published share.",
        "fused_head": "The joint method that makes the fused head.",
    },
    "mla": {
        "projection.enabled": "Whether the gradient of the shared head is projected.",
        "projection.denominator": "The denominator of the update of P: a scalar as in the paper, "
        "or a matrix divided by entry by entry.",
        "projection.normalize": "Whether P is divided by its Frobenius norm after each update.",
        "projection.order": "Whether P acts on this gradient before or after it is updated.",
        "projection.apply": "Whether the projected gradient replaces the gradient or is added.",
        "projection.skip_first": "Whether the very first call neither projects nor updates.",
        "projection.alpha": "The constant alpha. 0: the falling schedule of the reference.",
        "fusion": "Weights of the modalities at test time.",
        "fusion_weights": "Weights of `fusion=fixed`. Empty: those released, else equal ones.",
        "zero_grad_drift": "Whether encoders stepped earlier in a batch drift on with a zero "
        "gradient, as under PyTorch 1.8.",
        "head_rate": "The learning rate of the shared head, as a multiple of that of the encoders. "
        "For 16 modalities and more: see Very many modalities.",
        "schedule": "One program per modality, or one for all of them. The computation is the "
        "same; results may differ by rounding.",
    },
    "ae": _AUTOENCODER,
    "cra": {**_AUTOENCODER, "blocks": "Residual autoencoders in the cascade."},
    "mmin": {
        **_IMAGINATION,
        "imagination_weight": "lambda_1, the weight of the imagined features.",
        "cycle_weight": "lambda_2, the weight of the way back.",
    },
    "if_mmin": {
        **_IMAGINATION,
        "imagination_weight": "Weight of the imagined features.",
        "invariance_weight": "Weight that keeps the invariant features as the teacher has them.",
        "discrepancy_weight": "Weight of the central moment discrepancy.",
        "moments": "Moments of the central moment discrepancy.",
    },
    "cca": {**_CORRELATION, "scaling": "What r is compared with: features of variance 1, features "
            "as they are, or a view divided by its range."},
    "dcca": _DEEP,
    "dccae": {**_DEEP, "reconstruction_weight": "lambda, the weight of the reconstruction."},
    "cpm_net": {
        "latent_dim": "K, numbers per latent vector. 0: `feature_dim`.",
        "class_weight": "lambda, the weight of the classification loss.",
        "view_steps": "Steps on W and b per batch.",
        "latent_steps": "Steps on the latent vectors per batch.",
        "latent_rate": "Learning rate of the latent vectors in training.",
        "test_steps": "Steps on a latent vector at test time.",
        "test_rate": "Learning rate of these steps.",
        "normalized": "Whether the loss of W and b is divided so that SGD stays stable.",
        "retune": "Whether to train W and b alone at the end, as the paper says.",
        "scaling": "Whether a view is centred and divided by its range.",
    },
    "tate": {
        "width": "Width of the transformer. 0: `feature_dim`.",
        "attention_heads": "Heads of the attention.",
        "dropout": "Dropout rate in training.",
        "norm_epsilon": "Epsilon of LayerNorm.",
        "guide_weight": "Weight of the guide's term.",
        "decoder_weight": "Weight of the decoder's term.",
        "tag_weight": "Weight of the tag's term.",
        "l2_weight": "Weight of half the squared L2 norm of the classifier.",
        "missing_epochs": "Epochs of the second stage. 0: as many as the guide's.",
        "tags": "`real`: each example has its own tag. `last`: all have the last one, as released.",
        "guide_input": "Whether the guide sees whole or masked inputs.",
    },
}  # fmt: skip

ENCODER_FIELDS: dict[str, str] = {
    "size": "Size of the transformer: `tiny`, `small`, `base` or `large`.",
    "convention": "Preprocessing that the weights were made for: `pretraining` or `released`. It "
    "sets the switches that are left unset.",
    "fbank_normalization": "Statistics by which filter banks are normalised.",
    "epsilon": "Epsilon of LayerNorm, or of batch normalisation in `resnet18`.",
    "gelu": "Form of the GELU: `tanh` or `exact`.",
    "differs_from_weights": "Switches that may differ from those of the weights.",
    "remat": "Whether each block is computed again in the backward pass, to save memory.",
    "image_normalization": "Statistics by which images are normalised.",
    "widths": "Channels of each convolution before the last.",
    "kernel": "Size of the convolutions.",
    "projection": "`none`: the vectors themselves; `linear`: one linear layer on them.",
    "patch_order": "Order of rows, columns and channels in a patch.",
    "pool": "Which tokens the features are taken from.",
    "vocabulary": "Number of token ids.",
    "text_length": "Longest text, in tokens.",
    "empty_text": "Whether a text of padding alone is masked or attended to.",
    "hidden": "Width of the hidden layer.",
    "norm": "Whether there is batch normalisation between the layers.",
    "unbiased_variance": "Whether the running variance is unbiased, as in PyTorch.",
}
