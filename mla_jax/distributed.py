"""Processes, devices and signals; no other file depends on how many of them there are.

One process and many run the same code: the batch is sharded over a mesh of one axis, ``data``,
and the state is replicated.  A second axis, ``modality``, divides stacks of alike encoders
(``dispatch.py``) where the configuration asks for it; each part of the batch is then on all devices
along that axis.
"""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mla_jax import slurm
from mla_jax.errors import UserError, check_choice
from mla_jax.state import DATA_AXIS, MODALITY_AXIS, Batch

MODES = ("auto", "on", "off")


def initialize(
    mode: str = "auto",
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connects the processes of a run; call it before anything touches a device.

    ``auto`` looks for a cluster in the environment (Cloud TPU, SLURM, MPI, Kubernetes) and runs as
    one process if there is none; ``on`` fails if there is none; ``off`` does not look.  The other
    arguments override what the environment says.  In a SLURM task the process gets its share of the
    node's GPUs in all cases: see ``slurm.gpus_of_task``.
    """
    check_choice("--distributed", mode, MODES)
    given = [coordinator_address, num_processes, process_id]
    explicit = any(value is not None for value in given)
    if explicit and (mode == "off" or any(value is None for value in given)):
        raise UserError(
            "--coordinator_address, --num_processes and --process_id go together, and not with "
            "--distributed=off: give all three or none"
        )
    if mode == "off" or jax.distributed.is_initialized():
        return
    gpus = slurm.gpus_of_task(os.environ)
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id, gpus)
    except (ValueError, RuntimeError) as error:
        alone = isinstance(error, ValueError)  # no cluster was detected
        if mode == "on" or explicit or not alone:
            raise UserError(
                f"cannot connect the processes ({str(error).splitlines()[0]}): give "
                "--coordinator_address=HOST:PORT --num_processes=N --process_id=I to every "
                "process, or use --distributed=off"
            ) from error


def unused_gpus() -> str:
    """A sentence about GPUs of this node that SLURM allocated but no task uses, or nothing."""
    if not slurm.gpus_on_node(os.environ):
        return ""
    gpus = [device for device in jax.local_devices() if device.platform == "gpu"]
    return slurm.unused_gpus(os.environ, len(gpus))


def process() -> tuple[int, int]:
    """``(index, count)`` of this process."""
    return jax.process_index(), jax.process_count()


def is_main() -> bool:
    """Whether this is process 0, the only one that prints and writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has reached this call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def of_all(value: int) -> set[int]:
    """The values that the processes pass; every process must make this call."""
    if jax.process_count() == 1:
        return {value}
    return set(multihost_utils.process_allgather(np.int32(value)).tolist())


def rows_of_all(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, in their order; each must call this, with equally many rows."""
    if jax.process_count() == 1:
        return rows
    return multihost_utils.process_allgather(rows, tiled=True)


def check_agreement(value: int, otherwise: str) -> None:
    """Raises ``UserError(otherwise)`` on every process unless all of them give the same value."""
    if len(of_all(value)) > 1:
        raise UserError(otherwise)


class DataParallel(NamedTuple):
    """Where arrays live: ``replicated`` for the state, ``sharded`` along the batch."""

    replicated: NamedSharding
    sharded: NamedSharding

    def replicate(self, tree: Any) -> Any:
        """Puts the same host or device values on every device of every process."""
        return jax.device_put(tree, self.replicated)

    def shard(self, batch: Batch) -> Batch:
        """Joins the processes' shares of a batch into one global, sharded batch."""
        if self.sharded.mesh.size == 1:
            return batch  # the jitted step transfers it, in a tenth of the time
        if jax.process_count() == 1:
            return jax.device_put(batch, self.sharded)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(self.sharded, x), batch
        )


def data_parallel(
    batch_size: int, devices: Sequence[jax.Device] | None = None, modality_devices: int = 1
) -> DataParallel:
    """A mesh over all devices: of one axis, or of two with ``modality_devices`` > 1.

    On one device ``modality_devices`` has no effect, so that any run can be opened on one.

    Raises:
      UserError: the batch or the devices do not divide.
    """
    used = np.array(devices or jax.devices())
    modality_devices = 1 if len(used) == 1 else modality_devices
    here = sum(device.process_index == used[0].process_index for device in used.flat)
    if here % modality_devices:
        of_each = " of each process" if here < len(used) else ""
        raise UserError(
            f"modality_devices={modality_devices} does not divide the number of devices{of_each}, "
            f"{here}: set --config.modality_devices=1, or a number that does"
        )
    parts = len(used) // modality_devices
    if batch_size % parts:
        below = batch_size - batch_size % parts
        sizes = " or ".join(str(size) for size in (below, below + parts) if size)
        by = f" in groups of {modality_devices}" if modality_devices > 1 else ""
        raise UserError(
            f"batch_size={batch_size} does not divide among {len(used)} devices{by}: set "
            f"--config.batch_size={sizes}"
        )
    mesh = Mesh(used, (DATA_AXIS,))
    if modality_devices > 1:
        mesh = Mesh(used.reshape(parts, modality_devices), (DATA_AXIS, MODALITY_AXIS))
    return DataParallel(
        NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    )


def over_modalities(sharding: Any) -> NamedSharding | None:
    """Where a stack lives whose first axis is of modalities; None if it is on all devices.

    ``sharding``: any on the mesh of ``data_parallel``.
    """
    mesh = getattr(sharding, "mesh", None)
    if mesh is None or MODALITY_AXIS not in mesh.axis_names:
        return None
    return NamedSharding(mesh, PartitionSpec(MODALITY_AXIS))


class StopSignal:
    """Turns Ctrl-C and SIGTERM into "save and stop after this batch", on all processes at once.

    A thread reports each signal on the terminal at once, because Python's own handlers wait while
    the main thread waits for a device.  A third Ctrl-C kills the process.  With several processes
    JAX's runtime receives the signal: it makes every process stop after the same batch, whichever
    process got the signal.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._saving = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        self._synchronized = jax.distributed.is_initialized()
        if threading.current_thread() is not threading.main_thread():
            return self  # leave signals to the caller
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        if self._synchronized:
            # The runtime's handler is not a Python function: signal.signal would lose it.
            self._runtime_handler = _set_handler(signal.SIGTERM, signal.SIG_DFL)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        self._thread = threading.Thread(target=self._answer, args=(reading,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if not self._previous:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        if self._synchronized:
            _set_handler(signal.SIGTERM, self._runtime_handler)
        os.close(self._writing)
        self._thread.join()

    def _note(self, number: int, frame: Any) -> None:
        del frame
        self.received = self.received or number

    def _answer(self, reading: int) -> None:
        """Reads the signals from the pipe where Python's C handler writes them, as they come."""
        interrupts = count = 0
        while number := os.read(reading, 1):
            if number[0] not in self._previous:
                continue
            name = signal.Signals(number[0]).name
            count, interrupts = count + 1, interrupts + (number[0] == signal.SIGINT)
            if count == 1:
                said = "stopping after the current batch, with a checkpoint"
            elif self._saving:
                said = "already saving the checkpoint"
            else:
                said = "already stopping; the checkpoint is saved after the current batch"
            if number[0] == signal.SIGINT and interrupts == 2:
                said += " (a third Ctrl-C ends the run without it)"
            below_the_bar = "\n" if os.isatty(2) else ""
            if self._synchronized and self._runtime_handler:
                ctypes.CFUNCTYPE(None, ctypes.c_int)(self._runtime_handler)(signal.SIGTERM)
            with contextlib.suppress(OSError):  # nobody reads standard error any more
                os.write(2, f"{below_the_bar}{name}: {said}\n".encode())
            if interrupts == 3:
                os._exit(128 + signal.SIGINT)
        os.close(reading)

    def __call__(self, step: int) -> bool:
        """Whether to stop after ``step``; the same answer on all processes, asked every step."""
        if not self._synchronized:
            self._saving = self.received is not None
        elif multihost_utils.reached_preemption_sync_point(step):
            self.received = self.received or signal.SIGTERM
            self._saving = True
        return self._saving


def _set_handler(number: int, handler: int) -> int:
    """Sets the C handler of a signal and returns the one before it; both are addresses."""
    c_signal = ctypes.CDLL(None).signal
    c_signal.argtypes, c_signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    return c_signal(number, handler)
