"""Real programs to measure: models with random weights, asked for by name.

A process of its own on each road: it reads "NAME N" from its standard input, runs that
workload N times and answers "seconds checksum". The weights and inputs come from one seed,
so the checksum of each road must be that of the native run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Block(nn.Module):
    """One transformer block with causal attention, and a cache for decoding."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, t, width = x.shape
        parts = self.qkv(self.before(x)).view(n, t, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        return q, k, v

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        n, _, t, _ = attended.shape
        x = x + self.out(attended.transpose(1, 2).reshape(n, t, -1))
        return x + self.down(F.gelu(self.up(self.between(x))))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.rest(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def decode(self, x: Tensor, keys: Tensor, values: Tensor, at: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(x)
        keys.index_copy_(2, at, k)
        values.index_copy_(2, at, v)
        return self.rest(x, F.scaled_dot_product_attention(q, keys, values, attn_mask=mask))


class Gpt(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, room: int) -> None:
        super().__init__()
        self.heads, self.width, self.room = heads, width, room
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(room, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token(tokens) + self.place(places)
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


Run = Callable[[int], float]


def settle(seed: int = 7) -> None:
    torch.manual_seed(seed)


def resnet_inference(batch: int) -> Run:
    settle()
    model = torchvision.models.resnet50(weights=None).eval().to(DEVICE)
    image = torch.rand(batch, 3, 224, 224).to(DEVICE)

    @torch.inference_mode()
    def run(count: int) -> float:
        for _ in range(count):
            out = model(image)
        return float(out.double().sum())

    return run


def resnet_training(batch: int) -> Run:
    settle()
    model = torchvision.models.resnet50(weights=None).to(DEVICE)
    image = torch.rand(batch, 3, 224, 224).to(DEVICE)
    label = torch.randint(1000, (batch,)).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def run(count: int) -> float:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(image), label)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return run


def gpt_training(batch: int = 8, length: int = 256) -> Run:
    settle()
    model = Gpt(layers=6, width=512, heads=8, vocabulary=8192, room=length).to(DEVICE)
    tokens = torch.randint(8192, (batch, length + 1)).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def run(count: int) -> float:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            logits = model(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return run


def decode(graph: bool, room: int = 256) -> Run:
    """Greedy decoding of one sequence; every token is read on the host, as generation
    loops do to see the end."""
    settle()
    kind = torch.float16 if DEVICE == "cuda" else torch.float32
    model = Gpt(layers=12, width=768, heads=12, vocabulary=32000, room=room)
    model = model.eval().to(DEVICE, kind)
    shape = (1, model.heads, room, model.width // model.heads)
    caches = [(torch.zeros(shape, device=DEVICE, dtype=kind),
               torch.zeros(shape, device=DEVICE, dtype=kind)) for _ in model.blocks]
    token = torch.zeros(1, 1, dtype=torch.long, device=DEVICE)
    at = torch.zeros(1, dtype=torch.long, device=DEVICE)
    order = torch.arange(room, device=DEVICE)

    def step() -> None:
        mask = (order <= at).view(1, 1, 1, room)
        x = model.token(token) + model.place(at)
        for block, (keys, values) in zip(model.blocks, caches, strict=True):
            x = block.decode(x, keys, values, at, mask)
        token.copy_(model.head(model.last(x)).argmax(-1))
        at.add_(1).remainder_(room)

    replay = step
    if graph and DEVICE == "cuda":
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(captured):
            step()
        replay = captured.replay

    @torch.inference_mode()
    def run(count: int) -> float:
        token.zero_()
        at.zero_()
        for keys, values in caches:
            keys.zero_()
            values.zero_()
        said = 0
        for _ in range(count):
            replay()
            said = (said * 31 + int(token.item())) % 1000003
        return float(said)

    return run


def transfers() -> Run:
    """Batches from pinned memory, as a loader gives them, and results back."""
    settle()
    source = torch.rand(16, 1 << 20)
    if DEVICE == "cuda":
        source = source.pin_memory()

    def run(count: int) -> float:
        total = 0.0
        for _ in range(count):
            there = source.to(DEVICE, non_blocking=True)
            total = float((there * 2).sum(dtype=torch.float64))
        return total

    return run


WORKLOADS: dict[str, Callable[[], Run]] = {
    "gpt_train": gpt_training,
    "decode_eager": lambda: decode(False),
    "decode_graph": lambda: decode(True),
    "transfers": transfers,
    "resnet50_b1": lambda: resnet_inference(1),
    "resnet50_b32": lambda: resnet_inference(32),
    "resnet50_train_b64": lambda: resnet_training(64),
}


def main() -> None:
    made: dict[str, Run] = {}
    torch.backends.cudnn.deterministic = True
    print("ready", torch.__version__, DEVICE, flush=True)
    for line in sys.stdin:
        name, count = line.split()
        try:
            if name not in made:
                made[name] = WORKLOADS[name]()
            start = time.perf_counter()
            checksum = made[name](int(count))
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            print(time.perf_counter() - start, repr(checksum), flush=True)
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            print("failed", type(error).__name__, said, flush=True)


if __name__ == "__main__":
    main()
