// A stand-in for libcuda.so.1: the entry points that the product calls, with the checks of a real
// driver and some more. A kernel runs on the host, at once, where the library has it.
#include <cxxabi.h>

#include <cstdlib>
#include <memory>

#include "checks.h"
#include "host_kernel.h"
#include "image.h"
#include "layouts.h"  // generated: the structures of Python are those of the sources
#include "state.h"

namespace {

// Bytes of shared memory of a block, static and dynamic: without asking, and at most on 9.0.
constexpr int FREELY_USED = 48 * 1024, MOST_SHARED = 227 * 1024;

struct Function {
    std::string lowered, name;  // name: without namespace and spaces
    KernelLimits limits;
    int device;
    int allowed_dynamic = -1;  // bytes that were asked for; below 0: none were
    const HostKernel* host = nullptr;

    int most_dynamic() const {
        return allowed_dynamic >= 0 ? allowed_dynamic : FREELY_USED - limits.shared;
    }
};

struct Module {
    Image image;
    int device;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

std::vector<std::unique_ptr<Module>> modules;

constexpr uintptr_t CONTEXT = 0xC0DE0000, STREAM = 0x57EA0000;
void* context_of(int device) { return reinterpret_cast<void*>(CONTEXT + device + 1); }

// The template of a kernel, without its namespace, spaces and parameters.
std::string plain_name(std::string name) {
    if (name.rfind("_Z", 0) == 0) {
        int status = 0;
        char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
        if (text) name = text;
        std::free(text);
    }
    // 64-bit integers are `long` on the host
    for (const char* part : {"sg3::", "void ", "long ", " "}) {
        for (size_t at; (at = name.find(part)) != std::string::npos;) {
            name.erase(at, std::strlen(part));
        }
    }
    return name;
}

// Where the library has the kernel; it knows what an image of the stand-in for NVRTC does not.
void find_host_kernel(Function& function) {
    if (!host_kernels) return;
    for (const HostKernel& each : host_kernels()) {
        const bool is_it = plain_name(each.expression) == function.name ||
                           plain_name(each.symbol) == function.name;
        if (!is_it) continue;
        function.host = &each;
        if (!function.limits.threads) function.limits.threads = each.threads;
        if (!function.limits.shared) function.limits.shared = each.shared;
    }
}

// Begins an entry point: a planned fault, or a thread without a context where one is needed.
int entered(const char* function, bool needs_context = true) {
    if (int code = planned_fault(function)) return complain(code, "%s was told to fail", function);
    if (needs_context && current_device < 0) {
        return complain(INVALID_CONTEXT, "%s in a thread without a context", function);
    }
    return OK;
}

// Machine code runs on the later devices of its major version, PTX on all later ones.
int check_image(const Image& image) {
    const int device = state.capabilities[current_device], made_for = image.architecture;
    const bool runs = image.is_ptx ? made_for <= device
                                   : made_for / 10 == device / 10 && made_for <= device;
    if (runs) return OK;
    return complain(NO_BINARY_FOR_GPU, "%s for %d on a device of %d",
                    image.is_ptx ? "PTX" : "a cubin", made_for, device);
}

Function* function_at(void* handle) {
    for (auto& module : modules) {
        for (auto& [name, function] : module->functions) {
            if (function.get() == handle) return function.get();
        }
    }
    return nullptr;
}

int check_resources(const Function& f, const unsigned* grid, const unsigned* block,
                    unsigned shared) {
    const unsigned blocks[3] = {2147483647, 65535, 65535}, most[3] = {1024, 1024, 64};
    for (int axis = 0; axis < 3; ++axis) {
        if (int code = check_range("a grid's side", grid[axis], 1, blocks[axis])) return code;
        if (int code = check_range("a block's side", block[axis], 1, most[axis])) return code;
    }
    const int64_t threads = static_cast<int64_t>(block[0]) * block[1] * block[2];
    const int bound = f.limits.threads ? f.limits.threads : 1024;
    if (threads > bound) {
        return complain(OUT_OF_RESOURCES, "%lld threads in a block, %d are allowed",
                        static_cast<long long>(threads), bound);
    }
    if (static_cast<int>(shared) > f.most_dynamic()) {
        return complain(INVALID_VALUE, "%u dynamic bytes of shared memory were not asked for",
                        shared);
    }
    return OK;
}

std::string bytes_of_parameters(const std::vector<size_t>& sizes, void** parameters) {
    std::string bytes;
    for (size_t i = 0; i < sizes.size(); ++i) {
        bytes.append(static_cast<const char*>(parameters[i]), sizes[i]);
    }
    return bytes;
}

}  // namespace

extern "C" {

int cuGetErrorName(int code, const char** text) {
    *text = error_name(code);
    return *text ? OK : INVALID_VALUE;
}

int cuGetErrorString(int code, const char** text) {
    *text = error_words(code);
    return *text ? OK : INVALID_VALUE;
}

int cuInit(unsigned) { return entered("cuInit", false); }

int cuDriverGetVersion(int* version) {
    *version = state.driver_version;
    return entered("cuDriverGetVersion", false);
}

int cuCtxGetCurrent(void** context) {
    *context = current_device < 0 ? nullptr : context_of(current_device);
    return entered("cuCtxGetCurrent", false);
}

int cuDeviceGet(int* device, int ordinal) {
    if (int code = entered("cuDeviceGet", false)) return code;
    const int count = static_cast<int>(state.capabilities.size());
    if (ordinal < 0 || ordinal >= count) return INVALID_DEVICE;
    *device = ordinal;
    return OK;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (int code = entered("cuDevicePrimaryCtxRetain", false)) return code;
    *context = context_of(device);
    return OK;
}

int cuCtxSetCurrent(void* context) {
    const auto place = reinterpret_cast<uintptr_t>(context);
    current_device = context ? static_cast<int>(place - CONTEXT) - 1 : -1;
    return entered("cuCtxSetCurrent", false);
}

int cuModuleLoadData(void** handle, const char* data) {
    if (int code = entered("cuModuleLoadData")) return code;
    if (state.capturing) return complain(CAPTURE_UNSUPPORTED, "a module was loaded in a capture");
    auto module = std::make_unique<Module>();
    if (!read_image(data, module->image)) return complain(INVALID_IMAGE, "this is no image");
    if (int code = check_image(module->image)) return code;
    module->device = current_device;
    *handle = module.get();
    modules.push_back(std::move(module));
    return OK;
}

int cuModuleGetFunction(void** handle, void* in, const char* lowered) {
    if (int code = entered("cuModuleGetFunction")) return code;
    for (auto& module : modules) {
        if (module.get() != in) continue;
        if (module->device != current_device) {
            return complain(INVALID_CONTEXT, "another device's module");
        }
        const auto found = module->image.kernels.find(lowered);
        if (found == module->image.kernels.end()) return complain(NOT_FOUND, "no %s", lowered);
        auto& function = module->functions[lowered];
        if (!function) {
            function.reset(
                new Function{lowered, plain_name(lowered), found->second, current_device});
            find_host_kernel(*function);
        }
        *handle = function.get();
        return OK;
    }
    return complain(INVALID_HANDLE, "no such module");
}

int cuFuncGetAttribute(int* value, int attribute, void* handle) {
    if (int code = entered("cuFuncGetAttribute")) return code;
    const Function* f = function_at(handle);
    if (!f) return INVALID_HANDLE;
    switch (attribute) {
        case 0: *value = f->limits.threads ? f->limits.threads : 1024; return OK;
        case 1: *value = f->limits.shared; return OK;
        case 8: *value = f->most_dynamic(); return OK;
        default: return complain(INVALID_VALUE, "attribute %d", attribute);
    }
}

int cuFuncSetAttribute(void* handle, int attribute, int value) {
    if (int code = entered("cuFuncSetAttribute")) return code;
    Function* f = function_at(handle);
    if (!f) return INVALID_HANDLE;
    if (attribute != 8 || value < 0 || value + f->limits.shared > MOST_SHARED) {
        return complain(INVALID_VALUE, "attribute %d cannot be %d", attribute, value);
    }
    f->allowed_dynamic = value;
    return OK;
}

int cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   void* stream, void** parameters, void** extra) {
    if (int code = entered("cuLaunchKernel")) return code;
    const Function* f = function_at(handle);
    if (!f) return complain(INVALID_HANDLE, "no such function");
    if (f->device != current_device) return complain(INVALID_CONTEXT, "another device's function");
    if (stream && stream != reinterpret_cast<void*>(STREAM + current_device)) {
        return complain(INVALID_HANDLE, "another device's stream, or none");
    }
    if (extra) return complain(INVALID_VALUE, "parameters are given one by one");
    Launch launch = {f->lowered, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z},
                     shared, current_device, stream, ""};
    if (int code = check_resources(*f, launch.grid, launch.block, shared)) return code;
    const std::vector<size_t> sizes = parameter_bytes(f->name);
    if (!f->limits.parameters.empty() && f->limits.parameters != sizes) {
        return complain(INVALID_VALUE, "the cubin has other parameters than the sources");
    }
    if (int code = check_parameters(f->name, parameters, grid_x, block_x)) return code;
    launch.parameters = bytes_of_parameters(sizes, parameters);
    state.launches.push_back(launch);
    if (!host_kernels) return OK;
    if (!f->host) return complain(NOT_FOUND, "the host has no %s", f->name.c_str());
    f->host->run(parameters, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z});
    return OK;
}

// What tests set and ask.

void stand_in_reset(const int* capabilities, int count) {
    state = State();
    state.capabilities.assign(capabilities, capabilities + count);
}
void stand_in_use_device(int device) { current_device = device; }
int stand_in_current_device() { return current_device; }
void* stand_in_stream(int device) { return reinterpret_cast<void*>(STREAM + device); }
void stand_in_set_driver_version(int version) { state.driver_version = version; }
void stand_in_set_capturing(int capturing) { state.capturing = capturing; }
void stand_in_plan_fault(const char* function, int code, int after) {
    state.faults[function] = {code, after};
}
const char* stand_in_complaint() { return state.complaint.c_str(); }

// A tensor's memory; what lay there before is forgotten.
void stand_in_own(const void* begin, int64_t bytes, int device) {
    const auto first = reinterpret_cast<uintptr_t>(begin);
    if (state.memory.size() >= 256) state.memory.erase(state.memory.begin());
    state.memory.push_back({first, first + static_cast<uint64_t>(bytes), device});
}

int stand_in_launches() { return static_cast<int>(state.launches.size()); }

// (grid x, block x, dynamic shared bytes, device), and the lowered name; returns the parameters'
// bytes.
const char* stand_in_launch(int index, int64_t* numbers, const char** kernel, int* size) {
    const Launch& launch = state.launches[index];
    numbers[0] = launch.grid[0], numbers[1] = launch.block[0];
    numbers[2] = launch.dynamic_shared, numbers[3] = launch.device;
    *kernel = launch.kernel.c_str();
    *size = static_cast<int>(launch.parameters.size());
    return launch.parameters.data();
}

}  // extern "C"
