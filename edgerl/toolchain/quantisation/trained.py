"""Trained: the integers that a policy's weights were trained for, carried by the policy itself.

They are what `quantise` would have to find again without the calibration and the search that once
found them. They are used only where the policy's weights still come to just these integers.
"""

from dataclasses import replace

from edgerl.errors import UserError
from edgerl.policies.onnx_file import MOST_WORDS
from edgerl.policies.policy import Policy
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.quantisation.proof import require_no_overflow
from edgerl.toolchain.quantisation.rescaling import with_weights
from edgerl.toolchain.quantisation.rewriting import prepared
from edgerl.toolchain.quantisation.serialisation import parse, serialize


def with_integers(policy: Policy, fixed: FixedProgram) -> Policy:
    """`policy` with the integers that its weights were trained for.

    Raises UserError where they are more than a policy's file may carry.
    """
    text = serialize(fixed).decode().strip()
    if len(text) * 2 > MOST_WORDS:
        raise UserError(
            f"{policy.name}: its integers are {len(text) >> 10} KiB of text and a policy carries "
            f"{MOST_WORDS >> 11}; fine-tune a smaller policy"
        )
    return replace(policy, integers=text)


def trained_integers(policy: Policy) -> FixedProgram | None:
    """The integers that a policy's weights were trained for, None where it carries none.

    Raises UserError where what it carries is no program of integers, may overflow, or is not what
    the policy's weights come to.
    """
    if not policy.integers:
        return None
    fixed = parse(policy.integers.encode(), policy.name)
    try:
        require_no_overflow(fixed)
        again = with_weights(fixed, prepared(lower(policy, integers=True)))
        same = serialize(again) == serialize(fixed)
    # Whatever NumPy makes of arrays that do not fit each other.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{policy.name}: its integers are damaged; fine-tune it again") from error
    if not same:
        raise UserError(
            f"{policy.name}: its weights do not come to the integers that it was trained for; "
            "fine-tune it again"
        )
    return fixed
