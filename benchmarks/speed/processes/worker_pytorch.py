"""One rank of PyTorch's DistributedDataParallel, timed by run.py; arguments and answers as worker_mindfcn.py."""

import functools
import os
import sys

rank, ranks, port, cores, folder = *map(int, sys.argv[1:5]), sys.argv[5]
size, global_batch = int(sys.argv[7]), int(sys.argv[8])
os.sched_setaffinity(0, range(rank * cores, (rank + 1) * cores))
os.environ["OMP_NUM_THREADS"] = str(cores)

import torch  # noqa: E402
from pytorch_net import rival  # noqa: E402
from serve import batch, serve  # noqa: E402
from torch.nn import functional  # noqa: E402


@functools.cache
def begin():
    """Build and return the training step."""
    torch.set_num_threads(cores)
    net = rival(os.path.join(folder, "weights.npz"), dropout=0.0)
    if ranks > 1:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
        net = torch.nn.parallel.DistributedDataParallel(net)
    images, labels = (torch.from_numpy(array[rank::ranks]) for array in batch(size, global_batch))
    labels = labels.long()
    counted = (labels != 255).sum()
    if ranks > 1:
        torch.distributed.all_reduce(counted)
    update = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step():
        update.zero_grad()
        loss = functional.cross_entropy(net(images), labels, ignore_index=255, reduction="sum") / counted
        # DistributedDataParallel averages gradients over ranks.
        (loss * ranks).backward()
        update.step()
        loss = loss.detach()
        if ranks > 1:
            torch.distributed.all_reduce(loss)
        return loss.item()
    return step


serve(lambda: begin()(), f"PyTorch {torch.__version__}", loss=lambda: begin()())
