"""TorchScript files against torch's own actions; files that are wrong or hostile."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import checkpoints_torch
import exports
import numpy as np
import pytest
import torch
from archives import damaged, packed, stored
from checkpoints_torch import M, N, mlp, rsl_rl
from torch import Tensor, nn
from torch_answers import agrees, run, same

from edgerl.errors import UserError
from edgerl.policies import Policy, load
from edgerl.policies.importers.containers import torch_archive

TORCHSCRIPT = [name for name in checkpoints_torch.MAKERS if not name.startswith("torch-export")]


@pytest.mark.parametrize("name", TORCHSCRIPT)
def test_actions_are_torch_s_own(name: str, tmp_path: Path) -> None:
    checkpoint = checkpoints_torch.MAKERS[name](tmp_path)
    assert len(checkpoint.observations) >= 1000 and checkpoint.resets.sum() > 1
    policy = load(checkpoint.path)
    assert same(run(policy, checkpoint.observations, checkpoint.resets), checkpoint.actions)
    assert np.ptp(checkpoint.actions) > 1e-3


def test_what_is_known_of_an_rsl_rl_policy(tmp_path: Path) -> None:
    policy = load(rsl_rl(tmp_path, "lstm").path)
    assert [(s.name, s.size) for s in policy.spec.state] == [("hidden_state", 8), ("cell_state", 8)]
    assert policy.provenance["source"] == "torch" and len(policy.provenance["sha256"]) == 64
    assert "observation: 3 values, which is what the module's weights take" in policy.assumed
    assert (
        "states: hidden_state, cell_state, the buffers that forward() writes to" in policy.assumed
    )


@pytest.mark.parametrize("kind", ["HeteroscedasticGaussianDistribution", "BetaDistribution"])
def test_other_distributions_of_rsl_rl(kind: str, tmp_path: Path) -> None:
    checkpoint = rsl_rl(tmp_path, "mlp", kind)
    policy = load(checkpoint.path)
    assert same(run(policy, checkpoint.observations, checkpoint.resets), checkpoint.actions)


def saved(model: nn.Module, folder: Path, traced: bool = False) -> Path:
    path = folder / "model.pt"
    made = torch.jit.trace(model, torch.zeros(1, N)) if traced else torch.jit.script(model)
    made.save(path)
    return path


def loaded(model: nn.Module, folder: Path) -> Policy:
    return load(saved(model.eval(), folder))


class History(nn.Module):
    """The last three observations, kept by the module in a buffer."""

    def __init__(self, rolled: bool) -> None:
        super().__init__()
        self.rolled = rolled
        self.register_buffer("seen", torch.zeros(1, 3, N))
        self.net = nn.Sequential(nn.Linear(3 * N, 8), nn.Tanh(), nn.Linear(8, M))

    def forward(self, x: Tensor) -> Tensor:
        if self.rolled:
            self.seen = torch.cat([self.seen[:, 1:], x.unsqueeze(1)], dim=1)
        else:
            self.seen[:, :-1] = self.seen[:, 1:].clone()
            self.seen[:, -1] = x
        return self.net(self.seen.flatten(1))


@pytest.mark.parametrize("rolled", [False, True])
def test_a_history_in_a_buffer_becomes_a_state(rolled: bool, tmp_path: Path) -> None:
    policy = loaded(History(rolled), tmp_path)
    assert [(s.name, s.size) for s in policy.spec.state] == [("seen", 3 * N)]
    assert policy.spec.observation_size == N
    assert agrees(policy, torch.jit.load(tmp_path / "model.pt"))


class PreviousAction(nn.Module):
    """The action before joins the observation; a counter that reaches nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(N + 2, 2)
        self.register_buffer("before", torch.zeros(1, 2))
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        action = torch.tanh(self.net(torch.cat([x, self.before], -1)))
        self.before.copy_(action)
        self.steps += 1
        return action


def test_only_buffers_that_reach_the_action_are_states(tmp_path: Path) -> None:
    policy = loaded(PreviousAction(), tmp_path)
    assert [(s.name, s.size) for s in policy.spec.state] == [("before", 2)]
    assert policy.spec.observation_size == N
    assert agrees(policy, torch.jit.load(tmp_path / "model.pt"))


class Sliced(nn.Module):
    """Parts of the observation on two ways; the size follows from both together."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.rest = nn.Linear(4, 8), nn.Linear(7, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.own(x[:, :4])) * torch.sigmoid(self.rest(x[:, 4:]))


class Chunked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return self.net(a) - self.net(b)


@pytest.mark.parametrize(("build", "size"), [(Sliced, 11), (Chunked, 10)])
def test_the_observation_s_size_follows_from_the_weights(
    build: type[nn.Module], size: int, tmp_path: Path
) -> None:
    policy = loaded(build(), tmp_path)
    assert policy.spec.observation_size == size
    assert agrees(policy, torch.jit.load(tmp_path / "model.pt"), 100)


@pytest.mark.parametrize("name", ["gru_cell", "hand_gru", "joined_gru", "hand_lstm", "lstm_cell"])
def test_states_that_are_inputs_and_outputs(name: str, tmp_path: Path) -> None:
    model, case = exports.module(name), exports.CASES[name]
    path = tmp_path / "model.pt"
    torch.jit.trace(model, tuple(torch.zeros(shape) for shape in case.shapes)).save(path)
    policy = load(path)
    states = len(case.shapes) - 1
    assert [s.size for s in policy.spec.state] == [exports.H] * states
    assert policy.spec.observation_size == exports.N
    assert agrees(policy, model, 100, states)


@pytest.mark.parametrize("name", ["scaled", "normalised", "activations", "residual"])
@pytest.mark.parametrize("traced", [False, True])
def test_layers(name: str, traced: bool, tmp_path: Path) -> None:
    model = exports.module(name)
    if name == "activations" and not traced:
        model = nn.Sequential(
            model.first,
            *[part for pair in zip(model.layers, model.kinds, strict=True) for part in pair],
        )
    path = tmp_path / "model.pt"
    if traced:
        torch.jit.trace(model, torch.zeros(1, exports.N)).save(path)
    else:
        torch.jit.script(model).save(path)
    assert agrees(load(path), model, 200)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            return x * 2.0
        return x


class Unsized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Convolving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv1d(1, 2, 3), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x.unsqueeze(1)).mean(-1))


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(N, M)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.sort(x)[0])


class Looping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(N, N)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(1_000_000):
            x = self.net(x)
        return x


class OfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(N, M)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return self.net(x["policy"])


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(N, 8), nn.Dropout(0.5), nn.Linear(8, M))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Started(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(N, M)
        self.register_buffer("sum", torch.ones(1, M))

    def forward(self, x: Tensor) -> Tensor:
        self.sum = self.sum * 0.5 + self.net(x)
        return self.sum


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "branch": (lambda: Branching().eval(), "only known at run time"),
    "unsized": (lambda: Unsized().eval(), "export the module with torch.export"),
    "convolution": (
        lambda: Convolving().eval(),
        "module conv, line .*operator conv1d: is a convolution; networks of dense",
    ),
    "operator": (lambda: Sorting().eval(), "operator sort: is not supported; export the model"),
    "loop": (lambda: Looping().eval(), "loops 1000000 times"),
    "dictionary": (lambda: OfTwo().eval(), "takes 'x' of type Dict"),
    "training": (lambda: Dropping().train(), r"module net.1, .*dropout: .*model.eval\(\)"),
    "start": (lambda: Started().eval(), "buffer 'sum' is a state and does not start at zero"),
    "half": (lambda: nn.Linear(N, M).half(), "weights in float16; save the model in float32"),
    "bfloat16": (lambda: nn.Linear(N, M).bfloat16(), "weights in bfloat16; save the model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as error:
        load(saved(build(), tmp_path))
    assert str(error.value).startswith("model.pt: ") and "\n" not in str(error.value)


def test_a_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save(mlp(), path)
    with pytest.raises(UserError, match=r"class 'torch.nn.modules.container.Sequential'.*onnx"):
        load(path)


def test_the_format_before_zip_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(mlp().state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"format of torch before 1\.6; load it in torch and save"):
        load(path)


LAYERS = """
[[layer]]
kind = "dense"
weight = "0.weight"
bias = "0.bias"
activation = "relu"

[[layer]]
kind = "dense"
weight = "2.weight"
bias = "2.bias"
"""


@pytest.mark.parametrize("key", ["", "model_state_dict", "actor_state_dict", "policy"])
def test_weights_with_a_list_of_layers(key: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N, 8), nn.ReLU(), nn.Linear(8, M))
    optimizer = torch.optim.Adam(model.parameters())
    weights = model.state_dict()
    content = {"iter": 3, "optimizer_state_dict": optimizer.state_dict(), key: weights}
    path, layers = tmp_path / "weights.pt", tmp_path / "layers.toml"
    torch.save(content if key else weights, path)
    layers.write_text(LAYERS)
    policy = load(path, layers=layers)
    assert policy.provenance["source"] == "torch"
    assert agrees(policy, model, 100)


def test_a_checkpoint_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "settings.pt"
    torch.save({"lr": 0.1}, path)
    with pytest.raises(UserError, match="holds no weights by name"):
        load(path)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('executed')",))


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The archive with members changed, or left out where `change` gives None."""
    with zipfile.ZipFile(path) as old:
        members = [(i.filename, change(i.filename, old.read(i.filename))) for i in old.infolist()]
    target = path.with_name(f"changed{path.suffix}")
    with zipfile.ZipFile(target, "w") as new:
        for name, content in members:
            if content is not None:
                new.writestr(name, content)
    return target


def scripted_file(folder: Path) -> Path:
    return saved(mlp(), folder)


def with_code(path: Path, old: str, new: str) -> Path:
    """The archive with a piece of its code replaced."""
    found = []

    def change(name: str, content: bytes) -> bytes:
        if name.endswith(".py") and old.encode() in content:
            found.append(name)
            return content.replace(old.encode(), new.encode())
        return content

    changed = rewritten(path, change)
    assert found
    return changed


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl"])
def test_a_pickle_that_asks_for_code_is_not_executed(member: str, tmp_path: Path) -> None:
    path = scripted_file(tmp_path)

    def change(name: str, content: bytes) -> bytes:
        return pickle.dumps(Bomb()) if name.endswith(f"/{member}") else content

    with pytest.raises(UserError, match=r"names 'builtins.exec'.*asks for code"):
        load(rewritten(path, change))


HOSTILE = {
    "import": ("return torch.tanh(input)", "import os"),
    "builtin": ("return torch.tanh(input)", "return open('x')"),
    "dunder": ("return torch.tanh(input)", "return input.__class__"),
    "lambda": ("return torch.tanh(input)", "return (lambda: input)()"),
    "eval": ("return torch.tanh(input)", "return eval('input')"),
    "comprehension": ("return torch.tanh(input)", "return [torch.tanh(input) for _ in [1]]"),
    "attribute": ("return torch.tanh(input)", "return self.items"),
    "endless": ("return torch.tanh(input)", "while True:\n      x = 1"),
    "recursion": ("return torch.tanh(input)", "return (self).forward(input, )"),
    "huge": ("return torch.tanh(input)", "return torch.zeros([1000000, 1000000])"),
    "power": ("return torch.tanh(input)", "x = torch.pow(9, 999999999)\n    return input"),
    "repeat": ("return torch.tanh(input)", "return torch.repeat(input, [99999, 99999])"),
    "doubling": (
        "return torch.tanh(input)",
        "x = [1, 2]\n    for i in range(999):\n      x = torch.add(x, x)\n    return input",
    ),
    "nesting": ("return torch.tanh(input)", f"return {'(' * 500}input{')' * 500}"),
    "dots": ("return torch.tanh(input)", f"return input{'.a' * 20000}"),
    "minus": ("return torch.tanh(input)", f"return {'-' * 20000}1"),
    "not code": ("return torch.tanh(input)", "return ("),
    "custom": ("torch.tanh(input)", "ops.mine.tanh(input)"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_code_beyond_what_torch_prints_is_refused(name: str, tmp_path: Path) -> None:
    path = with_code(scripted_file(tmp_path), *HOSTILE[name])
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value).startswith("changed.pt: ") and "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_one_storage_under_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, square = tmp_path / "bomb.pt", torch.zeros(256, 256)
    monkeypatch.setattr(torch_archive, "MOST_NUMBERS", 10 << 16)
    # Each tensor is a copy of its own once it is read, and no more than a line in the file.
    torch.save({str(k): square.t() for k in range(10)}, path)
    with pytest.raises(UserError, match="holds weights without the network"):
        load(path)
    torch.save({str(k): square.t() for k in range(11)}, path)
    with pytest.raises(UserError, match="tensors of more than 655,360 numbers together"):
        load(path)


def test_missing_code(tmp_path: Path) -> None:
    path = scripted_file(tmp_path)
    changed = rewritten(path, lambda name, data: None if "activation.py" in name else data)
    with pytest.raises(UserError, match="which the archive does not hold"):
        load(changed)


def test_reading_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scripted_file(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert load(path).spec.observation_size == N


def loads_or_refuses(path: Path) -> None:
    try:
        policy = load(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(policy, Policy)


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_files(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    path = rsl_rl(tmp_path, "gru").path
    content, members = path.read_bytes(), stored(path)
    told = [k for k, (name, _) in enumerate(members) if name.endswith((".py", ".pkl"))]
    target = tmp_path / "fuzzed.pt"
    for k in range(60):
        if k % 3:
            # Past the checksums: code and pickles changed within a whole archive.
            changed = list(members)
            at = told[rng.integers(len(told))]
            changed[at] = (members[at][0], damaged(members[at][1], rng))
            target.write_bytes(packed(changed))
        else:
            target.write_bytes(damaged(content, rng))
        loads_or_refuses(target)
