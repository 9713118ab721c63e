"""Writes what the published TensorFlow graphs compute, for the numpy references here.

    python tests/make_graph_fixture.py CPM_NETS_CLONE TATE_CLONE

The first may be ``baseline-cpmnet`` of GCNet too.  It needs TensorFlow 2, tf_keras and scikit-learn
in an environment of their own: the graphs are for TensorFlow 1,
and run in 2's compatibility mode from the clones as they are.  TATE's dropout is left out, its
lengths are short, and ``tf.contrib`` is stood in for.
"""

import contextlib
import io
import os
import pathlib
import sys
import types

import graph_cases as cases
import numpy as np

FOLDER = pathlib.Path(__file__).with_name("fixtures") / "graphs"


def cpm(tf, root):
    """Losses before and after training, what is trained, test latents, predictions, and Lambda of
    the specification's golden value with its gradient."""
    with importing(root, tf):
        from util import classfiy, model
    model.shuffle = lambda index: None
    case = cases.cpm()
    with contextlib.redirect_stdout(io.StringIO()):
        net = model.CPMNets(
            3, cases.TRAIN, cases.TEST, [[d] for d in cases.DIMS], cases.LATENT,
            list(cases.RATES), cases.TRADE_OFF,
        )  # fmt: skip
        names = ["train", "test", *(f"{n}{v}" for v in range(3) for n in "wb")]
        variables = dict(zip(names, tf.trainable_variables(), strict=True))
        for name, variable in variables.items():
            variable.load(case[name].astype(np.float32), net.sess)
        views = {str(v): case[f"x{v}"].astype(np.float32) for v in range(3)}
        seen = {n: x[: cases.TRAIN] for n, x in views.items()}
        unseen = {n: x[cases.TRAIN :] for n, x in views.items()}
        present, labels = case["present"], case["labels"] + 1
        feed = {net.input[n]: x for n, x in seen.items()} | {net.gt: labels}
        feed |= {net.sn[str(v)]: present[: cases.TRAIN, v : v + 1] for v in range(3)}
        feed[net.h_index] = np.arange(cases.TRAIN)[:, None]
        found = {"losses before": net.sess.run(net.loss[:2], feed)}
        net.train(seen, present[: cases.TRAIN], labels, cases.EPOCHS)
        found["losses after"] = net.sess.run(net.loss[:2], feed)
        net.test(unseen, present[cases.TRAIN :], labels[: cases.TEST], cases.TEST_EPOCHS)
    found |= {f"trained {name}": net.sess.run(v) for name, v in variables.items()}
    found["predictions"] = classfiy.ave(net.get_h_train(), net.get_h_test(), labels) - 1
    i, j = np.mgrid[:6, :3]
    golden = object.__new__(model.CPMNets)
    golden.trainLen, golden.gt = 6, tf.constant([1, 1, 2, 2, 3, 3])
    golden.h_temp = tf.constant((5 * i + 2 * j) % 11 / 4 - 1, tf.float32)
    value = golden.classification_loss()
    gradient = tf.gradients(value, golden.h_temp)[0]
    found["golden"], found["golden gradient"] = net.sess.run([value, gradient])
    return found


def tate(tf, root):
    """The encoder's output of the first two features, logits' softmax and all loss terms."""
    steps = sum(cases.LENGTHS.values())
    shim = stand_in(tf, steps)
    with importing(root / "iemocap", shim, root):
        import network
        import Settings
    config = Settings.Config()
    config.batch_size, config.class_num = cases.BATCH, 4
    config.max_visual_len, config.max_audio_len, config.max_text_len = cases.LENGTHS.values()
    network.Config = lambda: config
    with tf.variable_scope("model", initializer=tf.glorot_uniform_initializer()):
        graph = network.MM(True)
    weights = cases.tate_weights(cases.tate_shapes())
    inputs = cases.tate_inputs()
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for name, value in weights.items():
            (variable,) = (v for v in tf.trainable_variables() if v.name == published_name(name))
            variable.load(value.astype(np.float32), session)
        feed = {graph.visual: inputs["v"], graph.audio: inputs["a"], graph.text: inputs["t"]}
        feed |= {graph.label: inputs["labels"], graph.flag: cases.FLAGS}
        feed[graph.pretrained_output] = inputs["guide"]
        encoder = tf.get_default_graph().get_tensor_by_name("model/encode_outputs:0")
        terms = {
            "encoder": encoder[:, :, :2], "tags": encoder[:, :, -4:], "probabilities": graph.prob,
            "cross_entropy": graph.loss, "forward": graph.kl_loss, "backward": graph.de_loss,
            "tag": graph.tag_loss, "decay": graph.l2_loss, "total": graph.total_loss,
        }  # fmt: skip
        return session.run(terms, feed)


def published_name(name):
    """The variable of TATE's graph."""
    dense = {"query": "dense", "key": "dense_1", "value": "dense_2"}
    first, _, rest = name.partition("/")
    if first == "project":
        name = {"v": "dense", "a": "dense_1", "t": "dense_2"}[rest] + "/kernel"
    elif first == "block":
        scope, _, part = rest.partition("/")
        scope = {"v": "vv", "a": "aa", "t": "tt", "encoder": "nn", "decoder": "de"}[scope]
        part = part.replace("scale", "gamma")
        if part in dense:
            name = f"{scope}/multihead_attention/{dense[part]}/kernel"
        elif part.startswith("norm"):
            block = "multihead_attention" if part[4] == "1" else "positionwise_feedforward"
            name = f"{scope}/{block}/ln/{part[6:].replace('bias', 'beta')}"
        else:
            part = part.replace("inner", "dense").replace("outer", "dense_1")
            name = f"{scope}/positionwise_feedforward/{part}"
    elif first == "common":
        name = f"all_weights/wei_{rest}"
    elif first == "pool":
        name = "all_weights/" + {"score": "Wr_wq", "gate": "Wm_wq", "value": "Wu_wq"}[rest]
    elif first == "head":
        name = "all_weights/" + {"kernel": "W_l", "bias": "b_l"}[rest]
    else:
        name = "dense_3/kernel"
    return f"model/{name}:0"


def stand_in(tf, steps):
    """TensorFlow with ``contrib``, without dropout, and with a guide of ``steps`` steps."""
    contrib = types.ModuleType("tensorflow.contrib")
    contrib.rnn = types.ModuleType("tensorflow.contrib.rnn")
    contrib.layers = types.SimpleNamespace(
        l2_regularizer=lambda scale: lambda weight: scale * tf.nn.l2_loss(weight),
        apply_regularization=lambda regularizer, weights_list: tf.add_n(
            [regularizer(weight) for weight in weights_list]
        ),
    )

    def placeholder(dtype, shape, name):
        shape = [shape[0], steps, shape[2]] if name == "pre" else shape
        return tf.placeholder(dtype, shape, name)

    shim = types.ModuleType("tensorflow")
    shim.contrib, shim.placeholder = contrib, placeholder
    shim.layers = types.SimpleNamespace(dense=tf.layers.dense, dropout=lambda x, **_: x)
    shim.__getattr__ = lambda name: getattr(tf, name)
    return shim


@contextlib.contextmanager
def importing(folder, tf, *more):
    """Lets ``tensorflow`` mean ``tf``, and the clone's names its own files."""
    modules = {"tensorflow": tf}
    if contrib := vars(tf).get("contrib"):
        modules |= {"tensorflow.contrib": contrib, "tensorflow.contrib.rnn": contrib.rnn}
    hidden = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    sys.path[:0] = [str(folder), *map(str, more)]
    try:
        yield
    finally:
        del sys.path[: 1 + len(more)]
        for name, module in hidden.items():
            sys.modules.pop(name)
            if module:
                sys.modules[name] = module


def main():
    """Writes both files."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
    sys.dont_write_bytecode = True
    import tensorflow

    tf = tensorflow.compat.v1
    tf.disable_v2_behavior()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for function, root in zip((cpm, tate), sys.argv[1:], strict=True):
        with tf.Graph().as_default():
            found = function(tf, pathlib.Path(root).resolve())
        np.savez_compressed(FOLDER / f"{function.__name__}.npz", **found)


if __name__ == "__main__":
    main()
