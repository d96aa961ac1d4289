"""Vectors of eight numbers in functions compiled by numba.

LLVM vectorises a loop whose body it understands and whose length is large. Loops over the heads of
an edge are neither. These functions, for use in compiled functions only, say what is wanted; LLVM
translates vectors of eight to the instructions of any processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from stofm_geo.ops.compiled import compiled

LANES = 8


@compiled
def period_of(heads):  # type: ignore[no-untyped-def]
    """Compute the least common multiple of 8 and the number of heads.

    Numbers by head, ``[..., H]`` in memory, are taken eight at a time: place ``p`` of a period
    belongs to head ``p % H``.
    """
    period = heads
    while period % LANES:
        period += heads
    return period


@compiled
def next_place(place, period):  # type: ignore[no-untyped-def]
    """Compute the place of the next eight numbers."""
    return place + LANES if place + LANES < period else 0


_CONTRACT = ("contract",)  # a product and a sum may be one instruction
_INT32 = ir.IntType(32)

# Polynomial of the exponential in single precision (Cephes' expf), highest power first.
_EXP_SINGLE = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)


class Vector(types.Type):
    """Eight numbers of a dtype."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        number = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}[kind.dtype]
        super().__init__(manager, kind, ir.VectorType(number, LANES))


def _place(context: Any, builder: Any, kind: types.Array, array: Any, offset: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    vector = context.get_value_type(Vector(kind.dtype))
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


@intrinsic
def load(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """Read eight numbers of a contiguous array from index ``offset``, which is not checked."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        vector = builder.load(_place(context, builder, signature.args[0], *args))
        vector.align = array.dtype.bitwidth // 8
        return vector

    return Vector(array.dtype)(array, types.intp), generate


@intrinsic
def store(typing_context, vector, array, offset):  # type: ignore[no-untyped-def]
    """Write eight numbers to a contiguous array from index ``offset``, which is not checked."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        place = _place(context, builder, signature.args[1], *args[1:])
        builder.store(args[0], place).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(vector, array, types.intp), generate


@intrinsic
def splat(typing_context, number):  # type: ignore[no-untyped-def]
    """Repeat a number eight times."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = context.get_value_type(signature.return_type)
        nothing = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(nothing, args[0], ir.Constant(_INT32, 0))
        zeros = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
        return builder.shuffle_vector(first, nothing, zeros)

    return Vector(number)(number), generate


def _elementwise(count: int, operation: Callable[..., Any]) -> Any:
    """Return an intrinsic of vectors of one dtype; ``operation`` gets the builder and them."""

    def typed(vectors: tuple[Vector, ...]) -> tuple[Any, Callable]:
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return operation(builder, *args)

        return vectors[0](*vectors), generate

    if count == 2:
        return intrinsic(lambda typing_context, a, b: typed((a, b)))
    return intrinsic(lambda typing_context, a, b, c: typed((a, b, c)))


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), c, flags=_CONTRACT)


def _multiply_subtract(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fsub(c, builder.fmul(a, b, flags=_CONTRACT), flags=_CONTRACT)


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


add = _elementwise(2, lambda builder, a, b: builder.fadd(a, b))
subtract = _elementwise(2, lambda builder, a, b: builder.fsub(a, b))
multiply = _elementwise(2, lambda builder, a, b: builder.fmul(a, b))
maximum = _elementwise(2, _maximum)  # b where a is NaN
multiply_add = _elementwise(3, _multiply_add)  # a * b + c
multiply_subtract = _elementwise(3, _multiply_subtract)  # c - a * b


@intrinsic
def exponential(typing_context, vector):  # type: ignore[no-untyped-def]
    """Compute the exponential as :func:`stofm_geo.ops.compiled.exp` does."""
    single = vector.dtype == types.float32

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = context.get_value_type(signature.return_type)
        return (_exp_single if single else _exp_double)(builder, kind, args[0])

    return vector(vector), generate


def _function(builder: Any, name: str, kind: Any, x: Any) -> Any:
    declared = ir.FunctionType(kind, [kind])
    return builder.call(cgutils.get_or_insert_function(builder.module, declared, name), [x])


def _exp_double(builder: Any, kind: Any, x: Any) -> Any:
    return _function(builder, f"llvm.exp.v{LANES}f64", kind, x)


def _exp_single(builder: Any, kind: Any, x: Any) -> Any:
    def all_of(number: float) -> ir.Constant:
        return ir.Constant(kind, [float(np.float32(number))] * LANES)

    low = builder.fcmp_ordered("<", x, all_of(-87))
    x = builder.select(low, all_of(-87), x)
    power = _multiply_add(builder, x, all_of(1.44269504), all_of(0.5))
    power = _function(builder, f"llvm.floor.v{LANES}f32", kind, power)
    rest = _multiply_add(builder, power, all_of(-0.693359375), x)
    rest = _multiply_add(builder, power, all_of(2.12194440e-4), rest)
    value = all_of(_EXP_SINGLE[0])
    for coefficient in _EXP_SINGLE[1:]:
        value = _multiply_add(builder, value, rest, all_of(coefficient))
    rest_and_one = builder.fadd(rest, all_of(1))
    value = _multiply_add(builder, builder.fmul(value, rest), rest, rest_and_one)
    integers = ir.VectorType(_INT32, LANES)
    exponent = builder.add(builder.fptosi(power, integers), ir.Constant(integers, [127] * LANES))
    exponent = builder.shl(exponent, ir.Constant(integers, [23] * LANES))
    value = builder.fmul(value, builder.bitcast(exponent, kind))
    return builder.select(low, all_of(0), value)
