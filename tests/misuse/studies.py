"""Grids, studies, tables of finished runs, corruption, features, and the leaderboard."""

from tests.misuse.case import Case

COMPARE = "compare --config=small.py --workdir=x"
CASES = {
    "vary_without_values": Case(
        f"{COMPARE} --vary=epochs=", "--vary=epochs= has no value: write it as"
    ),
    "vary_without_a_field": Case(
        f"{COMPARE} --vary=0.1,0.2", "--vary=0.1,0.2: write it as --vary="
    ),
    "vary_of_an_unknown_field": Case(
        f"{COMPARE} --vary=optimizer.learning_rat=0.1",
        "unknown configuration field 'optimizer.learning_rat': did you mean",
    ),
    "vary_of_a_group": Case(
        f"{COMPARE} --vary=optimizer=0.1",
        "configuration field 'optimizer' is a group: vary one of its fields",
    ),
    "vary_the_same_value_twice": Case(
        f"{COMPARE} --vary=batch_size=4,4", "--vary=batch_size=4,4 names 4 twice: once is enough"
    ),
    "vary_a_field_twice": Case(
        f"{COMPARE} --vary=batch_size=4 --vary=batch_size=8",
        "--vary names 'batch_size' twice: give all its values in one list",
    ),
    "vary_beside_a_field": Case(
        f"{COMPARE} --vary=batch_size=4 --config.batch_size=8",
        "--config.batch_size and --vary=batch_size=4 both set 'batch_size': use one",
    ),
    "vary_the_seed": Case(f"{COMPARE} --vary=seed=1,2", "--vary=seed=1,2 is not possible: "),
    "study_that_is_none": Case(f"{COMPARE} --study=table9", "unknown study 'table9': did you mean"),
    "study_beside_methods": Case(
        f"{COMPARE} --study=table3 --methods=mla",
        "--study=table3 sets its own --methods: leave out one of the two",
    ),
    "runs_of_nothing": Case(
        "compare --runs= --workdir=x", "--runs is empty: give folders of finished runs"
    ),
    "runs_that_are_none": Case(
        "compare --runs=data --workdir=x",
        "--runs names 'data', which holds no run (no config.json)",
    ),
    "runs_beside_methods": Case(
        "compare --runs=run --methods=mla --workdir=x",
        "--runs trains nothing, so --methods does not apply",
        needs_run=True,
    ),
    "corrupt_without_a_number": Case(
        "evaluate --run=run --corrupt=a:noise",
        "'a:noise' is not a corruption: write MODALITY:KIND=NUMBER",
        needs_run=True,
    ),
    "corrupt_an_unknown_modality": Case(
        "evaluate --run=run --corrupt=c:noise=1", "'c'", needs_run=True
    ),
    "features_of_another_ending": Case(
        "evaluate --run=run --features=f.csv", "unknown ending of --features '.csv'", needs_run=True
    ),
    "features_beside_output": Case(
        "evaluate --run=run --features=f.npz --output=o.json",
        "--features is for the whole, unchanged split: leave out --output",
        needs_run=True,
    ),
    "leaderboard_without_a_name": Case(
        "leaderboard add --comparison=x",
        "add needs --comparison=DIR and --name=NAME of small letters",
    ),
    "leaderboard_ranks_of_nothing": Case(
        "leaderboard ranks", "ranks needs --artefacts=A,B,C, names of three or more"
    ),
    "leaderboard_name_beside_check": Case(
        "leaderboard check --name=x", "--comparison and --name belong to add, not to check"
    ),
}
