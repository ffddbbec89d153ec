"""Traces a function to a program (a jaxpr) and evaluates parts of programs."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

_CALLS = ("jit", "pjit", "closed_call", "remat", "remat2", "checkpoint")


def traced(function: Callable, *arguments) -> tuple[ClosedJaxpr, jax.tree_util.PyTreeDef]:
    """(the program that maps leaves of the arguments to leaves of the outputs, structure of the outputs)."""
    program, outputs = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return inlined(program, jax.tree.leaves(arguments)), jax.tree.structure(outputs)


def inlined(program: ClosedJaxpr, inputs: Sequence) -> ClosedJaxpr:
    """The program without calls of other programs, for inputs of these shapes and dtypes."""

    def run(program, *inputs):
        def inline(eqn, values):
            if eqn.primitive.name not in _CALLS:
                return bind(eqn, values)
            inner = eqn.params["jaxpr"]
            return run(inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ()), *values)

        return evaluate(program, dict(zip(program.jaxpr.invars, inputs, strict=True)), bind=inline)

    return jax.make_jaxpr(functools.partial(run, program))(*inputs)


def bind(eqn: JaxprEqn, values: Sequence) -> list:
    """The outputs of an operation for these inputs."""
    inputs = {v: x for v, x in zip(eqn.invars, values, strict=True) if not isinstance(v, Literal)}
    program = _empty().replace(invars=list(inputs), outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects)
    return jaxpr_as_fun(ClosedJaxpr(program, ()))(*inputs.values())


@functools.cache
def _empty() -> Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr


def evaluate(
    program: ClosedJaxpr, known: Mapping, wanted: Sequence | None = None, bind: Callable = bind
) -> list:
    """Evaluates only the operations that are needed.

    Args:
        program: the program.
        known: values that are given, by variable: all inputs, and others to be taken instead of computed.
        wanted: the variables; None for the program's outputs, together with its effects.
        bind: (operation, its inputs) -> its outputs.

    Returns:
        The values of the wanted variables.
    """
    values = {**dict(zip(program.jaxpr.constvars, program.consts, strict=True)), **known}
    outs, eqns = program.jaxpr.outvars if wanted is None else wanted, []
    needed = set(variables(outs)) - values.keys()
    for eqn in reversed(program.jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars) or (wanted is None and eqn.effects):
            eqns.append(eqn)
            needed.update(v for v in variables(eqn.invars) if v not in values)
    for eqn in reversed(eqns):
        results = bind(eqn, [_read(values, atom) for atom in eqn.invars])
        for v, result in zip(eqn.outvars, results, strict=True):
            values.setdefault(v, result)
    return [_read(values, atom) for atom in outs]


def variables(atoms: Iterable) -> list[Var]:
    """Inputs or outputs without the constants among them."""
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def depending(eqns: Iterable[JaxprEqn], sources: Iterable[Var], with_gradient: bool = False) -> set[Var]:
    """The sources and all values computed from them.

    Args:
        eqns: the operations, in order.
        sources: the values to start from.
        with_gradient: leaves out values without a gradient by the sources.
    """
    found = set(sources)
    for eqn in eqns:
        stops = with_gradient and eqn.primitive.name == "stop_gradient"
        if not stops and not found.isdisjoint(variables(eqn.invars)):
            found.update(
                v for v in eqn.outvars if not with_gradient or jnp.issubdtype(v.aval.dtype, jnp.inexact)
            )
    return found


def _read(values: Mapping, atom):
    return atom.val if isinstance(atom, Literal) else values[atom]
