#include "filtered_lrelu_tiles.cuh"

int sg3::tiles_float16(const Sg3FilteredLrelu& op, cudaStream_t stream, bool* fits) {
    return launch_fitting_tiles<__half>(op, stream, fits);
}
