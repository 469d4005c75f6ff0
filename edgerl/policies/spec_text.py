"""A spec as the TOML file that a user fills in."""

import json

from edgerl.policies.spec import PolicySpec, Signal


def spec_text(spec: PolicySpec, assumed: tuple[str, ...] = ()) -> str:
    """`spec` as a file that `load_spec` reads back to the same, with what to look at in comments.

    `assumed` are the defaults that nobody has confirmed.
    """
    lines = [
        "# What the policy's numbers mean. Change what is not so; `edgerl vocabulary` lists the",
        "# names that bring unit, frame and range along.",
        *(f"# assumed: {line}" for line in assumed),
        f"name = {_text(spec.name)}",
        f"rate_hz = {_number(spec.rate_hz)}",
        f"licence = {_text(spec.licence)}",
        "",
        "# Which previous action the policy sees, if it sees one: raw, clamped or applied.",
        f"feedback = {_text(spec.feedback)}",
        "# What a step does with an observation out of its range (saturate, hold, fallback), and",
        "# with one that is no number (hold, fallback).",
        f"out_of_range = {_text(spec.out_of_range)}",
        f"non_finite = {_text(spec.non_finite)}",
        "# What leaves before the first good observation, and when falling back.",
        f"{'' if spec.fallback else '# '}fallback = {_numbers(spec.safe_action())}",
        "",
        "# The observation, in the order that the network takes it. Split it into its signals:",
        "# their sizes must add up to the same. `history = 4` says that the network takes the last",
        "# four values of a signal; `kept = true` that a signal is the policy's own last action.",
        "# The emitted code then keeps those.",
    ]
    for kind, signals in (("observation", spec.observation), ("action", spec.action)):
        for signal in signals:
            lines += [f"[[{kind}]]", *_signal(signal), ""]
    for state in spec.state:
        lines += ["[[state]]", f"name = {_text(state.name)}", f"size = {state.size}", ""]
    return "\n".join(lines)


def _signal(signal: Signal) -> list[str]:
    lines = [
        f"name = {_text(signal.name)}",
        f"size = {signal.size}",
        f"unit = {_text(signal.unit)}",
        f"frame = {_text(signal.frame)}",
        f"range = {_numbers(signal.range)}",
    ]
    if signal.discrete:
        lines.append("discrete = true")
    if signal.labels:
        lines.append(f"labels = [{', '.join(map(_text, signal.labels))}]")
    if signal.spin:
        lines.append(f"spin = [{', '.join(map(str, signal.spin))}]")
    return lines


def _text(text: str) -> str:
    # Names and labels are plain ASCII, whose JSON strings are TOML's basic strings.
    return json.dumps(text)


def _number(value: float) -> str:
    return repr(float(value))


def _numbers(values: tuple[float, ...]) -> str:
    return f"[{', '.join(map(_number, values))}]"
