// Runs one kernel on the CPU: `on_host KERNEL` reads from standard input, for each argument in order, a 64-bit count of bytes and
// the bytes; writes the first argument of its result. See tests/on_host.rs.

#include "encoder.cu"

#include <stdio.h>
#include <string>

namespace {

std::vector<std::vector<char>> arguments;

template <typename T>
T* array(size_t at) { return reinterpret_cast<T*>(arguments[at].data()); }

template <typename T>
T number(size_t at) { return *array<T>(at); }

bool read_all() {
    uint64_t bytes;
    while (fread(&bytes, 8, 1, stdin) == 1) {
        arguments.emplace_back(bytes);
        if (fread(arguments.back().data(), 1, bytes, stdin) != bytes) return false;
    }
    return true;
}

}  // namespace

int main(int count, char** words) {
    if (count != 2 || !read_all()) return 2;
    const std::string name = words[1];
    size_t result = 0;
    if (name == "embed") {
        const uint32_t tokens = number<uint32_t>(7);
        result = 6;
        host::launch((tokens + WARPS - 1) / WARPS, 1, THREADS, [&] {
            embed(array<uint32_t>(0), array<uint32_t>(1), array<half>(2), array<half>(3), array<float>(4), array<float>(5),
                  array<half>(6), tokens, number<uint32_t>(8), number<float>(9));
        });
    } else if (name == "add_norm") {
        const uint32_t tokens = number<uint32_t>(5);
        result = 4;
        host::launch((tokens + WARPS - 1) / WARPS, 1, THREADS, [&] {
            add_norm(array<half>(0), array<float>(1), array<float>(2), array<float>(3), array<half>(4), tokens,
                     number<uint32_t>(6), number<float>(7));
        });
    } else if (name == "activate") {
        const uint32_t eights = number<uint32_t>(2);
        host::launch((eights + THREADS - 1) / THREADS, 1, THREADS,
                     [&] { activate(array<half>(0), array<float>(1), eights, number<uint32_t>(3), number<uint32_t>(4)); });
    } else if (name == "attend_32" || name == "attend_64") {
        const uint32_t heads = number<uint32_t>(4);
        const auto kernel = name == "attend_32" ? attend_32 : attend_64;
        result = 3;
        host::launch(arguments[2].size() / sizeof(uint4), heads, THREADS, [&] {
            kernel(array<half>(0), array<float>(1), array<uint4>(2), array<half>(3), heads, number<float>(5));
        });
    } else if (name == "pool") {
        result = 2;
        host::launch(arguments[1].size() / 4 - 1, 1, THREADS, [&] {
            pool(array<half>(0), array<uint32_t>(1), array<float>(2), number<uint32_t>(3), number<uint32_t>(4),
                 number<uint32_t>(5));
        });
    } else {
        return 2;
    }
    fwrite(arguments[result].data(), 1, arguments[result].size(), stdout);
    return 0;
}
