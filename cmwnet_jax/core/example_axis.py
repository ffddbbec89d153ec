"""Follows the examples of a batch through one operation of a traced program, from its output to its inputs.

Where the examples are in an array is given by the numbers of entries before and after them in row-major order,
their `Place`. Reshaping does not change it: it is (4, 3) in an array [4, n, 3] and also in [4 * n, 3].
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from jax.extend.core import JaxprEqn

Shape = tuple[int, ...]
Axis = int | None
"""The axis of the examples; None if the array has none."""


class Place(NamedTuple):
    """The place of the examples in an array that can be reshaped to [before, n, after]."""

    before: int
    after: int


class Unknown(Exception):
    """No rule says which examples of its inputs an operation's output depends on."""


_NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy
    copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma
    log log1p logistic lt max min mul ne neg not or pcast pow pvary reduce_precision rem round rsqrt select_n
    sharding_constraint sign sin sinh sqrt square stop_gradient sub tan tanh xor
"""
_ELEMENTWISE = frozenset(_NAMES.split())
SHAPING = _ELEMENTWISE | {"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose"}
"""Operations whose output entries each depend on one entry of each input."""


def places_of_inputs(eqn: JaxprEqn, out: Shape, place: Place, n: int) -> list[Place | None]:
    """The place of the examples in each input, given their place in the output.

    The output's entries of example i depend on the input's entries of example i alone, or, without a place, on
    any of the input's entries.

    Args:
        eqn: the operation.
        out: the shape of one of its outputs.
        place: the place in this output.
        n: the number of examples.

    Returns:
        One entry per input; None for an input that has no axis of examples.

    Raises:
        Unknown: there is no rule for the operation, or for this use of it.
    """
    name, shapes = eqn.primitive.name, [variable.aval.shape for variable in eqn.invars]
    if name in SHAPING and name != "transpose" and all(math.prod(s) in (1, math.prod(out)) for s in shapes):
        return [place if math.prod(shape) == math.prod(out) else None for shape in shapes]
    rule = _elementwise if name in _ELEMENTWISE else _RULES.get(name)
    if rule is None:
        raise Unknown
    axis, before, after = _axis(out, place, n)
    axes = rule(eqn.params, shapes, out, axis)
    return [
        None if axis is None else Place(math.prod(shape[:axis]) * before, math.prod(shape[axis + 1 :]) * after)
        for shape, axis in zip(shapes, axes, strict=True)
    ]


def _axis(shape: Shape, place: Place, n: int) -> tuple[int, int, int]:
    """The axis that holds the examples, of length before * n * after, with these two factors."""
    for axis, size in enumerate(shape):
        before, more = divmod(place.before, math.prod(shape[:axis]))
        after, rest = divmod(place.after, math.prod(shape[axis + 1 :]))
        if not more and not rest and size == before * n * after:
            return axis, before, after
    raise Unknown  # they are spread over several axes


def _elementwise(params, shapes, out, axis) -> list[Axis]:
    return [axis if shape[axis : axis + 1] == out[axis : axis + 1] else None for shape in shapes]


def _broadcast(params, shapes, out, axis) -> list[Axis]:
    sources = dict(zip(params["broadcast_dimensions"], range(len(shapes[0])), strict=True))
    is_copied = axis not in sources or shapes[0][sources[axis]] != out[axis]
    return [None if is_copied else sources[axis], *[None for _ in shapes[1:]]]


def _reduce(params, shapes, out, axis) -> list[Axis]:
    return [[a for a in range(len(shape)) if a not in params["axes"]][axis] for shape in shapes]


def _not_along(name: str) -> Callable[..., list[Axis]]:
    """The rule of operations that mix entries along the axes that a parameter names."""

    def rule(params, shapes, out, axis):
        if name not in params:
            raise Unknown
        mixed = params[name] if isinstance(params[name], tuple) else (params[name],)
        return [None if axis in mixed else axis for _ in shapes]

    return rule


def _dot_general(params, shapes, out, axis) -> list[Axis]:
    contracted, batch = params["dimension_numbers"]
    free = [[a for a in range(len(shapes[i])) if a not in (*contracted[i], *batch[i])] for i in (0, 1)]
    places = [*zip(*batch, strict=True), *((a, None) for a in free[0]), *((None, a) for a in free[1])]
    return list(places[axis])


def _convolution(params, shapes, out, axis) -> list[Axis]:
    numbers = params["dimension_numbers"]
    if axis != numbers.out_spec[0] or params["batch_group_count"] != 1:
        raise Unknown
    return [numbers.lhs_spec[0], None]


def _window(params, shapes, out, axis) -> list[Axis]:
    keeps = params["window_dimensions"][axis] == 1 and shapes[0][axis] == out[axis]
    return [axis if keeps else None for _ in shapes]


def _whole(params, shapes, out, axis) -> list[Axis]:
    """Slices and padding that leave the axis of the examples as it is."""
    if shapes[0][axis] != out[axis] or any(params.get("padding_config", {axis: ()})[axis]):
        raise Unknown
    return [axis, *[None for _ in shapes[1:]]]


def _gather(params, shapes, out, axis) -> list[Axis]:
    numbers = params["dimension_numbers"]
    if axis in numbers.offset_dims:
        gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        source = [a for a in range(len(shapes[0])) if a not in gone][numbers.offset_dims.index(axis)]
        if params["slice_sizes"][source] != shapes[0][source]:
            raise Unknown
        return [source, None]
    index_axis = [a for a in range(len(out)) if a not in numbers.offset_dims].index(axis)
    if index_axis not in numbers.start_indices_batching_dims:
        raise Unknown  # it depends on the values of the indices
    paired = zip(numbers.start_indices_batching_dims, numbers.operand_batching_dims, strict=True)
    return [dict(paired)[index_axis], index_axis]


_RULES: dict[str, Callable[..., list[Axis]]] = {
    "broadcast_in_dim": _broadcast,
    "transpose": lambda params, shapes, out, axis: [params["permutation"][axis]],
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    **dict.fromkeys(("concatenate", "sort"), _not_along("dimension")),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _not_along("axis")),
    **dict.fromkeys(("split", "top_k"), _not_along("axis")),
    "rev": _not_along("dimensions"),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), _reduce),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _window),
    **dict.fromkeys(("slice", "pad", "dynamic_slice"), _whole),
}
"""By name: (parameters, input shapes, output shape, the examples' axis there) -> their axis in each input."""
