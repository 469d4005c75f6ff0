"""Certificates: statements about a program, each with how it is known.

Of its linked image (`image`): what it calls and keeps, its stack, and that no data decide the way
it takes (`paths`). Of its numbers (`numbers`): what every tensor and the action can be
(`tensors`), that no integer overflows, and how far integers are from the policy (`deviation`, by
affine forms). What could not be proved is measured and called so, or said not to apply and why.
"""
