// What the kernels use of CUDA, on a CPU: to test what they compute where there is no GPU. One thread; each thread of a block is
// a context that gives way where it waits for others. Blocks run one after the other.

#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))

using half = _Float16;
struct half2 { half x, y; };
struct float2 { float x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct Place { unsigned x, y; };
using std::min;

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float2 __half22float2(half2 value) { return {float(value.x), float(value.y)}; }
inline half2 __floats2half2_rn(float x, float y) { return {half(x), half(y)}; }
inline half __float2half_rn(float x) { return half(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

inline Place threadIdx, blockIdx;

namespace host {

struct Barrier {
    unsigned expected = 0, arrived = 0, passed = 0;
};

struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    bool done = false;
};

inline ucontext_t scheduler;
inline std::vector<Thread> threads;
inline std::vector<Barrier> warps;
inline Barrier block;
inline unsigned current;
inline const std::function<void()>* kernel;
struct Slot { uint32_t words[6]; };
inline std::vector<Slot> slots;

inline void wait(Barrier& barrier) {
    const unsigned passed = barrier.passed;
    if (++barrier.arrived == barrier.expected) {
        barrier.arrived = 0;
        barrier.passed++;
    }
    const unsigned own = current;
    while (barrier.passed == passed) swapcontext(&threads[own].context, &scheduler);
}

inline void begin() {
    (*kernel)();
    threads[current].done = true;
}

// Runs one kernel: a grid of blocks of `count` threads.
inline void launch(unsigned x, unsigned y, unsigned count, const std::function<void()>& run) {
    kernel = &run;
    for (unsigned by = 0; by < y; by++) {
        for (unsigned bx = 0; bx < x; bx++) {
            threads = std::vector<Thread>(count);
            warps.assign((count + 31) / 32, Barrier{32});
            block = Barrier{count};
            slots.assign(count, Slot{});
            for (Thread& thread : threads) {
                thread.stack.resize(256 << 10);
                getcontext(&thread.context);
                thread.context.uc_stack.ss_sp = thread.stack.data();
                thread.context.uc_stack.ss_size = thread.stack.size();
                thread.context.uc_link = &scheduler;
                makecontext(&thread.context, begin, 0);
            }
            for (bool more = true; more;) {
                more = false;
                for (current = 0; current < count; current++) {
                    if (threads[current].done) continue;
                    more = true;
                    threadIdx = {current, 0};
                    blockIdx = {bx, by};
                    swapcontext(&scheduler, &threads[current].context);
                }
            }
        }
    }
}

}  // namespace host

inline void __syncthreads() { host::wait(host::block); }

inline float __shfl_xor_sync(unsigned, float value, int offset) {
    const unsigned own = host::current;
    memcpy(host::slots[own].words, &value, 4);
    host::wait(host::warps[own / 32]);
    float other;
    memcpy(&other, host::slots[own ^ offset].words, 4);
    host::wait(host::warps[own / 32]);
    threadIdx = {own, 0};
    return other;
}

inline float half_of(uint32_t word, unsigned which) {
    const uint16_t bits = uint16_t(word >> (16 * which));
    half value;
    memcpy(&value, &bits, 2);
    return float(value);
}

// mma.m16n8k16, by the tables of the PTX ISA.
inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const unsigned own = host::current, warp = own / 32 * 32, lane = own % 32;
    host::slots[own] = {{a[0], a[1], a[2], a[3], b0, b1}};
    host::wait(host::warps[own / 32]);
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            const uint32_t left = host::slots[warp + row % 8 * 4 + k % 8 / 2].words[row / 8 + k / 8 * 2];
            const uint32_t right = host::slots[warp + column * 4 + k % 8 / 2].words[4 + k / 8];
            c[i] += half_of(left, k % 2) * half_of(right, k % 2);
        }
    }
    host::wait(host::warps[own / 32]);
    threadIdx = {own, 0};
}
