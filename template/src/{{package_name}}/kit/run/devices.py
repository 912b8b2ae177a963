"""Devices: which of them computes what, on one machine or on several.

There is one mesh with one axis. Where several seeds train, their number is divided over it;
otherwise the environments and the minibatches are.
"""

import contextlib
import errno
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ..bounds import MANY, Bounds
from ..env.keys import raw
from ..errors import UsageError
from ..ppo.sharding import AXIS


def make_mesh(divided: dict[str, int], num_devices: int | None = None) -> Mesh | None:
    """The devices that a run uses; None for a single one, which needs no mesh.

    `divided` are the numbers that are divided over the devices, by the name of their setting.

    Raises:
      UsageError: there are not so many devices, or a number can't be divided by them.
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise UsageError(
            f"--num-devices is {count}, which has to be from 1 to {len(devices)}, "
            "the devices that JAX sees."
        )
    if jax.process_count() > 1 and count != len(devices):
        raise UsageError("Several processes train on all their devices: leave --num-devices out.")
    for name, number in divided.items():
        if number % count:
            fits = max(n for n in range(1, count) if all(x % n == 0 for x in divided.values()))
            raise UsageError(
                f"{name} is {number}, which has to be a multiple of the {count} devices: "
                f"change it, or use --num-devices {fits}."
            )
    return None if count == 1 else Mesh(np.array(devices[:count]), (AXIS,))


def use_cores(num_seeds: int) -> None:
    """Lets each core of a CPU be a device, as far as they divide the seeds evenly.

    One device of several cores computes small arrays on one of them. Other kinds of devices are
    not affected, nor is JAX once it has been used.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = max(n for n in range(1, min(cores or 1, num_seeds) + 1) if num_seeds % n == 0)
    flags = os.environ.get("XLA_FLAGS", "")
    if count > 1 and "JAX_NUM_CPU_DEVICES" not in os.environ and "device_count" not in flags:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


# ---- several processes --------------------------------------------------------------------------


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 300.0,
) -> None:
    """Lets this process train together with others, through `jax.distributed`.

    JAX asks SLURM, Open MPI or Kubernetes where the arguments are None. `coordinator` is HOST:PORT
    of process 0, and `timeout` the seconds to wait for the others.

    Raises:
      UsageError: JAX was used before, nothing says who the others are, or they can't be reached.
    """
    address = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is not None:
        port = _port_of(address)
        if num_processes is not None and process_id is not None:
            MANY.check("--num-processes", num_processes)
            Bounds(0, num_processes - 1).check("--process-id", process_id)
        if process_id == 0:
            _refuse_taken_port(port)
    # JAX would take SIGTERM away from the run, which saves everything when it gets one.
    jax.config.update("jax_enable_preemption_service", False)
    failed: list[Exception] = []

    def connect() -> None:
        try:
            # JAX aborts the process at the end of its own time.
            patience = int(timeout) + 60
            jax.distributed.initialize(
                coordinator, num_processes, process_id, initialization_timeout=patience
            )
        except Exception as error:  # whatever the ways to find the others raise
            failed.append(error)

    # In a thread, so that signals and the end of the time are noticed.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(1)
    others = f"the other processes, with process 0 at {address}" if address else "other processes"
    if thread.is_alive():
        text = f"Waiting for {others}, for at most {timeout:g} s (--join-timeout)."
        print(text, file=sys.stderr, flush=True)
        thread.join(timeout)
    if thread.is_alive():
        raise UsageError(
            f"After {timeout:g} s not all processes have joined ({others}): see that all run and "
            "have the same address, and that no firewall is between them."
        )
    if failed:
        raise _why_not_joined(failed[0]) from None
    _keep_stdout_for_python()


def _why_not_joined(error: Exception) -> UsageError:
    if "before any JAX" in str(error):
        return UsageError(
            "JAX was used before the processes could join: move what uses it in env.py, "
            "encoder.py and config.py from module level into functions."
        )
    why = (str(error) or type(error).__name__).splitlines()[0]
    return UsageError(
        f"The processes can't join ({why}): start them with srun or mpirun, or name --coordinator "
        "HOST:PORT, --num-processes and --process-id."
    )


def _port_of(address: str) -> int:
    """That of HOST:PORT, of which an IPv6 address has brackets; raises UsageError if it is none."""
    found = re.fullmatch(r"(\[[\w:.%]+\]|[\w.-]+):([0-9]{1,5})", address)
    port = int(found[2]) if found else 0
    if not 1 <= port < 2**16:
        raise UsageError(
            f"The address of process 0 is {address!r}, which has to be HOST:PORT, such as "
            "10.0.0.1:1234 or [::1]:1234."
        )
    return port


def _refuse_taken_port(port: int) -> None:
    """Raises UsageError where JAX could not listen, because it may crash then."""
    if "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:
        return
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("::", port))
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):  # others may be of IPv6 alone
            raise UsageError(
                f"Process 0 can't listen at port {port} ({error.strerror}): name another one in "
                "--coordinator, for all processes."
            ) from None


def _keep_stdout_for_python() -> None:
    """Drops what libraries print from C++, such as to whom Gloo has connected."""
    stdout = sys.stdout.fileno()
    sys.stdout.flush()
    own = os.dup(stdout)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stdout)
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def max_over_processes(*numbers: int) -> list[int]:
    """The largest of each number; all processes have to call it."""
    if jax.process_count() == 1:
        return list(numbers)
    everyone = multihost_utils.process_allgather(np.array(numbers, np.int32))
    return [int(x) for x in np.max(everyone, axis=0)]


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Lets no process go on where one of them can't; all processes have to enter it.

    Raises:
      UsageError: another process raised UsageError or OSError.
    """
    failure: Exception | None = None
    try:
        yield
    except (UsageError, OSError) as error:
        failure = error
    if max_over_processes(failure is not None)[0]:
        raise failure or UsageError("Another process could not go on; its message says why.")


def to_devices(tree: Any, shardings: Any) -> Any:
    """Moves arrays of the host, equal in all processes, to the devices."""

    def move(x: Any, sharding: Any) -> Any:
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        # device_put would compare the processes' values, of which a NaN is never equal.
        data = np.asarray(raw(x))
        moved = jax.make_array_from_callback(data.shape, sharding, lambda index: data[index])
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(moved, impl=jax.random.key_impl(x))
        return moved

    return jax.tree.map(move, tree, shardings)


def to_host(tree: Any) -> Any:
    """Copies arrays to the host; all processes have to call it."""
    tree = jax.tree.map(raw, tree)
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.array, tree)
