# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The Triton kernels: each launch covers all layers of a group.

One power iteration is a = M q, c = M^T a with M = W (or W^T for "legacy"), so that p = a / |a|, q = c / |c| and
sigma = |M^T p| = |c| / |a|. Here p is the vector that is updated first: u for order="torch", v for "legacy".

    step     a = M q by blocks of P rows of M; |a|^2 of the block; the block's part of c = M^T a
    reduce   c as the sum of its parts, |c|^2 by chunks of columns, |a|^2
    finish   p, q, sigma, and W / sigma by tiles of T elements
    dots     <G, W> by tiles of T elements
    gradient dW by patches of R x K elements

A program looks up in `programs` which layer it works on and which block, chunk, tile or patch of that layer. Weights
come as tuples of pointers, which are arguments of the launch: no table has to be rebuilt when a weight moves in memory.
Sizes and offsets come from `table`, which depends on shapes only (`plan.py`).

u, v, a and c of all layers are stored in flat buffers, each vector from a multiple of 16 on and padded with zeros.
Squares and dot products are accumulated in float64, so that they neither overflow nor lose precision. Sizes that UNIT
divides are written as `// UNIT * UNIT`, from which the compiler learns that it can use vector loads. Where MIXED, only
some of the layers have such sizes, and the kernel contains a second body for the others.
"""

from __future__ import annotations

from genbench_kernels.op import jit, tl

# ------------------------------------------------------------------------------------------- the table of layers
#
# A row of ten integers a layer; the columns are the fields of `plan.LayerRow`, in its order. Each has a function here
# rather than a global constant: Triton compares every global that a kernel uses with its value at compilation, at each
# launch.


@jit
def _row(table, layer):
    return table + layer * 10


@jit
def _height(table, layer):
    return tl.load(_row(table, layer))


@jit
def _width(table, layer):
    return tl.load(_row(table, layer) + 1)


@jit
def _inner(table, layer):
    return tl.load(_row(table, layer) + 2)


@jit
def _u_start(table, layer):
    return tl.load(_row(table, layer) + 3)


@jit
def _v_start(table, layer):
    return tl.load(_row(table, layer) + 4)


@jit
def _parts_start(table, layer):
    return tl.load(_row(table, layer) + 5)


@jit
def _first_block(table, layer):
    return tl.load(_row(table, layer) + 6)


@jit
def _aligned(table, layer):
    return tl.load(_row(table, layer) + 7)


@jit
def _first_chunk(table, layer):
    return tl.load(_row(table, layer) + 8)


@jit
def _chunks(table, layer):
    return tl.load(_row(table, layer) + 9)


@jit
def _shape(table, layer, UNIT: tl.constexpr):
    """Return h, w, and how many columns of W lie side by side in memory."""
    return _height(table, layer), _width(table, layer) // UNIT * UNIT, _inner(table, layer) // UNIT * UNIT


@jit
def _sizes(table, layer, LEGACY: tl.constexpr):
    """Return the sizes of p and q."""
    p_size = _width(table, layer) if LEGACY else _height(table, layer)
    q_size = _height(table, layer) if LEGACY else _width(table, layer)
    return p_size, q_size


@jit
def _starts(table, layer, LEGACY: tl.constexpr):
    """Return where p and q begin in the flat buffers."""
    p_start = (_v_start(table, layer) if LEGACY else _u_start(table, layer)) * 16
    q_start = (_u_start(table, layer) if LEGACY else _v_start(table, layer)) * 16
    return p_start, q_start


# ------------------------------------------------------------------------------------------------- addressing


@jit
def _pick(tensors, layer, N: tl.constexpr):
    """Return the pointer of one of N layers."""
    chosen = tensors[0]
    for k in tl.static_range(1, N):
        chosen = tl.where(layer == k, tensors[k], chosen)
    return chosen


@jit
def _padded(size, to: tl.constexpr):
    """Return the size rounded up to a multiple: vectors are filled with zeros up to there."""
    return (size + to - 1) // to * to


@jit
def _element(i, j, h, width, inner, ROW_MAJOR: tl.constexpr):
    """Return the offset of W[i, j] and whether it exists.

    Not ROW_MAJOR: i is the second dimension of the weight, as in transposed convolutions.
    """
    offset = i.to(tl.int64) * inner + j
    if not ROW_MAJOR:
        offset = i.to(tl.int64) * inner + (j // inner).to(tl.int64) * (h * inner) + j % inner
    return offset, (i < h) & (j < width)


@jit
def _load_block(w, p, q, h, width, inner, LEGACY: tl.constexpr, ROW_MAJOR: tl.constexpr):
    """Return the elements of M in rows p and columns q, from W or W^T."""
    if LEGACY:
        offset, inside = _element(q[None, :], p[:, None], h, width, inner, ROW_MAJOR)
    else:
        offset, inside = _element(p[:, None], q[None, :], h, width, inner, ROW_MAJOR)
    return tl.load(w + offset, mask=inside, other=0.0)


@jit
def _norms(table, layer, a_squares, c_squares, eps, C: tl.constexpr):
    """Return max(|a|, eps) and |c| / max(|a|, eps) = |M^T p|."""
    start, chunks, k = _first_chunk(table, layer), _chunks(table, layer), tl.arange(0, C)
    c = tl.sum(tl.load(c_squares + start + k, mask=k < chunks, other=0.0), 0)
    a = tl.maximum(tl.sqrt(tl.load(a_squares + layer)), eps)
    return a, tl.sqrt(c) / a


# --------------------------------------------------------------------------------------------------- forward


@jit
def _step(
    table, layer, block, w, x, y, factor, ac, block_sums, c_parts,
    UNIT: tl.constexpr, LEGACY: tl.constexpr, ROW_MAJOR: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    compute_dtype = ac.dtype.element_ty
    h, width, inner = _shape(table, layer, UNIT)
    p_size, q_size = _sizes(table, layer, LEGACY)
    p = block * P + tl.arange(0, P)
    q = tl.arange(0, Q)

    # Load the block of M, P rows by Q columns at a time, and q (which is x times `factor`); compute a = M q.
    m = _load_block(w, p, q, h, width, inner, LEGACY, ROW_MAJOR).to(compute_dtype)
    products = m * (tl.load(x + q, mask=q < q_size, other=0.0).to(compute_dtype) * factor)[None, :]
    for k in range(1, LOOPS):
        q = k * Q + tl.arange(0, Q)
        more = _load_block(w, p, q, h, width, inner, LEGACY, ROW_MAJOR).to(compute_dtype)
        products += more * (tl.load(x + q, mask=q < q_size, other=0.0).to(compute_dtype) * factor)[None, :]
    a = tl.sum(products, 1)
    slot = _first_block(table, layer) + block

    if y is not None:
        # Eval mode: load p (which is y) and store the block's part of p . a = sigma.
        tl.store(
            block_sums + slot, tl.sum(a.to(tl.float64) * tl.load(y + p, mask=p < p_size, other=0.0).to(tl.float64), 0)
        )
    else:
        # Store the block's part of |a|^2, and a.
        p_start, _ = _starts(table, layer, LEGACY)
        tl.store(block_sums + slot, tl.sum(a.to(tl.float64) * a.to(tl.float64), 0))
        tl.store(ac + p_start + p, a, mask=p < _padded(p_size, 8))
        # Store the block's part of c = M^T a; where its rows did not fit, they are loaded again, from cache.
        part = c_parts + (_parts_start(table, layer).to(tl.int64) + block * (_padded(q_size, 16) // 16)) * 16
        if LOOPS == 1:
            tl.store(part + q, tl.sum(m * a[:, None], 0), mask=q < _padded(q_size, 16))
        else:
            for k in range(LOOPS):
                q = k * Q + tl.arange(0, Q)
                m = _load_block(w, p, q, h, width, inner, LEGACY, ROW_MAJOR).to(compute_dtype)
                tl.store(part + q, tl.sum(m * a[:, None], 0), mask=q < _padded(q_size, 16))


@jit
def step_kernel(
    table, programs, ws, xs, ys, previous_ac, previous_a_squares, previous_c_squares, ac, block_sums, c_parts, eps,
    N: tl.constexpr, LEGACY: tl.constexpr, ROW_MAJOR: tl.constexpr, UNIT: tl.constexpr, MIXED: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, LOOPS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Store a = M q, |a|^2 by block (p . a where `ys` are given), and each block's part of c = M^T a.

    q is `xs`, or, from the second iteration on, the previous c, which is normalized here.
    """
    # Find the layer and the block.
    layer, block = tl.load(programs + 2 * tl.program_id(0)), tl.load(programs + 2 * tl.program_id(0) + 1)
    w, y, factor = _pick(ws, layer, N), None, 1.0
    # Choose q: as given, or c / max(|c|, eps) of the previous iteration.
    if xs is not None:
        x = _pick(xs, layer, N)
    else:
        a, c = _norms(table, layer, previous_a_squares, previous_c_squares, eps, C)
        x, factor = (
            previous_ac + _starts(table, layer, LEGACY)[1],
            (1.0 / (a * tl.maximum(c, eps))).to(ac.dtype.element_ty),
        )
    if ys is not None:
        y = _pick(ys, layer, N)
    # Run the body that the alignment of this layer allows.
    if MIXED:
        if _aligned(table, layer) == 0:
            _step(table, layer, block, w, x, y, factor, ac, block_sums, c_parts, 1, LEGACY, ROW_MAJOR, P, Q, LOOPS)
        else:
            _step(table, layer, block, w, x, y, factor, ac, block_sums, c_parts, UNIT, LEGACY, ROW_MAJOR, P, Q, LOOPS)
    else:
        _step(table, layer, block, w, x, y, factor, ac, block_sums, c_parts, UNIT, LEGACY, ROW_MAJOR, P, Q, LOOPS)


@jit
def reduce_kernel(
    table, programs, c_parts, block_sums, ac, a_squares, c_squares,
    LEGACY: tl.constexpr, P: tl.constexpr, B: tl.constexpr, K: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    """Store c, the sum of its parts in a fixed order, |c|^2 by chunk, and |a|^2."""
    # Find the layer and the chunk of K columns.
    layer, chunk = tl.load(programs + 2 * tl.program_id(0)), tl.load(programs + 2 * tl.program_id(0) + 1)
    p_size, q_size = _sizes(table, layer, LEGACY)
    stride, blocks, q = _padded(q_size, 16), (p_size + P - 1) // P, chunk * K + tl.arange(0, K)
    parts = c_parts + _parts_start(table, layer).to(tl.int64) * 16
    first_block = _first_block(table, layer)

    # Load the parts of c and of |a|^2, B blocks at a time; add them up.
    c, a = tl.zeros((B, K), ac.dtype.element_ty), tl.zeros((B,), tl.float64)
    for k in range(LOOPS):
        b = k * B + tl.arange(0, B)
        inside = (b < blocks)[:, None] & (q < stride)[None, :]
        c += tl.load(parts + b.to(tl.int64)[:, None] * stride + q[None, :], mask=inside, other=0.0)
        a += tl.load(block_sums + first_block + b, mask=b < blocks, other=0.0)
    total = tl.sum(c, 0)

    # Store c, the chunk's part of |c|^2, and, once a layer, |a|^2.
    _, q_start = _starts(table, layer, LEGACY)
    tl.store(ac + q_start + q, total, mask=q < stride)
    tl.store(c_squares + _first_chunk(table, layer) + chunk, tl.sum(total.to(tl.float64) * total.to(tl.float64), 0))
    if chunk == 0:
        tl.store(a_squares + layer, tl.sum(a, 0))


@jit
def finish_kernel(
    table, programs, ac, block_sums, a_squares, c_squares, ps, qs, ws, outs, uv, sigmas, eps,
    N: tl.constexpr, LEGACY: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
    UPDATE: tl.constexpr,
):  # fmt: skip
    """Store p, q and sigma, update ps and qs in place (where UPDATE), and store W / sigma into `outs`."""
    # Find the layer and the tile of T elements.
    layer, tile = tl.load(programs + 2 * tl.program_id(0)), tl.load(programs + 2 * tl.program_id(0) + 1)
    compute_dtype = uv.dtype.element_ty
    p_size, q_size = _sizes(table, layer, LEGACY)
    p_start, q_start = _starts(table, layer, LEGACY)
    e = tile * T + tl.arange(0, T)
    if UPDATE:
        # Load |a|^2 and |c|^2; compute sigma = |c| / |a|.
        a, c = _norms(table, layer, a_squares, c_squares, eps, C)
        sigma, both = c * (c / tl.maximum(c, eps)), (a * tl.maximum(c, eps)).to(compute_dtype)
        # Load a, compute p = a / |a|, store it for backward and, where given, in place.
        if tile * T < p_size:
            p = tl.load(ac + p_start + e, mask=e < _padded(p_size, 8), other=0.0) / a.to(compute_dtype)
            tl.store(uv + p_start + e, p, mask=e < _padded(p_size, 8))
            if ps is not None:
                tl.store(_pick(ps, layer, N) + e, p.to(ps[0].dtype.element_ty), mask=e < p_size)
        # Load c, compute q = c / |c|, store it likewise.
        if tile * T < q_size:
            q = tl.load(ac + q_start + e, mask=e < _padded(q_size, 16), other=0.0) / both
            tl.store(uv + q_start + e, q, mask=e < _padded(q_size, 16))
            if qs is not None:
                tl.store(_pick(qs, layer, N) + e, q.to(qs[0].dtype.element_ty), mask=e < q_size)
    else:
        # Eval mode: load the parts of p . a, compute sigma = p . M q; copy p and q for backward.
        b, blocks = tl.arange(0, C), (p_size + P - 1) // P
        sigma = tl.sum(tl.load(block_sums + _first_block(table, layer) + b, mask=b < blocks, other=0.0), 0)
        if tile * T < p_size:
            p = tl.load(_pick(ps, layer, N) + e, mask=e < p_size, other=0.0)
            tl.store(uv + p_start + e, p.to(compute_dtype), mask=e < _padded(p_size, 8))
        if tile * T < q_size:
            q = tl.load(_pick(qs, layer, N) + e, mask=e < q_size, other=0.0)
            tl.store(uv + q_start + e, q.to(compute_dtype), mask=e < _padded(q_size, 16))
    # Store sigma, once a layer.
    sigma = sigma.to(compute_dtype)
    if tile == 0:
        tl.store(sigmas + layer, sigma)
    # Load the tile of W, store W / sigma.
    if outs is not None:
        h, width, _ = _shape(table, layer, 1)
        inside = e < h * width // UNIT * UNIT
        w = tl.load(_pick(ws, layer, N) + e, mask=inside, other=0.0).to(compute_dtype) / sigma
        tl.store(_pick(outs, layer, N) + e, w.to(outs[0].dtype.element_ty), mask=inside)


# -------------------------------------------------------------------------------------------------- backward


@jit
def dots_kernel(table, programs, gs, ws, dots, N: tl.constexpr, UNIT: tl.constexpr, T: tl.constexpr):
    """Store <G, W> by tile."""
    # Find the layer and the tile of T elements.
    layer, tile = tl.load(programs + 2 * tl.program_id(0)), tl.load(programs + 2 * tl.program_id(0) + 1)
    compute_dtype = tl.float64 if ws[0].dtype.element_ty == tl.float64 else tl.float32
    h, width, _ = _shape(table, layer, 1)
    e = tile * T + tl.arange(0, T)
    inside = e < h * width // UNIT * UNIT
    # Load G and W; store the tile's part of <G, W>.
    g = tl.load(_pick(gs, layer, N) + e, mask=inside, other=0.0).to(compute_dtype)
    w = tl.load(_pick(ws, layer, N) + e, mask=inside, other=0.0).to(compute_dtype)
    tl.store(dots + tl.program_id(0), tl.sum(g * w, 0))


@jit
def _gradient(
    table, layer, block, split, g, out, dot, sigma, uv,
    UNIT: tl.constexpr, ROW_MAJOR: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    compute_dtype = uv.dtype.element_ty
    h, width, inner = _shape(table, layer, UNIT)
    u_start, v_start = _starts(table, layer, 0)
    # Load u and v of the patch; compute dot u v^T.
    i, j = block * R + tl.arange(0, R), split * K + tl.arange(0, K)
    u = tl.load(uv + u_start + i, mask=i < h, other=0.0)
    v = tl.load(uv + v_start + j, mask=j < width, other=0.0)
    offset, inside = _element(i[:, None], j[None, :], h, width, inner, ROW_MAJOR)
    dw = dot * (u[:, None] * v[None, :])
    # Load G; store dW = (G - <G, W / sigma> u v^T) / sigma, or gsigma u v^T if there is no G.
    if g is not None:
        dw = (tl.load(g + offset, mask=inside, other=0.0).to(compute_dtype) - dw) / sigma
    tl.store(out + offset, dw.to(out.dtype.element_ty), mask=inside)


@jit
def gradient_kernel(
    table, programs, gs, gsigma, dots, tile_starts, sigmas, uv, outs,
    N: tl.constexpr, ROW_MAJOR: tl.constexpr, UNIT: tl.constexpr, MIXED: tl.constexpr,
    R: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Store dW = (G - <G, W / sigma> u v^T) / sigma, or gsigma u v^T where the output was sigma."""
    # Find the layer and the patch of R x K elements.
    row = programs + 3 * tl.program_id(0)
    layer, block, split = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    sigma, g, out = tl.load(sigmas + layer), None, _pick(outs, layer, N)
    # Load the tiles' parts of <G, W> and compute <G, W / sigma>; or load the gradient of sigma.
    if gs is not None:
        first, last, k = tl.load(tile_starts + layer), tl.load(tile_starts + layer + 1), tl.arange(0, D)
        dot = tl.sum(tl.load(dots + first + k, mask=k < last - first, other=0.0), 0).to(uv.dtype.element_ty) / sigma
        g = _pick(gs, layer, N)
    else:
        dot = tl.load(gsigma + layer)
    # Run the body that the alignment of this layer allows.
    if MIXED:
        if _aligned(table, layer) == 0:
            _gradient(table, layer, block, split, g, out, dot, sigma, uv, 1, ROW_MAJOR, R, K)
        else:
            _gradient(table, layer, block, split, g, out, dot, sigma, uv, UNIT, ROW_MAJOR, R, K)
    else:
        _gradient(table, layer, block, split, g, out, dot, sigma, uv, UNIT, ROW_MAJOR, R, K)
