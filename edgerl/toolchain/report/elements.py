"""What the elements of a policy's vectors are called, for people: `motor[2] (bl)`, `hidden[5]`."""

from collections.abc import Sequence

from edgerl.policies.spec import PolicySpec, Signal, StateSignal


def elements(signals: Sequence[Signal | StateSignal]) -> list[str]:
    """A name for every element of `signals`, in order: the signal's alone where it has one
    element, with index and label otherwise."""
    return [_element(signal, i) for signal in signals for i in range(signal.size)]


def state_elements(spec: PolicySpec) -> list[str]:
    """A name for every float of a controller's state: the recurrent states, then the action that
    it holds in case an observation is rejected."""
    return [*elements(spec.state), *(f"held {name}" for name in elements(spec.action))]


def _element(signal: Signal | StateSignal, i: int) -> str:
    name = signal.name if signal.size == 1 else f"{signal.name}[{i}]"
    labels = signal.labels if isinstance(signal, Signal) else ()
    return f"{name} ({labels[i]})" if labels else name
