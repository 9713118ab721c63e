"""What SLURM tells a task about its node: how many tasks there are, and its own CPUs and GPUs."""

from collections.abc import Mapping

from mla_jax.errors import UserError


def tasks_on_node(environment: Mapping[str, str]) -> int:
    """How many tasks of the job step run on this task's node."""
    told = environment.get("SLURM_STEP_TASKS_PER_NODE")
    if not told:
        return int(environment.get("SLURM_NTASKS_PER_NODE") or 1)
    counts = []
    for part in told.split(","):  # for example 2(x3),1
        tasks, _, nodes = part.rstrip(")").partition("(x")
        counts += [int(tasks)] * int(nodes or 1)
    return counts[int(environment.get("SLURM_NODEID", 0))]


def cores_of_task(environment: Mapping[str, str]) -> int:
    """This task's share of the CPUs that SLURM has allocated to the job step here; 0 if unknown.

    A task that SLURM binds to its own CPUs can use no others anyway; one that is not bound sees
    those of all tasks of its node.
    """
    allocated = int(environment.get("SLURM_CPUS_ON_NODE") or 0)
    return max(1, allocated // tasks_on_node(environment)) if allocated else 0


def gpus_on_node(environment: Mapping[str, str]) -> int:
    """How many GPUs of this task's node SLURM has allocated to the job; 0 if unknown."""
    return int(environment.get("SLURM_GPUS_ON_NODE") or 0)


def gpus_of_task(environment: Mapping[str, str]) -> list[int] | None:
    """``local_device_ids`` for ``jax.distributed.initialize``.

    A node's only task takes all GPUs, and so does one to which SLURM shows fewer than the node has:
    those are its own.  Tasks that all see the same GPUs divide them evenly.

    Returns:
      Positions among the GPUs that the process can see; [] for all of them; None leaves the choice
      to JAX: outside SLURM, where the user has chosen, or where nothing is known.  In a task of
      SLURM, JAX takes one GPU per process.

    Raises:
      UserError: the GPUs do not divide among the tasks.
    """
    if "SLURM_LOCALID" not in environment or environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    tasks = tasks_on_node(environment)
    if tasks == 1:
        return []
    visible = on_node = gpus_on_node(environment)
    if "CUDA_VISIBLE_DEVICES" in environment:
        visible = len(list(filter(None, environment["CUDA_VISIBLE_DEVICES"].split(","))))
    elif not on_node:
        return None
    if visible <= 1 or visible < on_node:
        return []
    if visible % tasks:
        raise UserError(
            f"the {visible} GPUs of {_node(environment)} do not divide among its {tasks} tasks: "
            "use --ntasks-per-node=1, so that the one task uses them all"
        )
    share = visible // tasks
    first = int(environment["SLURM_LOCALID"]) * share
    return list(range(first, first + share))


def unused_gpus(environment: Mapping[str, str], used: int) -> str:
    """A sentence about GPUs that the node's tasks, ``used`` each, leave unused; empty if none."""
    tasks, given = tasks_on_node(environment), gpus_on_node(environment)
    if used * tasks >= given:
        return ""
    remedy = "start one task per node and bind it to no GPU, or ask for fewer GPUs"
    if not used:
        remedy = "install the extra cuda12 or cuda13, which JAX needs to see a GPU"
    return (
        f"of the {given} GPUs that SLURM has allocated on {_node(environment)}, this process uses "
        f"{used}, and the tasks of the node {used * tasks} in all: {remedy}"
    )


def _node(environment: Mapping[str, str]) -> str:
    return environment.get("SLURMD_NODENAME") or "this node"
