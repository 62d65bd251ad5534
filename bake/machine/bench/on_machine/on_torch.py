"""The operations that are measured, in PyTorch 1.x and 2.x. Each GPU trains in its own process."""

import time

import torch
from torch import nn

NAME = "torch"
VERSION = str(torch.__version__)
TYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def gpus():
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def capability(index):
    return tuple(torch.cuda.get_device_capability(index))


def name(index):
    return torch.cuda.get_device_name(index)


def cuda():
    return torch.version.cuda


def precisions():
    """Return the precisions to measure: those that the GPU computes and does not emulate."""
    if not gpus():
        return ["fp32", "bf16"]
    capable = capability(0)
    ampere = capable >= (8, 0)
    return ["fp32"] + ["tf32"] * ampere + ["fp16"] * (capable >= (5, 3)) + ["bf16"] * ampere


def set_precision(precision):
    if precision not in ("fp32", "tf32") or not gpus():
        return
    if hasattr(torch, "set_float32_matmul_precision"):  # from 1.12 on
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    elif hasattr(torch.backends.cuda, "matmul"):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def select_device(index):
    torch.manual_seed(1)
    if index is None:
        return torch.device("cpu")
    torch.cuda.set_device(index)
    torch.backends.cudnn.benchmark = True  # find the fastest algorithm, as MXNet does
    return torch.device("cuda", index)


def free_bytes(device):
    if hasattr(torch.cuda, "mem_get_info"):
        return torch.cuda.mem_get_info(device)[0]
    return torch.cuda.get_device_properties(device).total_memory * 3 // 4


def normal(shape, precision, device):
    return torch.randn(shape, device=device).to(TYPES[precision])


def pinned(values):
    """Copy values to host memory: pinned, so that a GPU can read it directly, if it has one."""
    values = values.cpu()
    return values.pin_memory() if gpus() else values.clone()


def multiply(a, b, out):
    torch.mm(a, b, out=out)


def add(a, b, out):
    torch.add(a, b, out=out)


def copy(source, out):
    out.copy_(source, non_blocking=True)


def numbers(values):
    return values.detach().to(torch.float64).cpu().numpy()


def kind(values):
    return {"cuda": "gpu"}.get(values.device.type, values.device.type)


def seconds(work, times, device):
    """Return how long the work takes, by the GPU's own clock."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(times):
            work()
        return time.perf_counter() - begin
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def _network():
    layers, before = [], 3
    for channels in (64, 128, 256, 256):
        layers += [
            nn.Conv2d(before, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ]
        before = channels
    return layers


class Training:
    """Training steps on the same images.

    `group` is (rank, number of processes, URL of a new file) when this process is one of several,
    each with its own device.
    """

    def __init__(self, indices, batch, size, group=None):
        (index,) = indices
        self.device = select_device(index)
        self.group = group
        features = 256 * (size // 16) ** 2
        network = nn.Sequential(*_network(), nn.Flatten(), nn.Linear(features, 10))
        self.network = network.to(self.device)
        if group:
            rank, world, url = group
            torch.distributed.init_process_group(
                "gloo" if index is None else "nccl", init_method=url, rank=rank, world_size=world
            )
            self.network = nn.parallel.DistributedDataParallel(
                self.network, device_ids=None if index is None else [index]
            )
            torch.manual_seed(1 + rank)
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.002, momentum=0.9)
        self.images = torch.randn(batch, 3, size, size, device=self.device)
        self.labels = (torch.arange(batch) % 10).to(self.device)
        self.last = None

    def step(self):
        self.optimizer.zero_grad()
        self.last = self.loss(self.network(self.images), self.labels)
        self.last.backward()
        self.optimizer.step()

    def last_loss(self):
        return float(self.last.detach().cpu())

    def kind(self):
        return kind(self.last)

    def seconds(self, times):
        """Return how long the steps take in the slowest process, the same value in all of them."""
        if not self.group:
            return seconds(self.step, times, self.device)
        taken = torch.zeros(1, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(taken)  # all begin at once
        taken[0] = seconds(self.step, times, self.device)
        torch.distributed.all_reduce(taken, op=torch.distributed.ReduceOp.MAX)
        return float(taken.cpu()[0])

    def end(self):
        if self.group:
            torch.distributed.destroy_process_group()
