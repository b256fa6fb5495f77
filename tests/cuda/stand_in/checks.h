// The checks of a launch's parameters: sizes, and that all memory that a kernel touches belongs to
// tensors of the device.
#pragma once

#include <cstring>

#include "launch.h"
#include "state.h"

// A range of memory that a kernel reads or writes; without one, where that is allowed, null.
struct Use {
    const char* name;
    const void* begin;
    int64_t bytes;
    bool is_needed = false;
};

inline int64_t bytes_of(int type) {
    return type == SG3_FLOAT64 ? 8 : type == SG3_FLOAT32 ? 4 : 2;
}

inline Use use_of(const char* name, const Sg3Filter& f) {
    return {name, f.taps, 4ll * f.width * (f.separable ? 1 : f.height)};
}

// The memory of a filtered_lrelu; `planes` of its output.
inline std::vector<Use> uses_of(const Sg3FilteredLrelu& op) {
    const int64_t sample = bytes_of(op.type);
    return {{"x", op.x, op.planes * op.in_h * op.in_w * sample, true},
            {"b", op.b, op.channels * sample},
            {"y", op.y, op.planes * op.out_h * op.out_w * sample, true},
            {"flags", op.flags, op.planes * op.flags_h * op.flags_stride, op.read_flags != 0},
            {"sums", op.sums, op.planes * op.sums_plane * 4},
            use_of("fu", op.fu),
            use_of("fd", op.fd)};
}
inline std::vector<Use> uses_of(const Sg3Upfirdn& op, int64_t sample_in) {
    return {{"x", op.x, op.planes * op.in_h * op.in_w * sample_in, true},
            {"y", op.y, op.planes * op.out_h * op.out_w * bytes_of(op.type), true},
            use_of("the filter", op.filter)};
}
inline std::vector<Use> uses_of(const Sg3BiasAct& op) {
    const int64_t sample = bytes_of(op.type), bytes = op.count * sample;
    return {{"x", op.x, bytes, true}, {"y", op.y, bytes, true}, {"grad", op.grad, bytes},
            {"b", op.b, op.channels * sample}};
}

// The memory of an act_filter, or of its gradient: `flags` and sums as those need them.
inline std::vector<Use> uses_of(const Sg3ActFilter& op, const std::string& part) {
    const int64_t sample = bytes_of(op.type);
    const int64_t before = op.planes * op.in_h * op.in_w * sample;
    const int64_t after = op.planes * op.out_h * op.out_w * sample;
    const bool grad = part == "grad";
    return {{"x", op.x, grad ? after : before, true},
            {"y", op.y, grad ? before : after, true},
            {"b", op.b, op.channels * sample},
            {"base", op.base, after},
            {"flags", op.flags, op.planes * op.in_h * ((op.in_w + 3) / 4), !part.empty()},
            {"sums", op.sums, op.planes * op.tiles_x * op.tiles_y * 4},
            use_of("the filter", op.filter)};
}

// What a thread of a kernel does at once and the like: argument `index` of its template.
inline int template_number(const std::string& kernel, int index) {
    size_t at = kernel.find('<');
    for (int i = 0; i < index && at != std::string::npos; ++i) at = kernel.find(',', at + 1);
    return at == std::string::npos ? 0 : std::atoi(kernel.c_str() + at + 1);
}

inline int64_t bytes_of_first_type(const std::string& kernel) {
    return kernel.find("<float") != std::string::npos ? 4 : 2;
}

// The memory of a scale_kernel, or with `grad` of a scale_grad_kernel.
inline std::vector<Use> uses_of(const Sg3Weights& op, int64_t taps, int64_t sample, bool grad) {
    const int64_t n = op.samples, weights = int64_t(op.outputs) * op.inputs * taps;
    const int64_t output_tile = taps == 1 ? 32 : 4;
    std::vector<Use> uses = {{"w", op.w, weights * 4, true},
                             {"a", op.a, n * op.outputs * 4},
                             {"b", op.b, n * op.inputs * 4, true}};
    if (!grad) {
        uses.push_back({"y", op.y, n * weights * sample, true});
        return uses;
    }
    const int64_t output_tiles = (op.outputs + output_tile - 1) / output_tile;
    const int64_t input_tiles = (op.inputs + 31) / 32;
    uses.push_back({"grad", op.grad, n * weights * sample, true});
    uses.push_back({"dw", op.dw, weights * 4, true});
    uses.push_back({"da", op.da, input_tiles * n * op.outputs * 4, op.a != nullptr});
    uses.push_back({"db", op.db, output_tiles * n * op.inputs * 4, true});
    return uses;
}

// The memory of a kernel of the demodulation: the `part` "", "dw" or "ds".
inline std::vector<Use> uses_of(const Sg3Demodulation& op, int64_t taps, const std::string& part) {
    const int64_t n = op.samples, weights = int64_t(op.outputs) * op.inputs * taps;
    const int64_t factors = n * op.outputs * 4, styles = n * op.inputs * 4;
    const bool first = part.empty();
    return {{"w", op.w, weights * 4, true},
            {"s", op.s, styles, true},
            {"y", op.y, factors, first},
            {"a", op.a, factors, !first},
            {"grad", op.grad, factors, !first},
            {"dw", op.dw, weights * 4, part == "dw"},
            {"ds", op.ds, styles, part == "ds"}};
}

inline int check_memory(const std::vector<Use>& uses) {
    for (const Use& use : uses) {
        if (!use.begin && use.is_needed) return complain(ILLEGAL_ADDRESS, "%s is null", use.name);
        if (!use.begin) continue;
        const auto begin = reinterpret_cast<uintptr_t>(use.begin);
        bool owned = false;
        for (const Memory& each : state.memory) {
            owned |= each.device == current_device && begin >= each.begin &&
                     begin + static_cast<uint64_t>(use.bytes) <= each.end;
        }
        if (!owned) {
            return complain(ILLEGAL_ADDRESS, "%lld bytes of %s are not a tensor's on device %d",
                            static_cast<long long>(use.bytes), use.name, current_device);
        }
    }
    return OK;
}

inline int check_range(const char* name, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return OK;
    return complain(INVALID_VALUE, "%s is %lld, not %lld to %lld", name,
                    static_cast<long long>(value), static_cast<long long>(least),
                    static_cast<long long>(most));
}

// The tiles of a launch cover every output of the planes from the first to the last one, once.
inline int check_tiles(const Sg3FilteredLrelu& op, const Sg3TileGrid& grid, unsigned blocks) {
    const Sg3BandPlan& plan = grid.plan;
    if (int code = check_range("planes of a block", grid.planes, 1, 8)) return code;
    if (int code = check_range("first plane", grid.first_plane, 0, op.planes - 1)) return code;
    if (int code = check_range("end plane", grid.end_plane, grid.first_plane + 1, op.planes)) {
        return code;
    }
    if (int code = check_range("columns", plan.cols, 1, op.out_w + 31)) return code;
    if (int code = check_range("rows", plan.rows, 1, op.out_h + 31)) return code;
    const int64_t across = (op.out_w + plan.cols - 1) / plan.cols;
    const int64_t along = (op.out_h + plan.rows - 1) / plan.rows;
    if (int code = check_range("tiles in a row", grid.tiles_x, across, across)) return code;
    if (int code = check_range("tiles in a column", grid.tiles_y, along, along)) return code;
    const int64_t planes = grid.end_plane - grid.first_plane;
    const int64_t wanted = across * along * ((planes + grid.planes - 1) / grid.planes);
    return check_range("blocks of the grid", blocks, wanted, wanted);
}

// A loop of a grid over `count` elements: every thread has one, and not a million blocks more.
inline int check_loop(int64_t count, unsigned blocks, unsigned threads) {
    if (int code = check_range("threads of a block", threads, 256, 256)) return code;
    const int64_t most = (count + 255) / 256;
    const int64_t wanted = most < (1 << 20) ? most : 1 << 20;
    return check_range("blocks of the grid", blocks, wanted, wanted);
}

template <class S>
S parameter(void** parameters, int index) {
    S value;
    std::memcpy(&value, parameters[index], sizeof(value));
    return value;
}

inline int check_tile_launch(void** parameters, unsigned blocks, unsigned threads, bool bands) {
    const auto op = parameter<Sg3FilteredLrelu>(parameters, 0);
    const auto grid = parameter<Sg3TileGrid>(parameters, 1);
    if (int code = check_memory(uses_of(op))) return code;
    const int64_t wanted = bands ? grid.plan.warps * 32 : 128;
    if (int code = check_range("threads of a block", threads, wanted, wanted)) return code;
    if (int code = check_tiles(op, grid, blocks)) return code;
    if (!op.sums) return OK;
    if (int code = check_range("sums in a row", op.sums_x, grid.tiles_x, grid.tiles_x)) return code;
    const int64_t sums = int64_t(grid.tiles_x) * grid.tiles_y * (bands ? grid.plan.warps : 1);
    return check_range("sums of a plane", op.sums_plane, sums, sums);
}

inline int check_bend_launch(void** parameters, unsigned blocks, unsigned threads) {
    const auto op = parameter<Sg3FilteredLrelu>(parameters, 0);
    const auto first = parameter<int64_t>(parameters, 1), count = parameter<int64_t>(parameters, 2);
    const int64_t groups = static_cast<int64_t>(op.mid_w + 3) / 4 * op.mid_h;
    if (int code = check_range("first plane", first, 0, op.planes - 1)) return code;
    if (int code = check_range("count", count, groups, (op.planes - first) * groups)) return code;
    if (int code = check_range("count beside whole planes", count % groups, 0, 0)) return code;
    std::vector<Use> uses = uses_of(op);
    const auto* mid = parameter<const void*>(parameters, 3);
    const bool whole = mid == op.y;
    const int64_t sample = whole ? bytes_of(op.type) : op.type == SG3_FLOAT64 ? 8 : 4;
    uses.push_back({"the workspace", mid, count / groups * op.mid_h * op.mid_w * sample, true});
    if (int code = check_memory(uses)) return code;
    return check_loop(count, blocks, threads);
}

inline int check_upfirdn_launch(void** parameters, unsigned blocks, unsigned threads, bool second) {
    const auto op = parameter<Sg3Upfirdn>(parameters, 0);
    const auto count = parameter<int64_t>(parameters, 1);
    const int64_t outputs = op.planes * op.out_h * op.out_w;
    if (int code = check_range("count", count, outputs, outputs)) return code;
    const int64_t sample = op.type == SG3_FLOAT64 ? 8 : second ? 4 : bytes_of(op.type);
    if (int code = check_memory(uses_of(op, sample))) return code;
    return check_loop(count, blocks, threads);
}

inline int check_add_launch(void** parameters, unsigned blocks, unsigned threads) {
    const auto op = parameter<Sg3Upfirdn>(parameters, 0);
    const auto* base = parameter<const void*>(parameters, 1);
    const auto count = parameter<int64_t>(parameters, 2);
    const int64_t outputs = op.planes * op.out_h * op.out_w;
    if (int code = check_range("count", count, outputs, outputs)) return code;
    std::vector<Use> uses = uses_of(op, bytes_of(op.type));
    uses.push_back({"the summand", base, outputs * bytes_of(op.type), true});
    if (int code = check_memory(uses)) return code;
    return check_loop(count, blocks, threads);
}

inline int check_bias_act_launch(void** parameters, const std::string& kernel, unsigned blocks,
                                 unsigned threads) {
    const auto op = parameter<Sg3BiasAct>(parameters, 0);
    if (int code = check_memory(uses_of(op))) return code;
    const size_t comma = kernel.find(',');  // bias_act_kernel<type,count,index>
    const int width = comma == std::string::npos ? 0 : std::atoi(kernel.c_str() + comma + 1);
    const int64_t sample = bytes_of(op.type);
    if (int code = check_range("elements of a thread", width, 1, 16 / sample)) return code;
    for (const void* at : {op.x, static_cast<const void*>(op.y), op.grad}) {
        if (reinterpret_cast<uintptr_t>(at) % (sample * width)) {
            return complain(ILLEGAL_ADDRESS, "%p is no place for %d elements at once", at, width);
        }
    }
    if (int code = check_range("elements beside whole packs", op.count % width, 0, 0)) return code;
    return check_loop(op.count / width, blocks, threads);
}

inline int check_blocks(int64_t wanted, unsigned blocks, unsigned threads) {
    if (int code = check_range("threads of a block", threads, 256, 256)) return code;
    return check_range("blocks of the grid", blocks, wanted, wanted);
}

inline int check_weights_launch(void** parameters, const std::string& kernel, unsigned blocks,
                                unsigned threads, bool grad) {
    const auto op = parameter<Sg3Weights>(parameters, 0);
    const int taps = template_number(kernel, 1), run = grad ? 1 : template_number(kernel, 2);
    if (int code = check_memory(uses_of(op, taps, bytes_of_first_type(kernel), grad))) return code;
    if (int code = check_range("the rest of a row", op.inputs * taps % run, 0, 0)) return code;
    const int64_t tiles = int64_t(op.outputs + (taps == 1 ? 31 : 3)) / (taps == 1 ? 32 : 4);
    const int64_t wanted = grad ? tiles * ((op.inputs + 31) / 32) : int64_t(op.samples) * op.outputs;
    return check_blocks(wanted, blocks, threads);
}

inline int check_demodulation_launch(void** parameters, const std::string& kernel, unsigned blocks,
                                     unsigned threads) {
    const auto op = parameter<Sg3Demodulation>(parameters, 0);
    const std::string part = kernel.substr(13, 2) == "dw" ? "dw" : kernel.substr(13, 2) == "ds" ? "ds" : "";
    if (int code = check_memory(uses_of(op, template_number(kernel, 0), part))) return code;
    if (part == "dw") return check_loop(int64_t(op.outputs) * op.inputs, blocks, threads);
    const int64_t tiles = part == "ds" ? (op.inputs + 31) / 32 : op.outputs;
    return check_blocks(tiles * ((op.samples + 7) / 8), blocks, threads);
}

inline int check_act_filter_launch(void** parameters, const std::string& kernel, unsigned blocks,
                                   unsigned threads) {
    const auto op = parameter<Sg3ActFilter>(parameters, 0);
    const std::string rest = kernel.substr(11);  // act_filter_PART_kernel
    const std::string part = rest.substr(0, 6) == "kernel" ? "" : rest.substr(0, rest.find('_'));
    const bool filtered = part == "flagged" || kernel.find("true") != std::string::npos;
    if (int code = check_memory(uses_of(op, part))) return code;
    const int taps = filtered ? 4 : 1;
    if (int code = check_range("taps", op.filter.width * op.filter.height, taps * taps, taps * taps)) {
        return code;
    }
    if (filtered != (op.filter.taps != nullptr)) return complain(INVALID_VALUE, "another filter");
    for (int pad : {op.pad_x, op.pad_y, op.out_w - op.in_w - op.pad_x + taps - 1,
                    op.out_h - op.in_h - op.pad_y + taps - 1}) {
        if (int code = check_range("padding", pad, 0, taps - 1)) return code;
    }
    const auto tiles = [](int a, int b) { return ((a > b ? a : b) + 31) / 32; };
    const int across = tiles(op.in_w, op.out_w), along = tiles(op.in_h, op.out_h);
    if (int code = check_range("tiles in a row", op.tiles_x, across, across)) return code;
    if (int code = check_range("tiles in a column", op.tiles_y, along, along)) return code;
    return check_blocks(op.planes * across * along, blocks, threads);
}

// By the name of the kernel without its namespace.
inline int check_parameters(const std::string& kernel, void** parameters, unsigned blocks,
                            unsigned threads) {
    const std::string base = kernel.substr(0, kernel.find('<'));
    if (base == "band_kernel") return check_tile_launch(parameters, blocks, threads, true);
    if (base == "tile_kernel") return check_tile_launch(parameters, blocks, threads, false);
    if (base == "bend_kernel") return check_bend_launch(parameters, blocks, threads);
    if (base == "second_kernel") return check_upfirdn_launch(parameters, blocks, threads, true);
    if (base == "upfirdn_kernel" || base == "small_kernel") {
        return check_upfirdn_launch(parameters, blocks, threads, false);
    }
    if (base == "small_add_kernel") return check_add_launch(parameters, blocks, threads);
    if (base == "scale_kernel" || base == "scale_grad_kernel") {
        const bool grad = base == "scale_grad_kernel";
        return check_weights_launch(parameters, kernel, blocks, threads, grad);
    }
    if (base.rfind("demodulation_", 0) == 0) {
        return check_demodulation_launch(parameters, kernel, blocks, threads);
    }
    if (base.rfind("act_filter_", 0) == 0) {
        return check_act_filter_launch(parameters, kernel, blocks, threads);
    }
    if (base == "bias_act_kernel") {
        return check_bias_act_launch(parameters, kernel, blocks, threads);
    }
    return complain(NOT_FOUND, "the stand-in knows no kernel %s", base.c_str());
}

// Bytes of each parameter of a kernel, as the sources declare it.
inline std::vector<size_t> parameter_bytes(const std::string& kernel) {
    const std::string base = kernel.substr(0, kernel.find('<'));
    if (base == "band_kernel" || base == "tile_kernel") {
        return {sizeof(Sg3FilteredLrelu), sizeof(Sg3TileGrid)};
    }
    if (base == "bend_kernel") return {sizeof(Sg3FilteredLrelu), 8, 8, 8, 8};
    if (base == "bias_act_kernel") return {sizeof(Sg3BiasAct)};
    if (base.rfind("act_filter_", 0) == 0) return {sizeof(Sg3ActFilter)};
    if (base == "small_add_kernel") return {sizeof(Sg3Upfirdn), 8, 8};
    if (base == "scale_kernel" || base == "scale_grad_kernel") return {sizeof(Sg3Weights)};
    if (base.rfind("demodulation_", 0) == 0) return {sizeof(Sg3Demodulation)};
    return {sizeof(Sg3Upfirdn), 8};
}
