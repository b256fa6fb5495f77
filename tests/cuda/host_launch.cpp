// The launch interface, carried out on the host: the functions that a GPU would run, one thread
// after the other, chosen as the launches choose them.
#include "host_build.cpp"

static bool one_step(const Sg3FilteredLrelu& op) {
    return is_identity(op.fd, op.down_x, op.down_y);
}

template <class T>
static int run_generic(const Sg3FilteredLrelu& op) {
    const int64_t groups = static_cast<int64_t>(op.mid_w + 3) / 4 * op.mid_h;
    if (one_step(op)) {
        auto* y = static_cast<T*>(op.y);
        for (int64_t i = 0; i < op.planes * groups; ++i) bend_group<T>(op, 0, i, y, op.gain);
        return 0;
    }
    auto* mid = static_cast<Sum<T>*>(op.workspace);
    const int64_t some = workspace_planes(op);
    for (int64_t first = 0; first < op.planes; first += some) {
        const int64_t planes = first + some < op.planes ? some : op.planes - first;
        for (int64_t i = 0; i < planes * groups; ++i) bend_group<T>(op, first, i, mid, 1.0);
        const Sg3Upfirdn step = second_step<T>(op, first, planes);
        const int64_t count = planes * op.out_h * op.out_w;
        for (int64_t i = 0; i < count; ++i) upfirdn_sample<Sum<T>, T>(step, i);
    }
    return 0;
}

// Calls visit(T()) for the element type; bfloat16 is none of the host's.
template <class Visit>
static int visit_type(int type, const Visit& visit) {
    if (type == SG3_FLOAT16) return visit(_Float16());
    if (type == SG3_FLOAT32) return visit(float());
    return type == SG3_FLOAT64 ? visit(double()) : 1;
}

extern "C" size_t sg3_filtered_lrelu_workspace(const Sg3FilteredLrelu* op) {
    const bool fits = op->type != SG3_FLOAT64 && visit_kind(*op, [](auto, auto) {});
    if (one_step(*op) || fits) return 0;
    const size_t sample = op->type == SG3_FLOAT64 ? sizeof(double) : sizeof(float);
    return sample * static_cast<size_t>(workspace_planes(*op)) * op->mid_w * op->mid_h;
}

extern "C" int sg3_filtered_lrelu(const Sg3FilteredLrelu* op, void*) {
    if (op->planes * op->out_h * op->out_w == 0) return 0;
    const bool bands = op->type == SG3_FLOAT16 && op->tensor_cores;
    if (bands && host_bands(op) == 1) return 0;
    if (op->type == SG3_FLOAT32 && host_tiles(op)) return 0;
    return visit_type(op->type, [&](auto element) {
        return run_generic<decltype(element)>(*op);
    });
}

extern "C" int sg3_upfirdn2d(const Sg3Upfirdn* op, void*) {
    const int64_t count = op->planes * op->out_h * op->out_w;
    return visit_type(op->type, [&](auto element) {
        using T = decltype(element);
        for (int64_t i = 0; i < count; ++i) upfirdn_sample<T, T>(*op, i);
        return 0;
    });
}

extern "C" int sg3_bias_act(const Sg3BiasAct* op, void*) {
    return visit_type(op->type, [&](auto element) {
        using T = decltype(element);
        const T* b = static_cast<const T*>(op->b);
        for (int64_t i = 0; i < op->count; ++i) {
            const T x = static_cast<const T*>(op->x)[i];
            const T grad = op->grad ? static_cast<const T*>(op->grad)[i] : x;
            const Sum<T> bias = b ? widen(b[i / op->inner % op->channels]) : Sum<T>(0);
            static_cast<T*>(op->y)[i] = bias_act_element<T>(*op, x, grad, bias);
        }
        return 0;
    });
}

extern "C" const char* sg3_error_words(int) { return "no such type on the host"; }
