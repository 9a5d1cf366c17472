/* The steps of our optimizers on the CPU: each number is read and written once. The plain torch form of each stands in its optimizer's
   file, its kernel for GPUs in triton_steps.py; lists and constants come in the same order. Plain C99, compiled by cpu_steps.py. */

#include <math.h>
#include <stdint.h>

#define LISTS 6
#define PIECE 4096 /* numbers */

const int64_t piece_size = PIECE;
static float zeros[PIECE];

/* Works on `n` numbers of one tensor: list[i] is where those of the i-th list begin. Adds to three sums. */
typedef void Kernel(float *const *list, int64_t n, const float *scalars, const double *constants, double *sums);

/* Runs a kernel on pieces `first` to `last` - 1; nothing is done where `unless` is 1.

   addresses: of each list's tensors, lists x count, 0 for none, which reads as zeros. pieces: tensor, first number and how many of them,
   at most PIECE, pieces x 3. scalars: what the step has found. sums: pieces x 3. */
void run(Kernel *kernel, const int64_t *addresses, int64_t lists, int64_t count, const int64_t *pieces, int64_t first, int64_t last,
         const float *unless, const float *scalars, const double *constants, double *sums)
{
    if (unless && *unless == 1.0f)
        return;
    for (int64_t i = first; i < last; i++) {
        const int64_t *piece = pieces + 3 * i;
        float *list[LISTS] = {0};
        for (int64_t row = 0; row < lists; row++) {
            float *tensor = (float *)(intptr_t)addresses[row * count + piece[0]];
            list[row] = tensor ? tensor + piece[1] : zeros;
        }
        kernel(list, piece[2], scalars, constants, sums + 3 * i);
    }
}

static inline float sign(float value)
{
    return (float)((value > 0.0f) - (value < 0.0f));
}

/* lists: parameters, gradients, exp_avg. constants: two betas, decay. scalars: rate. */
void lion(float *const *list, int64_t n, const float *scalars, const double *constants, double *sums)
{
    float *restrict p = list[0], *restrict g = list[1], *restrict m = list[2];
    const float rate = scalars[0], beta1 = constants[0], rest1 = 1 - constants[0], rest2 = 1 - constants[1], decay = constants[2];
    (void)sums;
    for (int64_t i = 0; i < n; i++) {
        const float update = sign(beta1 * m[i] + rest1 * g[i]);
        p[i] -= rate * (update + decay * p[i]);
        m[i] += rest2 * (g[i] - m[i]);
    }
}

/* lists: parameters, gradients, exp_avg, s. constants: two betas, the root of the second, decay. scalars: step size. */
void dadapt_lion(float *const *list, int64_t n, const float *scalars, const double *constants, double *sums)
{
    float *restrict p = list[0], *restrict g = list[1], *restrict m = list[2], *restrict s = list[3];
    const float step = scalars[0], beta1 = constants[0], decay = constants[3];
    const float rest1 = 1 - constants[0], rest2 = 1 - constants[1], rest_s = 1 - constants[2];
    double along = 0, size = 0;
#pragma omp simd reduction(+ : along, size)
    for (int64_t i = 0; i < n; i++) {
        const float update = sign(beta1 * m[i] + rest1 * g[i]);
        along += update * s[i];
        p[i] -= step * (update + decay * p[i]);
        m[i] += rest2 * (step * g[i] - m[i]);
        s[i] += rest_s * (step * update - s[i]);
        size += fabsf(s[i]);
    }
    sums[0] += along;
    sums[1] += size;
}

/* lists: gradients, exp_avg, exp_avg_sq, s. constants: two betas, the root of the second, eps, layer scale. scalars: step size. */
void dadapt_adam_averages(float *const *list, int64_t n, const float *scalars, const double *constants, double *sums)
{
    float *restrict g = list[0], *restrict m = list[1], *restrict v = list[2], *restrict s = list[3];
    const float step = scalars[0], eps = constants[3], scale = constants[4];
    const float rest1 = 1 - constants[0], rest2 = 1 - constants[1], rest_s = 1 - constants[2];
    double along = 0, size = 0;
#pragma omp simd reduction(+ : along, size)
    for (int64_t i = 0; i < n; i++) {
        const float change = step * g[i];
        along += g[i] * (s[i] / (sqrtf(v[i]) + eps));
        v[i] += rest2 * (g[i] * g[i] - v[i]);
        s[i] += rest_s * (change - s[i]);
        m[i] += rest1 * (scale * change - m[i]);
        size += fabsf(s[i]);
    }
    sums[0] += along;
    sums[1] += size;
}

/* lists: gradients, exp_avg, exp_avg_sq, s. constants: two betas, eps. scalars: step size. */
void dadapt_preprint_averages(float *const *list, int64_t n, const float *scalars, const double *constants, double *sums)
{
    float *restrict g = list[0], *restrict m = list[1], *restrict v = list[2], *restrict s = list[3];
    const float step = scalars[0], rest1 = 1 - constants[0], rest2 = 1 - constants[1], eps = constants[2];
    double squares = 0, along = 0, size = 0;
#pragma omp simd reduction(+ : squares, along, size)
    for (int64_t i = 0; i < n; i++) {
        const float change = step * g[i];
        v[i] += rest2 * (g[i] * g[i] - v[i]);
        s[i] += rest2 * (change - s[i]);
        m[i] += rest1 * (change - m[i]);
        const float denominator = sqrtf(v[i]) + eps;
        squares += g[i] * g[i] / denominator;
        along += s[i] * (s[i] / denominator);
        size += fabsf(s[i]);
    }
    sums[0] += squares;
    sums[1] += along;
    sums[2] += size;
}

/* lists: parameters, exp_avg, exp_avg_sq. constants: eps, decay. scalars: step size. */
void dadapt_adam_move(float *const *list, int64_t n, const float *scalars, const double *constants, double *sums)
{
    float *restrict p = list[0], *restrict m = list[1], *restrict v = list[2];
    const float eps = constants[0], decay = (float)constants[1] * scalars[0];
    (void)sums;
    for (int64_t i = 0; i < n; i++)
        p[i] -= m[i] / (sqrtf(v[i]) + eps) + decay * p[i];
}

/* lists: parameters, gradients, starting points, exp_avg, exp_avg_sq, s. constants: three betas. scalars: d, weight of gradients in s. */
void prodigy_averages(float *const *list, int64_t n, const float *scalars, const double *constants, double *sums)
{
    float *restrict p = list[0], *restrict g = list[1], *restrict start = list[2];
    float *restrict m = list[3], *restrict v = list[4], *restrict s = list[5];
    const float d = scalars[0], weight = scalars[1], rest1 = 1 - constants[0], rest2 = 1 - constants[1], beta3 = constants[2];
    double moved = 0, size = 0;
#pragma omp simd reduction(+ : moved, size)
    for (int64_t i = 0; i < n; i++) {
        const float change = d * g[i];
        moved += g[i] * (start[i] - p[i]);
        m[i] += rest1 * (change - m[i]);
        v[i] += rest2 * (change * change - v[i]);
        s[i] = beta3 * s[i] + weight * g[i];
        size += fabsf(s[i]);
    }
    sums[0] += moved;
    sums[1] += size;
}

/* lists: parameters, exp_avg, exp_avg_sq. constants: decay. scalars: step size, d * eps. */
void prodigy_move(float *const *list, int64_t n, const float *scalars, const double *constants, double *sums)
{
    float *restrict p = list[0], *restrict m = list[1], *restrict v = list[2];
    const float step = scalars[0], eps = scalars[1], decay = constants[0];
    (void)sums;
    for (int64_t i = 0; i < n; i++)
        p[i] -= step * (m[i] / (sqrtf(v[i]) + eps) + decay * p[i]);
}
