#include "way.h"

#include <stdint.h>

#define APART __attribute__((noinline))

extern const int16_t way_weights[64];
const int16_t way_weights[64] = {
    3, -5, 7, 11, -13, 17, 19, -23, 29, 31, -37, 41, 43, -47, 53, 59,
    -61, 67, 71, -73, 79, 83, -89, 97, 101, 103, -107, 109, 113, -127, 131, 137,
    139, -149, 151, 157, -163, 167, 173, -179, 181, 191, -193, 197, 199, -211, 223, 227,
    -229, 233, 239, -241, 251, 257, -263, 269, 271, 277, -281, 283, 293, -307, 311, 313,
};

extern const uint8_t way_order[8];
const uint8_t way_order[8] = {5, 2, 7, 0, 3, 6, 1, 4};

extern const int8_t way_steps[8];
const int8_t way_steps[8] = {1, -2, 3, -4, 5, -6, 7, -8};

static int32_t word_at(const float *place)
{
    union {
        float real;
        int32_t word;
    } view;
    view.real = *place;
    return view.word;
}

static void put(float *place, int32_t word)
{
    union {
        float real;
        int32_t word;
    } view;
    view.word = word;
    *place = view.real;
}

/* What a switch over a counter does is known, whatever its cases do with the data. */
static APART int32_t mixed(unsigned how, int32_t x, int32_t y)
{
    switch (how & 7u) {
    case 0u:
        return (int32_t)((uint32_t)x + (uint32_t)y);
    case 1u:
        return x ^ y;
    case 2u:
#ifdef __ARM_ARCH_6M__ /* has no such product, and the library's looks at its operands */
        return (int16_t)x * (int16_t)y;
#else
        return (int32_t)(((int64_t)x * y) >> 31);
#endif
    case 3u:
        return (x >> 3) - (y >> 5);
    case 4u:
        return (int32_t)(uint8_t)x * (int32_t)(int16_t)y;
    case 5u:
        return (int32_t)((uint32_t)x << 7 | (uint32_t)y >> 25);
    case 6u:
        return x & ~y;
    default:
        return (int32_t)((uint32_t)x * 2654435761u);
    }
}

/* More values alive than registers, and loops within loops. */
static APART void multiplied(const int32_t *x, int32_t *y, unsigned rows, unsigned columns)
{
    unsigned row, column, pass;
    for (pass = 0; pass < 3u; pass++) {
        for (row = 0; row + 1u < rows; row += 2u) {
            const int16_t *first = &way_weights[row * columns];
            const int16_t *second = first + columns;
            int32_t a = y[row], b = y[row + 1u], c = 0, d = 0, e = 1, f = 2;
            for (column = 0; column < columns; column++) {
                const int32_t value = x[way_order[column]] >> (pass + 16u);
                a += first[column] * value;
                b += second[column] * value;
                c ^= a + way_steps[column];
                d += b >> 2;
                e += c & d;
                f ^= e + (int32_t)(column * rows);
            }
            y[row] = a + mixed(row + pass, c, d);
            y[row + 1u] = b ^ mixed(pass, e, f);
        }
    }
}

void way_evaluate(way_state *s, const float obs[], float act[])
{
    int32_t x[8], y[8];
    unsigned i;
    for (i = 0; i < 8u; i++) {
        x[i] = word_at(&obs[i]);
        y[i] = word_at(&s->memory[i]);
    }
    multiplied(x, y, 8u, 8u);
    for (i = 0; i < 8u; i++) {
        /* A table that the data index, and the larger of two without a branch. */
        const int32_t looked = way_weights[(uint32_t)y[i] & 63u];
        const int32_t negative = y[i] >> 31;
        put(&s->memory[i], looked + (y[i] & ~negative));
    }
    for (i = 0; i < 4u; i++) {
        put(&act[i], (int32_t)((uint32_t)y[i] + ((uint32_t)y[7u - i] >> 3)));
    }
}

APART void way_counted(way_state *s, const float obs[], float act[])
{
    int32_t left = word_at(&obs[0]) & 7;
    (void)s;
    while (left-- > 0) {
        put(&act[0], mixed((unsigned)left, word_at(&act[0]), left));
    }
}

APART void way_chosen(way_state *s, const float obs[], float act[])
{
    (void)s;
    put(&act[1], mixed((unsigned)word_at(&obs[0]), word_at(&obs[1]), word_at(&obs[2])));
}

APART void way_stored(way_state *s, const float obs[], float act[])
{
    (void)s;
    put(&act[(uint32_t)word_at(&obs[0]) & 3u], 1);
}

APART void way_endless(way_state *s, const float obs[], float act[])
{
    volatile uint32_t left = 3u;
    (void)s;
    (void)obs;
    while (left < 4u) {
        put(&act[0], (int32_t)left);
    }
}

void way_reset(way_state *s)
{
    unsigned i;
    for (i = 0; i < 8u; i++) {
        s->memory[i] = 0.0f;
    }
}

way_status way_step(way_state *s, const float obs[], float act[])
{
    way_evaluate(s, obs, act);
    return word_at(&act[0]) == 0 ? 1u : 0u;
}

way_status way_self_test(void)
{
    way_state s;
    float obs[8] = {0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f};
    float act[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    way_reset(&s);
    way_counted(&s, obs, act);
    way_chosen(&s, obs, act);
    way_stored(&s, obs, act);
    if (word_at(&act[3]) == 77) {
        way_endless(&s, obs, act);
    }
    return 0u;
}
