"""Checks of a layer's arguments. Each message names the thing, what was found, and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import Parameter, signature
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.inspector import Inspector
from torch_geometric.nn.conv import MessagePassing

_OPTIONS = set(signature(MessagePassing).parameters)


def check_sizes(**sizes: tuple[int, int]) -> None:
    """Check integers; each keyword is a name with its value and the minimum.

    Raises:
        ValueError: A size is too small or not an integer; the message names it.
    """
    for name, (size, least) in sizes.items():
        if not isinstance(size, Integral):
            raise ValueError(f"{name} must be a whole number; found {size!r}")
        if size < least:
            raise ValueError(f"{name} must be {least} or more; found {size}")


def check_channels(in_channels: Any) -> tuple[int, int]:
    """Return the sizes of sources and destinations.

    Raises:
        ValueError: ``in_channels`` is neither a size nor a pair of sizes.
    """
    pair = in_channels if isinstance(in_channels, tuple | list) else (in_channels,) * 2
    if len(pair) != 2 or not all(isinstance(s, Integral) and int(s) >= -1 for s in pair):
        raise ValueError(
            "in_channels must be a size, -1 to infer it from the first input, or a pair "
            f"(sources, destinations) of sizes; found {in_channels!r}"
        )
    return pair[0], pair[1]


def check_choice(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return ``value`` after checking that it is one of ``known``.

    Raises:
        ValueError: ``value`` is not one of ``known``.
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {list(known)}; found {value!r}")
    return value


def check_message_passing(options: dict[str, Any]) -> None:
    """Check that the options of PyG's ``MessagePassing`` are supported.

    Raises:
        TypeError: There is no such option, nor argument of the layer.
        ValueError: An aggregation other than the sum, the reverse flow, another node dimension, or
            decomposed layers.
    """
    for name in options.keys() - _OPTIONS:
        raise TypeError(f"the layer has no argument {name!r}; see help(SE2TransformerConv)")
    if options.get("aggr", "add") not in ("add", "sum"):
        raise ValueError(
            f"aggr must be 'add', since attention weights sum to 1; found {options['aggr']!r}"
        )
    if options.get("flow", "source_to_target") != "source_to_target":
        raise ValueError(
            f"flow must be 'source_to_target'; found {options['flow']!r}; pass "
            "edge_index.flip(0) instead"
        )
    if options.get("node_dim", 0) != 0:
        raise ValueError(f"node_dim must be 0, since x is [N, F]; found {options['node_dim']}")
    if options.get("decomposed_layers", 1) != 1:
        raise ValueError(
            f"decomposed_layers must be 1; found {options['decomposed_layers']}; the kernels "
            "create no messages to split"
        )


def check_radial(radial: Any) -> None:
    """Check that ``radial`` constructs radial functions.

    Raises:
        TypeError: It is a module, or cannot be called.
    """
    if isinstance(radial, nn.Module) or not callable(radial):
        raise TypeError(
            "radial must construct a module from their number, as GaussianRadial or "
            f"functools.partial(SoftOneHotRadial, cutoff=5.0); found {radial!r}"
        )


def check_message_arguments(
    inspector: Inspector, provided: tuple[str, ...], special: Iterable[str]
) -> None:
    """Check the arguments of a subclass's ``message``, ``aggregate`` and ``update``.

    Args:
        inspector: PyG's inspector of the class.
        provided: Arguments of ``propagate``.
        special: Arguments that PyG adds.

    Raises:
        TypeError: A method takes an argument that is not provided.
    """
    for method in ("message", "aggregate", "update"):
        for parameter in inspector.get_params(method, exclude=list(special)):
            name = parameter.name.removesuffix("_i").removesuffix("_j")
            if name not in provided and parameter.default is Parameter.empty:
                raise TypeError(
                    f"{method} takes {parameter.name}, which this layer does not provide; use "
                    f"any of {list(provided)}, those of nodes with _i or _j"
                )


def check_attended(out: Tensor, heads: int, sizes: list[int]) -> None:
    """Check the shape of aggregated messages.

    Raises:
        ValueError: The shape is not ``[N, H, ...]`` with values, directions, frame vectors and edge
            features side by side.
    """
    if out.dim() != 3 or out.size(1) != heads or out.size(2) != sum(sizes):
        raise ValueError(
            f"messages must be [E, {heads}, {sum(sizes)}] (values, directions, frame vectors "
            f"and edge features: {sizes}); they add up to {list(out.shape)}; see "
            "SE2TransformerConv.message"
        )


def check_nodes(x: tuple, channels: tuple[int, int], dtype: torch.dtype) -> None:
    """Check the node features of sources and destinations.

    Args:
        x: Pair of features of sources and destinations.
        channels: Expected sizes, -1 for any.
        dtype: Dtype of the layer.

    Raises:
        ValueError: Features are missing, not ``[N, F]``, or of another number or dtype.
    """
    if len(x) != 2:
        raise ValueError(f"x must be a tensor or a pair (x_src, x_dst); found {len(x)} tensors")
    for side, rows, expected in zip(("sources", "destinations"), x, channels, strict=True):
        if rows is None:
            raise ValueError(f"x of the {side} is missing; attention needs both, (x_src, x_dst)")
        if not isinstance(rows, Tensor):
            raise ValueError(f"x must be a tensor; found {type(rows).__name__}")
        if rows.dim() != 2:
            raise ValueError(
                f"x must be [N, F]; found {list(rows.shape)}; put several graphs into one "
                "torch_geometric.data.Batch, or map over x with torch.func.vmap"
            )
        if expected >= 0 and rows.size(1) != expected:
            raise ValueError(
                f"x of the {side} must have in_channels={expected} columns; "
                f"found {list(rows.shape)}"
            )
        _check_dtype(rows, f"x of the {side}", "x", dtype)


def _check_dtype(values: Tensor, what: str, argument: str, dtype: torch.dtype) -> None:
    """Check that an input has the dtype of the layer, unless autocast converts it."""
    if values.dtype != dtype and not torch.is_autocast_enabled(values.device.type):
        raise ValueError(
            f"{what} must be {dtype} as the layer is; found {values.dtype}; cast it with "
            f"{argument}.to(...), or the layer"
        )


def check_positions(pos: tuple, x: tuple) -> None:
    """Check the positions of sources and destinations.

    Raises:
        ValueError: Positions are missing, or not ``[N, 2]``.
    """
    if any(p is None for p in pos):
        raise ValueError(
            "pos is missing: this layer uses distances or directions; pass pos=..., or "
            "build it with radial=None and without vector_channels"
        )
    if any(not isinstance(p, Tensor) for p in pos):
        found = [type(p).__name__ for p in pos]
        raise ValueError(f"pos must be a tensor [N, 2], or a pair of them; found {found}")
    if any(
        p.dim() != 2 or p.size(1) != 2 or p.size(0) != rows.size(0)
        for p, rows in zip(pos, x, strict=True)
    ):
        fix = "; pass a pair (pos_src, pos_dst)" if pos[0] is pos[1] and x[0] is not x[1] else ""
        x = x[:1] if x[0] is x[1] else x
        pos = pos[:1] if pos[0] is pos[1] else pos
        raise ValueError(f"pos must be [N, 2] for x {shapes(x)}; found {shapes(pos)}{fix}")


def check_edge_attr(edge_attr: Tensor | None, edges: int, edge_dim: int | None) -> None:
    """Check edge features.

    Args:
        edge_attr: Edge features.
        edges: Number of edges.
        edge_dim: Expected size, -1 for any; ``None`` for no features.

    Raises:
        ValueError: Features are given without ``edge_dim``, missing with it, or not
            ``[E, edge_dim]``.
    """
    if edge_dim is None:
        if edge_attr is not None:
            raise ValueError(
                f"the layer was built without edge_dim; found edge_attr {shapes([edge_attr])}; "
                "pass edge_dim=..., or positions by keyword: pos=..."
            )
        return
    fits = edge_attr is not None and edge_attr.dim() == 2 and edge_attr.size(0) == edges
    if not fits or edge_dim not in (-1, edge_attr.size(1)):  # type: ignore[union-attr]
        columns = "F" if edge_dim == -1 else edge_dim
        raise ValueError(
            f"edge_attr must be [E, edge_dim] = [{edges}, {columns}]; found {shapes([edge_attr])}"
        )


def check_vectors(vectors: tuple, max_order: int, channels: int, dtype: torch.dtype) -> None:
    """Check vector features of sources and destinations.

    Args:
        vectors: Pair of vectors of sources and destinations.
        max_order: Expected highest order.
        channels: Expected vectors per order.
        dtype: Dtype of the layer.

    Raises:
        ValueError: Vectors are missing, unexpected, or have another shape or dtype.
    """
    shape = (max_order, channels, 2) if channels else None
    if all((None if v is None else tuple(v.shape[1:])) == shape for v in vectors):
        for each in vectors if channels else ():
            _check_dtype(each, "vectors", "vectors", dtype)
        return
    found = shapes(vectors if vectors[0] is not vectors[1] else vectors[:1])
    if shape is None:
        raise ValueError(f"the layer was built without in_vector_channels; found vectors {found}")
    raise ValueError(
        f"vectors must be [N, max_order, in_vector_channels, 2] = [N, {max_order}, {channels}, 2]; "
        f"found {found}"
    )


def check_pair(pair: Tensor | None, edges: int, heads: int) -> None:
    """Check the pair state.

    Raises:
        ValueError: The pair state is not ``[E, H]``.
    """
    if pair is not None and tuple(pair.shape) != (edges, heads):
        raise ValueError(f"pair must be [E, H] = [{edges}, {heads}]; found {shapes([pair])}")


def shapes(tensors: Iterable[Tensor | None]) -> list:
    """Return the shapes, or types of other objects than tensors, for a message."""
    return [
        list(value.shape) if isinstance(value, Tensor) else value and type(value).__name__
        for value in tensors
    ]
