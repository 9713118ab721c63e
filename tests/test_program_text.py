"""What the reader of compiled programs finds, in small texts and in real programs of the CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mla_jax.preflight.program_text import Array, Collective, read

TPU = """
HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (1, {}, may-alias), {1}: (0, {}, must-alias) }, entry_computation_layout={(f32[8,4]{1,0:T(8,128)}, bf16[4]{0})->(bf16[4]{0}, f32[8,4]{1,0})}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}

%fused (p.0: bf16[2,6,6,3], p.1: bf16[3,3,3,5]) -> bf16[2,6,6,5] {
  %p.0 = bf16[2,6,6,3]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[3,3,3,5]{3,2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %convolution.1 = bf16[2,6,6,5]{3,2,1,0} convolution(%p.0, %p.1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(f)/jvp(ResNet18)/conv/conv_general_dilated" stack_frame_id=1}
}

%body (t: (s32[], bf16[2,6,6,3], bf16[3,3,3,5])) -> (s32[], bf16[2,6,6,3], bf16[3,3,3,5]) {
  %t = (s32[], bf16[2,6,6,3]{3,2,1,0}, bf16[3,3,3,5]{3,2,1,0}) parameter(0)
  %x = bf16[2,6,6,3]{3,2,1,0} get-tuple-element(%t), index=1
  %k = bf16[3,3,3,5]{3,2,1,0} get-tuple-element(%t), index=2
  %fusion.1 = bf16[2,6,6,5]{3,2,1,0} fusion(%x, %k), kind=kOutput, calls=%fused
  ROOT %tuple.1 = (s32[], bf16[2,6,6,3]{3,2,1,0}, bf16[3,3,3,5]{3,2,1,0}) tuple(%t)
}

%condition (t.1: (s32[], bf16[2,6,6,3], bf16[3,3,3,5])) -> pred[] {
  %t.1 = (s32[], bf16[2,6,6,3]{3,2,1,0}, bf16[3,3,3,5]{3,2,1,0}) parameter(0)
  ROOT %less = pred[]{:T(512)} constant(false)
}

%empty (e: s32[]) -> s32[] {
  ROOT %e = s32[] parameter(0)
}

%overlapped (z: bf16[4]) -> bf16[32] {
  %z = bf16[4]{0} parameter(0)
  ROOT %all-gather.7 = bf16[32]{0} all-gather(%z), channel_id=3, dimensions={0}
}

%overlapped.clone (z.1: bf16[4]) -> bf16[32] {
  %z.1 = bf16[4]{0} parameter(0)
  ROOT %all-gather.8 = bf16[32]{0} all-gather(%z.1), channel_id=3, dimensions={0}
}

ENTRY %main (x.0: f32[8,4], y.0: bf16[4]) -> (bf16[4], f32[8,4]) {
  %x.0 = f32[8,4]{1,0:T(8,128)} parameter(0)
  %y.0 = bf16[4]{0:T(128)} parameter(1)
  %all-reduce.1 = (f32[8]{0:T(128)S(1)}, /*index=1*/f32[2,3]{1,0}) all-reduce(%x.0, %x.0), channel_id=1, to_apply=%sum, metadata={op_name="jit(f)/BatchNorm_0/reduce_sum"}, backend_config={"estimated_cycles":"900"}
  %all-gather-start.1 = (bf16[4]{0}, bf16[16]{0}) all-gather-start(%y.0), channel_id=2, dimensions={0}
  %all-gather-done.1 = bf16[16]{0} all-gather-done(%all-gather-start.1)
  %all-reduce-start.1 = f32[5]{0} all-reduce-start(%x.0), to_apply=%sum
  %all-reduce-done.1 = f32[5]{0} all-reduce-done(%all-reduce-start.1)
  %dot.1 = f32[4,8,8]{2,1,0} convolution(%q, %r), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0oi->0bf, operand_precision={highest,highest}, metadata={op_name="jit(f)/dot_general"}
  %q = f32[4,8,2]{2,1,0} copy(%x.0)
  %r = f32[4,8,2]{2,1,0} copy(%x.0)
  %copy-start.1 = (f32[8,4]{1,0:T(8,128)S(1)}, f32[8,4]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x.0)
  %copy-done.1 = f32[8,4]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((f32[8,4]{1,0:T(8,128)}), f32[2,4]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x.0), slice={[0:2], [0:4]}
  %negate.1 = f32[8,4]{1,0:T(8,128)S(1)} negate(%copy-done.1), backend_config={"estimated_cycles":"70"}
  %while.1 = (s32[], bf16[2,6,6,3]{3,2,1,0}, bf16[3,3,3,5]{3,2,1,0}) while(%init), condition=%condition, body=%body
  %while.2 = s32[] while(%i), condition=%empty, body=%empty
  %conditional.1 = s32[] conditional(%i, %i, %i), branch_computations={%empty, %empty}
  ROOT %tuple.2 = (bf16[4]{0}, f32[8,4]{1,0:T(8,128)}) tuple(%y.0, %negate.1)
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def found():
    return read(TPU.strip())


def test_collectives_once_each_with_what_they_deliver(found):
    assert found.collectives == (
        Collective("all-reduce", 8 * 4 + 6 * 4, "jit(f)/BatchNorm_0/reduce_sum"),
        Collective("all-gather", 16 * 2, ""),
        Collective("all-reduce", 5 * 4, ""),
        Collective("all-gather", 32 * 2, ""),  # written twice, for two fusions
    )


def test_branches_and_loops(found):
    assert (found.conditionals, found.loops, found.loops_with_products) == (1, 2, 1)


def test_products(found):
    convolution, dot = found.products
    assert convolution.compute == "bf16" and "ResNet18" in convolution.where
    assert convolution.flops == 2 * (2 * 6 * 6 * 5) * (3 * 3 * 3)
    assert (dot.dtype, dot.precision, dot.compute) == ("f32", "highest", "f32 (highest)")
    assert dot.flops == 2 * 4 * 8 * 8 * 2  # four products of 8 x 2 by 2 x 8


def test_donated_arguments(found):
    assert found.parameters == (Array("f32", (8, 4)), Array("bf16", (4,)))
    assert found.donated == {0, 1} and found.donated_bytes == 8 * 4 * 4 + 4 * 2


def test_bytes_that_reach_the_main_memory(found):
    """Not the collectives, and nothing twice: a started copy counts once, its end not."""
    copies = 2 * (8 * 4 * 4 + 4 * 8 * 2 * 4)  # both are read and written there
    product = (4 * 8 * 8 + 4 * 8 * 2 + 4 * 8 * 2) * 4
    started = 8 * 4 * 4 + 2 * 4 * 4  # to the chip; the slice alone
    assert found.work.memory_bytes == copies + product + started


def test_the_cost_model_without_the_collectives(found):
    assert found.work.cycles == 70


def test_nothing():
    empty = read("")
    assert empty.collectives == () and empty.products == () and empty.donated == frozenset()


# ---- Programs that XLA compiles here ------------------------------------------------------------


def compiled(function, *arguments, **options):
    return read(jax.jit(function, **options).lower(*arguments).compile().as_text())


def test_a_product_and_its_type():
    M, K, N = 64, 96, 128
    found = compiled(lambda a, b: a @ b, jnp.ones((M, K)), jnp.ones((K, N)))
    assert sum(product.flops for product in found.products) == 2 * M * K * N
    assert {product.dtype for product in found.products} == {"f32"}
    assert (found.conditionals, found.loops) == (0, 0)


def test_a_convolution():
    images, kernel = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 4))
    convolve = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = compiled(convolve, images, kernel)
    assert sum(product.flops for product in found.products) == 2 * (2 * 7 * 7 * 4) * 27


def test_a_loop_with_a_product_and_one_without():
    a = jnp.ones((64, 64))
    with_product = compiled(lambda n, a: jax.lax.fori_loop(0, n, lambda i, x: x @ a, a), 5, a)
    assert with_product.loops_with_products == with_product.loops == 1
    without = compiled(lambda n, a: jax.lax.fori_loop(0, n, lambda i, x: x + a, a), 5, a)
    assert (without.loops_with_products, without.loops) == (0, 1)


def test_a_branch():
    found = compiled(
        lambda p, a: jax.lax.cond(p, jnp.sin, lambda x: x @ x, a), True, jnp.ones((64, 64))
    )
    assert found.conditionals == 1


def test_a_donated_argument():
    step = lambda state, batch: (state + batch.sum(), batch.mean())  # noqa: E731
    arguments = jnp.ones((10, 10)), jnp.ones(7)
    assert compiled(step, *arguments, donate_argnums=0).donated_bytes == 400
    assert compiled(step, *arguments).donated_bytes == 0


def test_a_sum_over_devices():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    sharded = jax.ShapeDtypeStruct(
        (8, 6), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )
    found = compiled(lambda x: x.sum(0), sharded)
    assert [(c.kind, c.bytes) for c in found.collectives] == [("all-reduce", 6 * 4)]
