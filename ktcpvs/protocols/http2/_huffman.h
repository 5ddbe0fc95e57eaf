/* Huffman coding of strings in HPACK (RFC 7541, section 5.2): what huffman_python.py does, in C.
 *
 * The code is canonical, so all tables follow from the lengths in hpack_table.py, which the module reads when it is
 * imported. */

#ifndef KTCPVS_HUFFMAN_H
#define KTCPVS_HUFFMAN_H

#include <stdint.h>

#define SYMBOLS 257
#define EOS 256
#define MAX_BITS 30
#define FAST_BITS 10

static uint32_t codes[SYMBOLS];
static uint8_t code_lengths[SYMBOLS];
static uint16_t sorted_symbols[SYMBOLS];    /* by length, then by symbol */
static uint32_t first_code[MAX_BITS + 1];   /* of each length */
static uint16_t first_index[MAX_BITS + 1];  /* of that code in sorted_symbols */
static uint16_t code_count[MAX_BITS + 1];   /* codes of each length */
static uint8_t fast_symbol[1 << FAST_BITS]; /* of the code with which these bits begin */
static uint8_t fast_length[1 << FAST_BITS]; /* 0: it is longer */

static int
make_huffman_tables(PyObject *given)
{
    uint32_t code = 0;
    unsigned index = 0;

    if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) != SYMBOLS) {
        PyErr_SetString(PyExc_ImportError, "CODE_LENGTHS must be a tuple of 257 numbers");
        return -1;
    }
    for (unsigned symbol = 0; symbol < SYMBOLS; symbol++) {
        long length = PyLong_AsLong(PyTuple_GET_ITEM(given, symbol));
        if (length < 1 || length > MAX_BITS) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ImportError, "a length in CODE_LENGTHS is not between 1 and 30");
            return -1;
        }
        code_lengths[symbol] = (uint8_t)length;
    }
    for (unsigned length = 1; length <= MAX_BITS; length++) {
        code <<= 1;
        first_code[length] = code;
        first_index[length] = (uint16_t)index;
        code_count[length] = 0;
        for (unsigned symbol = 0; symbol < SYMBOLS; symbol++) {
            if (code_lengths[symbol] != length)
                continue;
            sorted_symbols[index++] = (uint16_t)symbol;
            code_count[length]++;
            codes[symbol] = code;
            if (length <= FAST_BITS) {
                unsigned shift = FAST_BITS - length;
                for (unsigned rest = 0; rest < 1u << shift; rest++) {
                    fast_symbol[(code << shift) | rest] = (uint8_t)symbol;
                    fast_length[(code << shift) | rest] = (uint8_t)length;
                }
            }
            code++;
        }
    }
    return 0;
}

/* The most bytes that a coded string of that many bytes means: the shortest code has 5 bits. */
static inline size_t
decoded_room(size_t length)
{
    return length * 8 / 5 + 1;
}

/* Decodes a string into `out`; returns its length, or -1 if the padding is not that of RFC 7541, or EOS occurs. */
static Py_ssize_t
huffman_decode(const unsigned char *in, size_t length, unsigned char *out)
{
    const unsigned char *end = in + length;
    unsigned char *begin = out;
    uint64_t bits = 0; /* the next `held` bits, at the low end */
    unsigned held = 0;

    for (;;) {
        unsigned size, symbol = EOS;
        while (held <= 56 && in < end) {
            bits = (bits << 8) | *in++;
            held += 8;
        }
        while (held >= FAST_BITS) {
            unsigned next = (unsigned)(bits >> (held - FAST_BITS)) & ((1u << FAST_BITS) - 1);
            size = fast_length[next];
            if (!size)
                break;
            *out++ = fast_symbol[next];
            held -= size;
        }
        if (in < end && held < FAST_BITS)
            continue;
        for (size = 5; size <= MAX_BITS && size <= held; size++) {
            uint32_t code = (uint32_t)(bits >> (held - size)) & ((1u << size) - 1);
            if (code >= first_code[size] && code - first_code[size] < code_count[size]) {
                symbol = sorted_symbols[first_index[size] + code - first_code[size]];
                break;
            }
        }
        if (size > held) {
            if (in < end)
                continue;
            /* What is left must be padding: at most 7 bits, all of them 1. */
            return held <= 7 && (bits & ((1u << held) - 1)) == (1u << held) - 1 ? out - begin : -1;
        }
        if (symbol == EOS)
            return -1;
        *out++ = (unsigned char)symbol;
        held -= size;
    }
}

/* The bytes of the coded string. */
static size_t
huffman_size(const unsigned char *text, size_t length)
{
    size_t total = 0;

    for (size_t position = 0; position < length; position++)
        total += code_lengths[text[position]];
    return (total + 7) / 8;
}

static unsigned char *
huffman_encode(const unsigned char *text, size_t length, unsigned char *out)
{
    uint64_t bits = 0;
    unsigned held = 0;

    for (size_t position = 0; position < length; position++) {
        unsigned symbol = text[position];
        bits = (bits << code_lengths[symbol]) | codes[symbol];
        held += code_lengths[symbol];
        while (held >= 8) {
            held -= 8;
            *out++ = (unsigned char)(bits >> held);
        }
    }
    if (held)
        *out++ = (unsigned char)((bits << (8 - held)) | (0xffu >> held));
    return out;
}

#endif
