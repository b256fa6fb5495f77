// What the parts of the stand-in library share, and what tests set and ask.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "errors.h"

struct Memory {
    uintptr_t begin, end;
    int device;
};

struct Launch {
    std::string kernel;  // lowered name
    unsigned grid[3], block[3];
    unsigned dynamic_shared;
    int device;
    void* stream;
    std::string parameters;  // bytes, one after the other
};

// A fault to come: the `after`-th next call of a function fails.
struct Fault {
    int code, after;
};

struct State {
    std::vector<int> capabilities;  // of the devices: 10 * major + minor
    int driver_version = 13000;
    bool capturing = false;
    std::vector<Memory> memory;
    std::vector<Launch> launches;
    std::map<std::string, Fault> faults;
    std::string complaint;  // about the last call that was refused
};

inline State state;
inline thread_local int current_device = -1;  // -1: the thread has no context

inline int complain(int code, const char* format, ...) {
    char text[400];
    va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof(text), format, values);
    va_end(values);
    state.complaint = text;
    return code;
}

// The code with which a call is to fail, once; OK: it is not.
inline int planned_fault(const char* function) {
    const auto found = state.faults.find(function);
    if (found == state.faults.end() || found->second.after-- > 0) return OK;
    const int code = found->second.code;
    state.faults.erase(found);
    return code;
}
