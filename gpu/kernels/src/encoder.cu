// The kernels of a BERT encoder on rows laid end to end: nothing is padded, in memory or in attention.
//
// Values are half, sums are float. `hidden` is even and at most 1024; a head is 32 or 64 wide; whoever launches them sees to
// that (src/launch.rs). Each has a reference in src/reference.rs, which says what it computes.
//
// Which of a matrix product's operands a lane holds: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
// Attention by tiles with a running maximum and sum: Dao et al., "FlashAttention" (2022), Dao, "FlashAttention-2" (2023).

#ifdef PENSTOCK_ON_HOST
#include "on_host.h"
#else
#include <cuda_fp16.h>
#endif
#include <stdint.h>

namespace {

constexpr int WARP = 32;
constexpr int WARPS = 4;
constexpr int THREADS = WARP * WARPS;
constexpr unsigned ALL = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL, value, offset);
    return value;
}

__device__ __forceinline__ float2 pair(const half* at) { return __half22float2(*reinterpret_cast<const half2*>(at)); }

// --- normalisation: one warp a token

// Pairs of values a lane holds: 1024 / 2 / 32.
constexpr int PAIRS = 16;

template <typename Load>
__device__ __forceinline__ void normalise(Load load, const float* weight, const float* bias, half* out, int hidden, float eps) {
    const int lane = threadIdx.x % WARP;
    float2 values[PAIRS];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        const int at = (i * WARP + lane) * 2;
        if (at < hidden) {
            values[i] = load(at);
            sum += values[i].x + values[i].y;
        }
    }
    const float mean = warp_sum(sum) / hidden;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        if ((i * WARP + lane) * 2 < hidden) {
            values[i].x -= mean;
            values[i].y -= mean;
            squares += values[i].x * values[i].x + values[i].y * values[i].y;
        }
    }
    const float scale = rsqrtf(warp_sum(squares) / hidden + eps);
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        const int at = (i * WARP + lane) * 2;
        if (at < hidden) {
            const float x = values[i].x * scale * weight[at] + bias[at];
            const float y = values[i].y * scale * weight[at + 1] + bias[at + 1];
            *reinterpret_cast<half2*>(out + at) = __floats2half2_rn(x, y);
        }
    }
}

// --- attention: one block for up to 64 queries of one row and one head

constexpr int QUERIES = 16;  // of a warp
constexpr int KEYS = 64;     // of a step
constexpr int SKEW = 8;      // halves after each line of shared memory, so that eight lines start in eight banks
constexpr float NEVER = -1e30f;

__device__ __forceinline__ uint32_t packed(float low, float high) {
    const half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
}

__device__ __forceinline__ uint32_t word(const half* at) { return *reinterpret_cast<const uint32_t*>(at); }

// c += a * b: 16 x 8 of float, from 16 x 16 and 16 x 8 of half.
#ifndef PENSTOCK_ON_HOST
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// Over the four lanes that hold one query's scores.
__device__ __forceinline__ float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL, value, 2));
}

__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(ALL, value, 1);
    return value + __shfl_xor_sync(ALL, value, 2);
}

template <int WIDTH>
__device__ void attend(const half* projected, const float* bias, const uint4* tiles, half* out, int heads, float scale) {
    __shared__ __align__(16) half keys[KEYS][WIDTH + SKEW];
    __shared__ __align__(16) half values[WIDTH][KEYS + SKEW];  // transposed
    const uint4 tile = tiles[blockIdx.x];
    const int start = tile.x, length = tile.y, first = tile.z;
    if (length == 0) return;
    const int head = blockIdx.y, hidden = heads * WIDTH, line = 3 * hidden;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, group = lane / 4, quad = lane % 4;
    const int query = first + warp * QUERIES;
    const bool has_queries = query < length;
    const half* const row = projected + static_cast<size_t>(start) * line + head * WIDTH;
    const float* const head_bias = bias + head * WIDTH;

    // Scaled so that exp2 gives what exp would.
    const float factor = scale * 1.44269504f;
    uint32_t a[WIDTH / 16][4];
    const int upper = min(query + group, length - 1), lower = min(query + group + 8, length - 1);
    auto query_pair = [&](int token, int at) {
        const float2 value = pair(row + static_cast<size_t>(token) * line + at);
        return packed((value.x + head_bias[at]) * factor, (value.y + head_bias[at + 1]) * factor);
    };
#pragma unroll
    for (int step = 0; step < WIDTH / 16; step++) {
        const int at = step * 16 + quad * 2;
        a[step][0] = query_pair(upper, at);
        a[step][1] = query_pair(lower, at);
        a[step][2] = query_pair(upper, at + 8);
        a[step][3] = query_pair(lower, at + 8);
    }

    float context[WIDTH / 8][4] = {};
    float most[2] = {NEVER, NEVER}, sum[2] = {0.0f, 0.0f};
    for (int begin = 0; begin < length; begin += KEYS) {
        const int count = min(KEYS, length - begin);
        const int filled = (count + 15) / 16 * 16;
        __syncthreads();
        for (int i = threadIdx.x; i < filled * (WIDTH / 2); i += THREADS) {
            const int key = i / (WIDTH / 2), at = i % (WIDTH / 2) * 2;
            float2 k = {0.0f, 0.0f}, v = {0.0f, 0.0f};
            if (key < count) {
                const half* const token = row + static_cast<size_t>(begin + key) * line + at;
                k = pair(token + hidden);
                v = pair(token + 2 * hidden);
                k.x += head_bias[hidden + at];
                k.y += head_bias[hidden + at + 1];
                v.x += head_bias[2 * hidden + at];
                v.y += head_bias[2 * hidden + at + 1];
            }
            *reinterpret_cast<half2*>(&keys[key][at]) = __floats2half2_rn(k.x, k.y);
            values[at][key] = __float2half_rn(v.x);
            values[at + 1][key] = __float2half_rn(v.y);
        }
        __syncthreads();
        if (!has_queries) continue;

        float scores[KEYS / 8][4];
        float highest[2] = {most[0], most[1]};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            if (n * 8 >= filled) continue;
#pragma unroll
            for (int i = 0; i < 4; i++) scores[n][i] = 0.0f;
#pragma unroll
            for (int step = 0; step < WIDTH / 16; step++) {
                const half* const at = &keys[n * 8 + group][step * 16 + quad * 2];
                multiply(scores[n], a[step], word(at), word(at + 8));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (n * 8 + quad * 2 + i % 2 >= count) scores[n][i] = NEVER;
                highest[i / 2] = fmaxf(highest[i / 2], scores[n][i]);
            }
        }
        float shrink[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            highest[i] = quad_max(highest[i]);
            shrink[i] = exp2f(most[i] - highest[i]);
            most[i] = highest[i];
            sum[i] *= shrink[i];
        }
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) context[n][i] *= shrink[i / 2];
        }
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            if (k * 16 >= filled) continue;
            float weights[2][4];
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    weights[n][i] = exp2f(scores[2 * k + n][i] - most[i / 2]);
                    sum[i / 2] += weights[n][i];
                }
            }
            const uint32_t p[4] = {packed(weights[0][0], weights[0][1]), packed(weights[0][2], weights[0][3]),
                                   packed(weights[1][0], weights[1][1]), packed(weights[1][2], weights[1][3])};
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++) {
                const half* const at = &values[n * 8 + group][k * 16 + quad * 2];
                multiply(context[n], p, word(at), word(at + 8));
            }
        }
    }
    if (!has_queries) return;
    const float upper_sum = 1.0f / quad_sum(sum[0]), lower_sum = 1.0f / quad_sum(sum[1]);
    half* const to = out + static_cast<size_t>(start) * hidden + head * WIDTH + quad * 2;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
        if (query + group < length) {
            half* const at = to + static_cast<size_t>(query + group) * hidden + n * 8;
            *reinterpret_cast<half2*>(at) = __floats2half2_rn(context[n][0] * upper_sum, context[n][1] * upper_sum);
        }
        if (query + group + 8 < length) {
            half* const at = to + static_cast<size_t>(query + group + 8) * hidden + n * 8;
            *reinterpret_cast<half2*>(at) = __floats2half2_rn(context[n][2] * lower_sum, context[n][3] * lower_sum);
        }
    }
}

__device__ __forceinline__ float activated(float x, int kind) {
    if (kind == 0) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    if (kind == 1) return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    return fmaxf(x, 0.0f);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
embed(const uint32_t* ids, const uint32_t* positions, const half* words, const half* places, const float* weight,
      const float* bias, half* out, uint32_t tokens, uint32_t hidden, float eps) {
    const uint32_t token = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (token >= tokens) return;
    const half* const word = words + static_cast<size_t>(ids[token]) * hidden;
    const half* const place = places + static_cast<size_t>(positions[token]) * hidden;
    auto load = [&](int at) {
        const float2 a = pair(word + at), b = pair(place + at);
        return make_float2(a.x + b.x, a.y + b.y);
    };
    normalise(load, weight, bias, out + static_cast<size_t>(token) * hidden, hidden, eps);
}

// `hidden_state` is read and written: a warp has read its whole line before it writes.
extern "C" __global__ void __launch_bounds__(THREADS)
add_norm(const half* product, const float* product_bias, const float* weight, const float* bias, half* hidden_state,
         uint32_t tokens, uint32_t hidden, float eps) {
    const uint32_t token = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (token >= tokens) return;
    const half* const from = product + static_cast<size_t>(token) * hidden;
    half* const state = hidden_state + static_cast<size_t>(token) * hidden;
    auto load = [&](int at) {
        const float2 a = pair(from + at), b = pair(state + at);
        return make_float2(a.x + product_bias[at] + b.x, a.y + product_bias[at + 1] + b.y);
    };
    normalise(load, weight, bias, state, hidden, eps);
}

// Eight values a thread.
extern "C" __global__ void __launch_bounds__(THREADS)
activate(half* values, const float* bias, uint32_t eights, uint32_t width, uint32_t kind) {
    const uint32_t at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= eights) return;
    uint4 words = reinterpret_cast<uint4*>(values)[at];
    half2* const pairs = reinterpret_cast<half2*>(&words);
    const float* const own = bias + static_cast<size_t>(at) * 8 % width;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 value = __half22float2(pairs[i]);
        pairs[i] = __floats2half2_rn(activated(value.x + own[2 * i], kind), activated(value.y + own[2 * i + 1], kind));
    }
    reinterpret_cast<uint4*>(values)[at] = words;
}

extern "C" __global__ void __launch_bounds__(THREADS)
attend_32(const half* projected, const float* bias, const uint4* tiles, half* out, uint32_t heads, float scale) {
    attend<32>(projected, bias, tiles, out, heads, scale);
}

extern "C" __global__ void __launch_bounds__(THREADS)
attend_64(const half* projected, const float* bias, const uint4* tiles, half* out, uint32_t heads, float scale) {
    attend<64>(projected, bias, tiles, out, heads, scale);
}

// One block a row. `mean` or the first token; scaled to length 1 if `unit`.
extern "C" __global__ void __launch_bounds__(THREADS)
pool(const half* hidden_state, const uint32_t* starts, float* out, uint32_t hidden, uint32_t mean, uint32_t unit) {
    __shared__ float partial[WARPS];
    const uint32_t row = blockIdx.x, start = starts[row], end = starts[row + 1];
    if (start == end) return;
    const uint32_t last = mean ? end : start + 1;
    float2 sums[PAIRS / WARPS];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PAIRS / WARPS; i++) {
        const uint32_t at = (i * THREADS + threadIdx.x) * 2;
        sums[i] = make_float2(0.0f, 0.0f);
        if (at >= hidden) continue;
        for (uint32_t token = start; token < last; token++) {
            const float2 value = pair(hidden_state + static_cast<size_t>(token) * hidden + at);
            sums[i].x += value.x;
            sums[i].y += value.y;
        }
        sums[i].x /= last - start;
        sums[i].y /= last - start;
        squares += sums[i].x * sums[i].x + sums[i].y * sums[i].y;
    }
    squares = warp_sum(squares);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = squares;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) total += partial[i];
    const float scale = unit ? rsqrtf(total) : 1.0f;
#pragma unroll
    for (int i = 0; i < PAIRS / WARPS; i++) {
        const uint32_t at = (i * THREADS + threadIdx.x) * 2;
        if (at >= hidden) continue;
        float2* const to = reinterpret_cast<float2*>(out + static_cast<size_t>(row) * hidden + at);
        *to = make_float2(sums[i].x * scale, sums[i].y * scale);
    }
}
