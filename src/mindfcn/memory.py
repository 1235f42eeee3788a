"""How much memory is free, and whether an exception of any library means that it does not suffice."""

import os

# Parts of messages of MindSpore, ONNX Runtime and OpenCV.
_MESSAGES = ("Memory not enough", "Failed to alloc", "Insufficient memory", "bad_alloc", "bad allocation")
# Files of the limit and of the use of a container's memory: control groups of version 2, and of version 1.
_LIMITS = (("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
           ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the memory does not suffice."""
    return isinstance(error, MemoryError) or any(message in str(error) for message in _MESSAGES)


def available_memory() -> int:
    """Free memory of this machine or container, bytes; 0 if it is not known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, OSError, ValueError):
            return 0
    for limit, use in _LIMITS:
        try:
            with open(limit, encoding="ascii") as most, open(use, encoding="ascii") as used:
                free = min(free, max(0, int(most.read()) - int(used.read())))
        # No such limit, or "max".
        except (OSError, ValueError):
            continue
    return free
