"""Preflight and benchmark: machines that are not there, and comparisons that cannot be made."""

from tests.misuse.case import Case

PREFLIGHT = "preflight --config=small.py --workdir=x"
STEP = "benchmark step --config=small.py"
CASES = {
    "preflight_without_topology": Case(PREFLIGHT, "give --topology=NAME, for example v5e:4x4"),
    "preflight_without_config": Case(
        "preflight --topology=cpu:4", "give --config=FILE, for example"
    ),
    "preflight_unknown_topology": Case(
        f"{PREFLIGHT} --topology=v5e:2y2", "unknown topology 'v5e:2y2'"
    ),
    "preflight_topology_of_another_form": Case(
        f"{PREFLIGHT} --topology=v4:2x2", "unknown topology 'v4:2x2': write v4:XxYxZ"
    ),
    "preflight_no_examples": Case(
        f"{PREFLIGHT} --topology=cpu:4 --examples=0", "--examples=0 must be at least 1"
    ),
    "preflight_unknown_method": Case(
        f"{PREFLIGHT} --topology=cpu:4 --method=nla", "unknown method 'nla': did you mean 'mla'?"
    ),
    "preflight_indivisible_batch": Case(
        f"{PREFLIGHT} --topology=cpu:3", "does not divide among 3 devices: set"
    ),
    "preflight_into_a_bucket": Case(
        "preflight --config=small.py --topology=cpu:2 --workdir=gs://bucket/x",
        "this is written to a local folder",
    ),
    "benchmark_against_another": Case(
        f"{STEP} --against=tensorflow", "argument --against: invalid choice: 'tensorflow'"
    ),
    "benchmark_unknown_method": Case(
        f"{STEP} --methods=mlaa", "unknown method 'mlaa': did you mean 'mla'?"
    ),
    "benchmark_no_rounds": Case(f"{STEP} --rounds=0", "--rounds must be at least 1, not 0"),
    "benchmark_unknown_recipe": Case(
        "benchmark input --recipe=imge", "unknown recipe 'imge': did you mean 'image'?"
    ),
    "fused_misspelt": Case(
        "compare --config=small.py --methods=mla:schedule=fusd --workdir=x",
        "method.schedule 'fusd': did you mean 'fused'?",
    ),
}
