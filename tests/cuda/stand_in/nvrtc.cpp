// A stand-in for NVRTC: it checks what it is given, as far as that is text, and gives out an image
// that only the stand-in driver loads. Compiling costs nothing, and an environment variable tells
// the tests of several processes who compiled what.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <set>

#include "image.h"
#include "state.h"

namespace {

constexpr int COMPILATION = 6;  // NVRTC_ERROR_COMPILATION
const int ARCHITECTURES[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

struct Program {
    std::string source, name, log, image;
    std::map<std::string, std::string> headers;
    std::map<std::string, std::string> kernels;  // expression -> lowered name
};

int fail(Program& program, const std::string& log) {
    program.log = log;
    return COMPILATION;
}

// The first header that a text includes and the program does not have; empty: none.
std::string missing_header(const Program& program, const std::string& text) {
    const std::string key = "\n#include \"";
    for (size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1)) {
        const std::string name = word_after(text, key, "\"", at);
        if (!program.headers.count(name)) return name;
    }
    return "";
}

std::string without_spaces(std::string text) {
    for (size_t at; (at = text.find(' ')) != std::string::npos;) text.erase(at, 1);
    return text;
}

// Appends a line to the file that STAND_IN_LOG names, then waits STAND_IN_COMPILE_MS.
void note(const Program& program, const std::string& architecture) {
    if (const char* path = std::getenv("STAND_IN_LOG")) {
        if (FILE* file = std::fopen(path, "a")) {
            std::fprintf(file, "%d %s %s\n", getpid(), program.name.c_str(), architecture.c_str());
            std::fclose(file);
        }
    }
    if (const char* time = std::getenv("STAND_IN_COMPILE_MS")) usleep(std::atoi(time) * 1000);
}

std::string image_of(const Program& program, const std::string& architecture) {
    const std::string number = architecture.substr(architecture.find('_') + 1);
    const bool is_ptx = architecture.rfind("compute_", 0) == 0;
    std::string text = is_ptx ? "//\n.version 9.0\n.target sm_" + number + "\n"
                              : STAND_IN_CUBIN + number + "\n";
    for (const auto& [_, lowered] : program.kernels) {
        text += is_ptx ? ".visible .entry " + lowered + "(\n" : lowered + "\n";
    }
    return is_ptx ? text + '\0' : text + "end\n";
}

int give(const std::string& text, char* to) {
    std::memcpy(to, text.data(), text.size());
    return OK;
}

}  // namespace

extern "C" {

const char* nvrtcGetErrorString(int code) {
    return code == COMPILATION ? "NVRTC_ERROR_COMPILATION" : code ? "NVRTC_ERROR" : "NVRTC_SUCCESS";
}

int nvrtcVersion(int* major, int* minor) {
    *major = 13, *minor = 0;
    return planned_fault("nvrtcVersion");
}

int nvrtcGetNumSupportedArchs(int* count) {
    *count = sizeof(ARCHITECTURES) / sizeof(int);
    return OK;
}

int nvrtcGetSupportedArchs(int* found) {
    std::memcpy(found, ARCHITECTURES, sizeof(ARCHITECTURES));
    return OK;
}

int nvrtcCreateProgram(Program** program, const char* source, const char* name, int count,
                       const char** texts, const char** names) {
    *program = new Program{source, name, "", "", {}, {}};
    for (int i = 0; i < count; ++i) (*program)->headers[names[i]] = texts[i];
    return OK;
}

int nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return OK;
}

int nvrtcAddNameExpression(Program* program, const char* expression) {
    program->kernels[expression] = without_spaces(expression);
    return OK;
}

int nvrtcCompileProgram(Program* program, int count, const char** options) {
    if (int code = planned_fault("nvrtcCompileProgram")) {
        program->log = program->name + "(7): error: told to fail";
        return code;
    }
    std::string architecture;
    std::set<std::string> given(options, options + count);
    for (const std::string& option : given) {
        const std::string found = word_after(option, "--gpu-architecture=", "\n");
        if (!found.empty()) architecture = found;
    }
    if (architecture.empty()) return fail(*program, "error: no --gpu-architecture");
    if (!given.count("-std=c++17")) return fail(*program, "error: no -std=c++17");
    std::string all = program->source;
    for (const auto& [_, text] : program->headers) all += text;
    const std::string missing = missing_header(*program, "\n" + all);
    if (!missing.empty()) return fail(*program, "error: cannot open source file " + missing);
    for (const auto& [expression, _] : program->kernels) {
        const std::string kernel = word_after(expression, "sg3::", "<");
        if (kernel.empty() || program->source.find(" " + kernel + "(") == std::string::npos) {
            return fail(*program, "error: no kernel " + expression);
        }
    }
    note(*program, architecture);
    program->image = image_of(*program, architecture);
    return OK;
}

int nvrtcGetLoweredName(Program* program, const char* expression, const char** lowered) {
    *lowered = program->kernels[expression].c_str();
    return OK;
}

int nvrtcGetProgramLogSize(Program* program, size_t* size) {
    *size = program->log.size() + 1;
    return OK;
}
int nvrtcGetProgramLog(Program* program, char* to) { return give(program->log + '\0', to); }

int nvrtcGetCUBINSize(Program* program, size_t* size) {
    *size = program->image.size();
    return OK;
}
int nvrtcGetCUBIN(Program* program, char* to) { return give(program->image, to); }
int nvrtcGetPTXSize(Program* program, size_t* size) { return nvrtcGetCUBINSize(program, size); }
int nvrtcGetPTX(Program* program, char* to) { return give(program->image, to); }

}  // extern "C"
