#include "filtered_lrelu_tiles.cuh"

int sg3::tiles_bfloat16(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits) {
    return launch_fitting_tiles<__nv_bfloat16>(op, stream, fits);
}
