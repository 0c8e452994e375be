"""PyTorch's calls, one part after another: started by torch_callpath.sh.

Kernels are skipped, so what is checked is what does not come from a kernel: bytes that are
copied, shapes, counts, streams, graphs, memory statistics. Nothing that is printed depends
on time or addresses: a direct run and a remoted one must print the same.
"""

from __future__ import annotations

import sys
import threading
import warnings

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def copies() -> None:
    """Both ways, pageable and pinned, every size class; and between places on the device."""
    for count in (1, 5, 1000, 4096, 100_000, 3_000_001):
        host = torch.arange(count, dtype=torch.int32) * 7 - 3
        device = host.cuda()
        assert torch.equal(device.cpu(), host), count
        pinned = host.pin_memory()
        assert pinned.is_pinned()
        again = torch.empty_like(pinned).pin_memory()
        device = pinned.to("cuda", non_blocking=True)
        again.copy_(device, non_blocking=True)
        torch.cuda.synchronize()
        assert torch.equal(again, host), count
        twin = torch.empty_like(device)
        twin.copy_(device)
        assert torch.equal(twin.cpu(), host), count
    print("copies: right bytes")


def matmul() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        a = torch.ones(128, 64, dtype=dtype).cuda()
        b = torch.ones(64, 96, dtype=dtype).cuda()
        print("matmul:", dtype, tuple((a @ b).shape), tuple(torch.bmm(a[None], b[None]).shape))
    print("linalg:", tuple(torch.nn.functional.scaled_dot_product_attention(
        *(torch.zeros(2, 4, 64, 32, dtype=torch.float16).cuda() for _ in range(3))).shape))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 64), nn.GELU(),
            nn.LayerNorm(64), nn.Dropout(0.1), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out


def training() -> None:
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "adam foreach": lambda p: torch.optim.Adam(p, foreach=True),
        "adamw fused": lambda p: torch.optim.AdamW(p, fused=True),
    }
    for name, make in makers.items():
        net = Net().cuda()
        optimizer = make(net.parameters())
        for _ in range(3):
            x, y = torch.randn(8, 3, 32, 32).cuda(), torch.randint(0, 10, (8,)).cuda()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0, error_if_nonfinite=False)
            optimizer.step()
        torch.cuda.synchronize()
        print("training:", name, tuple(loss.shape), sum(p.grad is not None
                                                        for p in net.parameters()))
    net, scaler = Net().cuda(), torch.amp.GradScaler()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with torch.autocast("cuda", dtype=torch.float16):
        loss = net(torch.randn(4, 3, 32, 32).cuda()).float().sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    print("training: autocast", tuple(loss.shape))


def streams() -> None:
    side, event = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
    late = torch.cuda.Event(enable_timing=True)
    host = torch.arange(50_000).pin_memory()
    with torch.cuda.stream(side):
        event.record()
        a = host.to("cuda", non_blocking=True)
        late.record()
    torch.cuda.current_stream().wait_stream(side)
    a.record_stream(torch.cuda.current_stream())
    assert torch.equal(a.cpu(), host)
    late.synchronize()
    assert event.query() and event.elapsed_time(late) >= 0
    results: list[bool] = []

    def work(number: int) -> None:
        own = torch.cuda.Stream()
        with torch.cuda.stream(own):
            mine = torch.full((20_000,), number)
            back = mine.cuda(non_blocking=True).cpu()
        results.append(torch.equal(back, mine))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("streams:", results)


def graphs() -> None:
    """Copies in a graph do happen, so replays can be told apart by their bytes."""
    source = torch.zeros(4096, device="cuda", dtype=torch.int32)
    target = torch.zeros(4096, device="cuda", dtype=torch.int32)
    weight = torch.zeros(64, 64, device="cuda")
    for _ in range(2):
        weight @ weight
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        product = weight @ weight
        target.copy_(source)
    for value in (3, 11):
        source.copy_(torch.full((4096,), value, dtype=torch.int32))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(target.cpu(), torch.full((4096,), value, dtype=torch.int32)), value
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)).cuda()
    called = torch.cuda.make_graphed_callables(net, (torch.zeros(4, 32, device="cuda"),))
    out = called(torch.zeros(4, 32, device="cuda"))
    out.sum().backward()
    torch.cuda.synchronize()
    print("graphs:", tuple(product.shape), tuple(out.shape))


def loader() -> None:
    data = TensorDataset(torch.arange(64 * 10).reshape(64, 10))
    seen = []
    for (batch,) in DataLoader(data, batch_size=16, num_workers=2, pin_memory=True,
                               multiprocessing_context="fork"):
        assert batch.is_pinned()
        there = batch.to("cuda", non_blocking=True)
        assert torch.equal(there.cpu(), batch)
        seen.append(int(batch[0, 0]))
    print("loader:", sorted(seen))


def memory() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    block = torch.empty(32 << 20, dtype=torch.uint8, device="cuda")
    print("memory:", torch.cuda.memory_allocated() - before, len(torch.cuda.memory_summary()) > 0)
    free, total = torch.cuda.mem_get_info()
    assert 0 < free < total
    del block
    torch.cuda.empty_cache()
    try:
        torch.empty(total * 2, dtype=torch.uint8, device="cuda")
    except torch.cuda.OutOfMemoryError as error:
        print("memory: out of memory:", "CUDA out of memory" in str(error))
    print("memory:", torch.cuda.device_count(), torch.cuda.get_device_name(0),
          torch.cuda.get_device_capability(0), total)


def libraries() -> None:
    x = torch.zeros(8, 64, device="cuda")
    print("fft:", tuple(torch.fft.rfft2(x).shape))
    print("sort:", tuple(torch.sort(x)[0].shape), tuple(torch.cumsum(x, 1).shape))
    print("lstm:", tuple(nn.LSTM(64, 32).cuda()(x[:, None])[0].shape))
    print("random:", tuple(torch.randn(1000, device="cuda").shape))


def compiled() -> None:
    """torch.compile: Triton's own compiler, and modules loaded from files."""

    @torch.compile
    def fused(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.relu(x * 2 + y).sum(-1)

    x = torch.zeros(256, 128, device="cuda")
    print("compiled:", tuple(fused(x, x).shape))


def nvml() -> None:
    """What PyTorch itself asks of NVML."""
    print("nvml:", torch.cuda.device_count(), torch.cuda._get_nvml_device_index(0),
          torch.cuda.list_gpu_processes(0).splitlines()[0])


PARTS = {part.__name__: part for part in (copies, matmul, training, streams, graphs, loader,
                                          memory, libraries, nvml, compiled)}


def main(names: list[str]) -> None:
    warnings.simplefilter("error", ResourceWarning)
    torch.manual_seed(0)
    for name in names or PARTS:
        PARTS[name]()
    torch.cuda.synchronize()
    print("PASS")


if __name__ == "__main__":
    main(sys.argv[1:])
