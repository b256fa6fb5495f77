// What the stand-in driver reads of a module: real cubins, real PTX, and what the stand-in for
// NVRTC gives out instead of a cubin.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

// What a launch of a kernel must keep to; 0 and empty: unknown.
struct KernelLimits {
    int threads = 0, shared = 0, registers = 0;
    std::vector<size_t> parameters;
};

struct Image {
    bool is_ptx = false;
    int architecture = 0;  // 10 * major + minor
    std::map<std::string, KernelLimits> kernels;
};

template <class T>
T value_at(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof(value));
    return value;
}

// The attributes of a kernel in its section .nv.info (CUDA's ELF format).
inline void read_attributes(const char* at, const char* end, KernelLimits& limits) {
    while (at + 4 <= end) {
        const int form = at[0], attribute = at[1];
        const auto size = value_at<uint16_t>(at + 2);
        at += 4;
        if (form != 4) continue;  // EIFMT_SVAL: the value follows
        if (attribute == 0x05) limits.threads = value_at<int32_t>(at);  // EIATTR_MAX_THREADS
        if (attribute == 0x17) {                                        // EIATTR_KPARAM_INFO
            const auto ordinal = value_at<uint16_t>(at + 4);
            if (limits.parameters.size() <= ordinal) limits.parameters.resize(ordinal + 1);
            limits.parameters[ordinal] = value_at<uint32_t>(at + 8) >> 18;
        }
        at += size;
    }
}

// A cubin; false where it is cut off or not one.
inline bool read_cubin(const char* data, Image& image) {
    if (value_at<uint16_t>(data + 18) != 190) return false;  // EM_CUDA
    const auto flags = value_at<uint32_t>(data + 48);
    image.architecture = static_cast<int>((data[8] >= 8 ? flags >> 8 : flags) & 0xff);
    const char* table = data + value_at<uint64_t>(data + 40);
    const int count = value_at<uint16_t>(data + 60), names = value_at<uint16_t>(data + 62);
    const char* texts = data + value_at<uint64_t>(table + 64 * names + 24);
    for (int i = 0; i < count; ++i) {
        const char* row = table + 64 * i;
        const std::string name = texts + value_at<uint32_t>(row);
        const char* begin = data + value_at<uint64_t>(row + 24);
        const auto size = value_at<uint64_t>(row + 32);
        if (name.rfind(".text.", 0) == 0) image.kernels[name.substr(6)];
        if (name.rfind(".nv.info.", 0) == 0) {
            read_attributes(begin, begin + size, image.kernels[name.substr(9)]);
        }
        if (name.rfind(".nv.shared.", 0) == 0 && name.find(".reserved") == std::string::npos) {
            // from compute capability 9.0 on with what the system reserves
            const int reserved = image.architecture >= 90 ? 1024 : 0;
            image.kernels[name.substr(11)].shared = static_cast<int>(size) - reserved;
        }
    }
    return true;
}

// What follows `key` in a text, up to one of the characters of `ends`.
inline std::string word_after(const std::string& text, const std::string& key, const char* ends,
                              size_t from = 0) {
    const size_t found = text.find(key, from);
    if (found == std::string::npos) return "";
    const size_t begin = found + key.size();
    return text.substr(begin, text.find_first_of(ends, begin) - begin);
}

// PTX ends with a 0 byte, as the driver asks for.
inline bool read_ptx(const std::string& text, Image& image) {
    const std::string target = word_after(text, ".target ", ",\n");
    if (target.rfind("sm_", 0) != 0) return false;
    image.is_ptx = true;
    image.architecture = std::stoi(target.substr(3));
    size_t at = text.find(".entry ");
    for (; at != std::string::npos; at = text.find(".entry ", at + 1)) {
        image.kernels[word_after(text, ".entry ", "(\n", at)];
    }
    return true;
}

constexpr const char* STAND_IN_CUBIN = "stand-in cubin sm_";

// Lines: the architecture, then one lowered name each, then "end".
inline bool read_stand_in(const std::string& text, Image& image) {
    if (text.size() < 5 || text.substr(text.size() - 4) != "end\n") return false;
    image.architecture = std::stoi(text.substr(std::strlen(STAND_IN_CUBIN)));
    size_t begin = text.find('\n') + 1;
    for (size_t end = text.find('\n', begin); end != std::string::npos;
         begin = end + 1, end = text.find('\n', begin)) {
        const std::string name = text.substr(begin, end - begin);
        if (name != "end") image.kernels[name];
    }
    return true;
}

inline bool read_image(const char* data, Image& image) {
    if (std::memcmp(data, "\x7f" "ELF", 4) == 0) return read_cubin(data, image);
    if (std::strncmp(data, STAND_IN_CUBIN, std::strlen(STAND_IN_CUBIN)) == 0) {
        return read_stand_in(data, image);
    }
    return std::strncmp(data, "//", 2) == 0 && read_ptx(data, image);
}
