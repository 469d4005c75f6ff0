"""Policies in torch, exported by both of its ONNX exporters, each once a session."""

import io
import logging
import warnings
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

N, M, H = 7, 3, 6


class Normalised(nn.Module):
    """Observation scaling and clipping, dense layers, clipped action."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(N))
        self.register_buffer("variance", torch.rand(N) + 0.5)
        self.net = nn.Sequential(
            nn.Linear(N, 8), nn.ELU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, M)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / torch.sqrt(self.variance + 1e-8)
        return torch.clamp(self.net(torch.clamp(x, -5, 5)), -1, 1)


class Scaled(nn.Module):
    """Observation scaling that nothing non-linear separates from the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(N))
        self.register_buffer("scale", torch.rand(N) + 0.5)
        self.net = nn.Sequential(nn.Linear(N, 8), nn.ReLU(), nn.Linear(8, M), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.scale)


class Activations(nn.Module):
    """Every activation that a torch user is likely to pick, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = [
            nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.Mish(), nn.Softplus(),
            nn.LeakyReLU(0.1), nn.SELU(), nn.Hardswish(), nn.Hardsigmoid(), nn.ELU(0.5),
            nn.Softsign(), nn.CELU(2.0), nn.Hardtanh(), nn.ReLU6(), nn.Sigmoid(), nn.PReLU(6),
        ]  # fmt: skip
        self.layers = nn.ModuleList(nn.Linear(H, H) for _ in self.kinds)
        self.first, self.parameters_of_kinds = nn.Linear(N, H), nn.ModuleList(self.kinds)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer, kind in zip(self.layers, self.kinds, strict=True):
            x = kind(layer(x))
        return x


class Residual(nn.Module):
    """Layer normalisation, a residual connection, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(N, 8), nn.LayerNorm(8)
        self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, M)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(torch.relu(self.first(x)))
        return torch.softmax(self.last(y + torch.relu(self.inner(y))), -1)


class Gru(nn.Module):
    """nn.GRU, one or two layers, over a sequence of one."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.gru, self.last = nn.GRU(N, H, layers), nn.Linear(H, M)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(x.unsqueeze(0), h)
        return torch.tanh(self.last(y[0])), h


class Lstm(nn.Module):
    """nn.LSTM, batch first, one or two layers."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(N, H, layers, batch_first=True), nn.Linear(H, M)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x.unsqueeze(1), (h, c))
        return self.last(y[:, 0]), h, c


class GruCell(nn.Module):
    """nn.GRUCell behind an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(N, 9), nn.GRUCell(9, H), nn.Linear(H, M)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(torch.relu(self.first(x)), h)
        return self.last(h), h


class LstmCell(nn.Module):
    """nn.LSTMCell behind an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(N, 9), nn.LSTMCell(9, H), nn.Linear(H, M)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, c = self.cell(torch.relu(self.first(x)), (h, c))
        return torch.tanh(self.last(h)), h, c


class HandGru(nn.Module):
    """A GRU by hand: gates sliced out of two products, (1 - z) n + z h."""

    def __init__(self) -> None:
        super().__init__()
        self.of_x, self.of_h = nn.Linear(N, 3 * H), nn.Linear(H, 3 * H)
        self.last = nn.Linear(H, M)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.of_x(x), self.of_h(h)
        r = torch.sigmoid(a[:, :H] + b[:, :H])
        z = torch.sigmoid(a[:, H : 2 * H] + b[:, H : 2 * H])
        n = torch.tanh(a[:, 2 * H :] + r * b[:, 2 * H :])
        h = (1 - z) * n + z * h
        return self.last(h), h


class JoinedGru(nn.Module):
    """A GRU by hand: r and z from [x, h], the update gate the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.of_x = nn.Linear(N + H, 2 * H), nn.Linear(N, H)
        self.of_h, self.last = nn.Linear(H, H, bias=False), nn.Linear(H, M)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        r, z = torch.sigmoid(self.gates(torch.cat([x, h], -1))).chunk(2, -1)
        n = torch.tanh(self.of_x(x) + r * self.of_h(h))
        h = (1 - z) * h + z * n
        return self.last(h), h


class HandLstm(nn.Module):
    """An LSTM by hand over [x, h]."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.last = nn.Linear(N + H, 4 * H), nn.Linear(H, M)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        i, f, g, o = self.gates(torch.cat([x, h], -1)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return self.last(h), h, c


@dataclass(frozen=True)
class Case:
    """A model, the shapes of its inputs, and the operations it must become."""

    build: type[nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...]
    layers: tuple[int, ...] = ()


_X, _H = (1, N), (1, H)
CASES: dict[str, Case] = {
    "scaled": Case(Scaled, (_X,), ("Dense", "Dense")),
    "normalised": Case(Normalised, (_X,), ("Linear", "Clip", "Dense", "Dense", "Dense", "Clip")),
    "activations": Case(Activations, (_X,), ()),
    "residual": Case(
        Residual, (_X,), ("Dense", "LayerNorm", "Dense", "Linear", "Dense", "Softmax")
    ),
    "gru": Case(Gru, (_X, (1, 1, H)), ("Gru", "Dense"), (1,)),
    "gru2": Case(
        Gru, (_X, (2, 1, H)), ("Gather", "Gru", "Gather", "Gru", "Dense", "Gather"), (2,)
    ),
    "lstm": Case(Lstm, (_X, (1, 1, H), (1, 1, H)), ("Lstm", "Dense"), (1,)),
    "lstm2": Case(
        Lstm, (_X, (2, 1, H), (2, 1, H)),
        ("Gather", "Gather", "Lstm", "Gather", "Gather", "Lstm", "Dense", "Gather", "Gather"), (2,),
    ),
    "gru_cell": Case(GruCell, (_X, _H), ("Dense", "Gru", "Dense")),
    "lstm_cell": Case(LstmCell, (_X, _H, _H), ("Dense", "Lstm", "Dense")),
    "hand_gru": Case(HandGru, (_X, _H), ("Gru", "Dense")),
    "joined_gru": Case(JoinedGru, (_X, _H), ("Gru", "Dense")),
    "hand_lstm": Case(HandLstm, (_X, _H, _H), ("Lstm", "Dense")),
}  # fmt: skip


@cache
def module(name: str) -> nn.Module:
    """The model of a case, with weights of its own, in eval mode."""
    torch.manual_seed(0)
    case = CASES[name]
    return case.build(*case.layers).eval()


@cache
def exported(name: str, dynamo: bool) -> bytes:
    """The bytes of the `.onnx` file that torch writes for a case."""
    arguments = tuple(torch.zeros(shape) for shape in CASES[name].shapes)
    return export(module(name), arguments, dynamo)


def export(model: nn.Module, arguments: tuple[Tensor, ...], dynamo: bool, **options) -> bytes:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(model, arguments, dynamo=True, verbose=False, **options)
            return program.model_proto.SerializeToString()
        file = io.BytesIO()
        torch.onnx.export(model, arguments, file, dynamo=False, **options)
        return file.getvalue()
