// The entry points of one instruction set.

#include "kernels.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

std::int64_t resampling_units(const Resampling&);
void run_resampling(const Resampling&, std::int64_t, std::int64_t);
void run_pointwise(const Pointwise&, std::int64_t, std::int64_t);
std::int64_t convolution_taps(const Convolution&);
std::int64_t taps_units(const Convolution&);
void transform_convolution_taps(
    const Convolution&, const float*, float*, std::int64_t, std::int64_t);
std::int64_t convolution_units(const Convolution&);
void run_convolution(const Convolution&, std::int64_t, std::int64_t);
std::int64_t weight_gradient_sums(const Convolution&);
std::int64_t weight_gradient_units(const Convolution&);
void run_weight_gradient(const WeightGradient&, std::int64_t, std::int64_t);
void finish_weight_gradient(const WeightGradient&, std::int64_t, std::int64_t);
void run_plane_products(const PlaneProducts&, std::int64_t, std::int64_t);
std::int64_t block_sums(const MatrixProduct&);
std::int64_t block_sums_units(const MatrixProduct&);
void add_blocks(const MatrixProduct&, float*, std::int64_t, std::int64_t);
std::int64_t matrix_product_units(const MatrixProduct&);
void run_matrix_product(const MatrixProduct&, std::int64_t, std::int64_t);

const Kernels kernels = {
    resampling_units,
    run_resampling,
    run_pointwise,
    convolution_taps,
    taps_units,
    transform_convolution_taps,
    convolution_units,
    run_convolution,
    weight_gradient_sums,
    weight_gradient_units,
    run_weight_gradient,
    finish_weight_gradient,
    run_plane_products,
    block_sums,
    block_sums_units,
    add_blocks,
    matrix_product_units,
    run_matrix_product,
};

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
