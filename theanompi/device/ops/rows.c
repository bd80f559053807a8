/* Batch normalisation with residual sum and rectifier, and its gradient, in few passes over memory.

   Matrices are row-major: a row is a pixel, a column a channel. Each thread has adjacent blocks of rows, as in
   torch's own operations before and after, whose results lie in the cache of its core. What a block is depends on
   shapes alone and sums over blocks are added in their order: the number of threads changes no bit. In the loops
   over channels no element depends on another; matrices either are the same or do not overlap.

   Of few channels several adjacent pixels are one row, `fold`: each channel is then as many columns, to be summed. */

#include <math.h>
#include <stddef.h>

typedef ptrdiff_t size;
/* Of the OpenMP that torch uses; start may be NULL. */
typedef struct {
    void (*start)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel */
    int (*number)(void), (*count)(void);                         /* omp_get_thread_num, omp_get_num_threads */
} openmp;

typedef struct {
    const openmp *threads;
    size rows, columns, block, rectify;
    const float *x, *residual, *gy, *rectified;
    float *y, *g, *gx;
    float *a, *b, *c, *centre, *shift; /* of each column: the coefficients of the last pass, means, and beta */
    double *total, *squared;           /* of each column: sums over blocks */
    float *origin, *sums, *products;   /* of each block and column */
} job;

static void run(void (*stage)(void *), job *j, unsigned threads) {
    if (threads > 1)
        j->threads->start(stage, j, threads, 0);
    else
        stage(j);
}

/* The blocks of this thread: from *first up to below *last. */
static void share(const job *j, size *first, size *last) {
    const size blocks = (j->rows + j->block - 1) / j->block;
    const size count = j->threads->start ? j->threads->count() : 1;
    const size number = j->threads->start ? j->threads->number() : 0;
    *first = blocks * number / count;
    *last = blocks * (number + 1) / count;
}

static size least(size a, size b) { return a < b ? a : b; }

/* Sums of x and x² over the rows of a block, less its first row so that little cancels. */
static void sum(void *argument) {
    job *j = argument;
    const size n = j->columns;
    size first, last;
    share(j, &first, &last);
    for (size b = first; b < last; b++) {
        const size begin = b * j->block, end = least(begin + j->block, j->rows);
        float *origin = j->origin + b * n, *sums = j->sums + b * n, *squares = j->products + b * n;
        #pragma omp simd
        for (size k = 0; k < n; k++) {
            origin[k] = j->x[begin * n + k];
            sums[k] = squares[k] = 0;
        }
        size i = begin;
        for (; i + 4 <= end; i += 4) {
            const float *x = j->x + i * n;
            #pragma omp simd
            for (size k = 0; k < n; k++) {
                float p = x[k] - origin[k], q = x[n + k] - origin[k];
                float r = x[2 * n + k] - origin[k], s = x[3 * n + k] - origin[k];
                sums[k] += (p + q) + (r + s);
                squares[k] += (p * p + q * q) + (r * r + s * s);
            }
        }
        for (; i < end; i++) {
            const float *x = j->x + i * n;
            #pragma omp simd
            for (size k = 0; k < n; k++) {
                float p = x[k] - origin[k];
                sums[k] += p;
                squares[k] += p * p;
            }
        }
    }
}

/* y = a (x - mean) + beta, plus the residual, rectified. The residual may lie in y. */
static void normalise(void *argument) {
    job *j = argument;
    const size n = j->columns;
    size first, last;
    share(j, &first, &last);
    /* Backwards: the end of the pass before is still in the cache. */
    for (size b = last - 1; b >= first; b--)
        for (size i = b * j->block; i < least((b + 1) * j->block, j->rows); i++) {
            const float *x = j->x + i * n, *mean = j->centre;
            const float *a = j->a, *beta = j->shift;
            float *y = j->y + i * n;
            if (j->residual) {
                const float *residual = j->residual + i * n;
                #pragma omp simd
                for (size k = 0; k < n; k++)
                    y[k] = a[k] * (x[k] - mean[k]) + beta[k] + residual[k];
            } else {
                #pragma omp simd
                for (size k = 0; k < n; k++)
                    y[k] = a[k] * (x[k] - mean[k]) + beta[k];
            }
            if (j->rectify)
                #pragma omp simd
                for (size k = 0; k < n; k++)
                    y[k] = y[k] <= 0 ? 0 : y[k]; /* NaN stays NaN */
        }
}

/* The rectifier's gradient g, and the sums of g and of g (x - mean) over the rows of a block. g may lie in gy. */
static void sum_gradient(void *argument) {
    job *j = argument;
    const size n = j->columns;
    size first, last;
    share(j, &first, &last);
    for (size b = first; b < last; b++) {
        const size begin = b * j->block, end = least(begin + j->block, j->rows);
        float *sums = j->sums + b * n, *products = j->products + b * n;
        const float *mean = j->centre;
        #pragma omp simd
        for (size k = 0; k < n; k++)
            sums[k] = products[k] = 0;
        for (size i = begin; i < end; i += 4) {
            const size rows = least(4, end - i);
            const float *x = j->x + i * n;
            float *g = j->g + i * n;
            if (j->rectified) {
                const float *y = j->rectified + i * n, *gy = j->gy + i * n;
                #pragma omp simd
                for (size k = 0; k < rows * n; k++)
                    g[k] = y[k] <= 0 ? 0 : gy[k];
            }
            if (rows == 4)
                #pragma omp simd
                for (size k = 0; k < n; k++) {
                    float p = g[k], q = g[n + k], r = g[2 * n + k], s = g[3 * n + k];
                    sums[k] += (p + q) + (r + s);
                    products[k] += (p * (x[k] - mean[k]) + q * (x[n + k] - mean[k])) +
                                   (r * (x[2 * n + k] - mean[k]) + s * (x[3 * n + k] - mean[k]));
                }
            else
                for (size r = 0; r < rows; r++)
                    #pragma omp simd
                    for (size k = 0; k < n; k++) {
                        sums[k] += g[r * n + k];
                        products[k] += g[r * n + k] * (x[r * n + k] - mean[k]);
                    }
        }
    }
}

/* gx = a g + b (x - mean) + c. It may lie in g. */
static void gradient(void *argument) {
    job *j = argument;
    const size n = j->columns;
    size first, last;
    share(j, &first, &last);
    /* Backwards: the end of the pass before is still in the cache. */
    for (size b = last - 1; b >= first; b--)
        for (size i = b * j->block; i < least((b + 1) * j->block, j->rows); i++) {
            const float *x = j->x + i * n, *mean = j->centre;
            const float *a = j->a, *b = j->b, *c = j->c;
            float *gx = j->gx + i * n;
            const float *g = j->g + i * n;
            #pragma omp simd
            for (size k = 0; k < n; k++)
                gx[k] = a[k] * g[k] + (b[k] * (x[k] - mean[k]) + c[k]);
        }
}

/* Divides up the scratch memory: 9 + 3 · blocks rows of floats, doubles first. */
static void divide(job *j, double *scratch) {
    const size n = j->columns, blocks = (j->rows + j->block - 1) / j->block;
    j->total = scratch;
    j->squared = scratch + n;
    j->a = (float *)(scratch + 2 * n);
    j->b = j->a + n;
    j->c = j->b + n;
    j->centre = j->c + n;
    j->shift = j->centre + n;
    j->origin = j->shift + n;
    j->sums = j->origin + blocks * n;
    j->products = j->sums + blocks * n;
    #pragma omp simd
    for (size k = 0; k < n; k++)
        j->total[k] = j->squared[k] = 0;
}

/* Gives each column of a channel the sum over all of them. */
static void sum_columns(double *values, size columns, size fold) {
    const size channels = columns / fold;
    for (size k = 0; fold > 1 && k < channels; k++) {
        double total = 0;
        for (size i = k; i < columns; i += channels)
            total += values[i];
        for (size i = k; i < columns; i += channels)
            values[i] = total;
    }
}

/* Gives each column what its channel has; values may lie in the first columns. */
static void spread(float *to, const float *values, size columns, size fold) {
    const size channels = columns / fold;
    for (size i = 0; i < columns; i += channels)
        for (size k = 0; k < channels; k++)
            to[i + k] = values[k];
}

void batch_norm(const openmp *openmp, unsigned threads, size rows, size columns, size fold, size block, size rectify,
                double epsilon, const float *x, const float *gamma, const float *beta, const float *residual, float *y,
                float *mean, float *inv_std, double *scratch) {
    const size pixels = rows * fold, channels = columns / fold;
    job j = {.threads = openmp, .rows = rows, .columns = columns, .block = block, .rectify = rectify, .x = x,
             .residual = residual, .y = y};
    divide(&j, scratch);
    run(sum, &j, threads);
    for (size b = 0; b * block < rows; b++) {
        const float *origin = j.origin + b * columns, *sums = j.sums + b * columns;
        const double length = least(block, rows - b * block);
        #pragma omp simd
        for (size k = 0; k < columns; k++)
            j.total[k] += length * origin[k] + sums[k];
    }
    sum_columns(j.total, columns, fold);
    for (size b = 0; b * block < rows; b++) {
        const float *origin = j.origin + b * columns, *sums = j.sums + b * columns;
        const float *squares = j.products + b * columns;
        const double length = least(block, rows - b * block);
        #pragma omp simd
        for (size k = 0; k < columns; k++) {
            double inner = sums[k] / length, outer = origin[k] + inner - j.total[k] / pixels;
            j.squared[k] += squares[k] - inner * sums[k] + length * outer * outer;
        }
    }
    sum_columns(j.squared, columns, fold);
    #pragma omp simd
    for (size k = 0; k < channels; k++) {
        mean[k] = j.total[k] / pixels;
        inv_std[k] = 1 / sqrt((j.squared[k] < 0 ? 0 : j.squared[k]) / pixels + epsilon);
        j.a[k] = inv_std[k] * gamma[k];
    }
    spread(j.a, j.a, columns, fold);
    spread(j.centre, mean, columns, fold);
    spread(j.shift, beta, columns, fold);
    run(normalise, &j, threads);
}

void batch_norm_gradient(const openmp *openmp, unsigned threads, size rows, size columns, size fold, size block,
                         const float *gy, const float *rectified, const float *x, const float *gamma, const float *mean,
                         const float *inv_std, float *g, float *gx, float *g_gamma, float *g_beta, double *scratch) {
    const size pixels = rows * fold, channels = columns / fold;
    job j = {.threads = openmp, .rows = rows, .columns = columns, .block = block, .gy = gy, .rectified = rectified,
             .x = x, .g = g, .gx = gx};
    divide(&j, scratch);
    spread(j.centre, mean, columns, fold);
    run(sum_gradient, &j, threads);
    for (size b = 0; b * block < rows; b++)
        #pragma omp simd
        for (size k = 0; k < columns; k++) {
            j.total[k] += j.sums[b * columns + k];
            j.squared[k] += j.products[b * columns + k];
        }
    sum_columns(j.total, columns, fold);
    sum_columns(j.squared, columns, fold);
    #pragma omp simd
    for (size k = 0; k < channels; k++) {
        double scale = inv_std[k], a = scale * gamma[k];
        g_gamma[k] = j.squared[k] * scale;
        g_beta[k] = j.total[k];
        j.a[k] = a;
        j.b[k] = -a * scale * scale * j.squared[k] / pixels;
        j.c[k] = -a * j.total[k] / pixels;
    }
    spread(j.a, j.a, columns, fold);
    spread(j.b, j.b, columns, fold);
    spread(j.c, j.c, columns, fold);
    run(gradient, &j, threads);
}
