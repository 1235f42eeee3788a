"""Ways in which MindSpore may launch kernels and take memory, as environment variables that it reads at its start.

CUDA_LAUNCH_BLOCKING=1 is what mindfcn sets. Each other mode leaves launches asynchronous and changes one thing that may
keep a step from computing with stale data at a lower cost.
"""

LAUNCHES, CONFIGURATION = "CUDA_LAUNCH_BLOCKING", "MS_DEV_RUNTIME_CONF"
BLOCKING, PLAIN = f"{LAUNCHES}=1", f"{LAUNCHES}=0"
MODES = {
    BLOCKING: {LAUNCHES: "1"},
    PLAIN: {},
    "pipeline:false": {CONFIGURATION: "pipeline:false"},
    "multi_stream:false": {CONFIGURATION: "multi_stream:false"},
    "MS_DEV_LAUNCH_BLOCKING=1": {"MS_DEV_LAUNCH_BLOCKING": "1"},
    # The thread that asks for an operator also launches it.
    "MS_DEV_HOST_BLOCKING_RUN=1": {"MS_DEV_HOST_BLOCKING_RUN": "1"},
    # Read by mindspore_device.py.
    "launch_blocking()": {"BENCH_LAUNCH_BLOCKING": "1"},
    "memory_optimize_level O0": {"BENCH_CONTEXT": '{"memory_optimize_level": "O0"}'},
    "memory_optimize_level O1": {"BENCH_CONTEXT": '{"memory_optimize_level": "O1"}'},
    # Read by mindfcn: networks and steps are not compiled, and each operator is waited for.
    "PyNative": {"MINDFCN_COMPILE": "0"},
}


def variables(mode):
    """Environment variables of a mode, for a worker."""
    return {LAUNCHES: "0", **MODES[mode]}
