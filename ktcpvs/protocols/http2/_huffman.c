/* Huffman coding of strings in HPACK (RFC 7541, section 5.2): the functions of huffman_python.py in C.
 *
 * The code is canonical, so all tables follow from the lengths in hpack_table.py, which the module reads when it is
 * imported. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

#define SYMBOLS 257
#define EOS 256
#define MAX_BITS 30
#define FAST_BITS 9

static uint32_t codes[SYMBOLS];
static uint8_t lengths[SYMBOLS];
static uint16_t sorted_symbols[SYMBOLS];    /* by length, then by symbol */
static uint32_t first_code[MAX_BITS + 1];   /* of each length */
static uint16_t first_index[MAX_BITS + 1];  /* of that code in sorted_symbols */
static uint16_t count[MAX_BITS + 1];        /* codes of each length */
static uint8_t fast_symbol[1 << FAST_BITS]; /* of the code with which these bits begin */
static uint8_t fast_length[1 << FAST_BITS]; /* 0: it is longer */

static int
make_tables(PyObject *given)
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
        lengths[symbol] = (uint8_t)length;
    }
    for (unsigned length = 1; length <= MAX_BITS; length++) {
        code <<= 1;
        first_code[length] = code;
        first_index[length] = (uint16_t)index;
        count[length] = 0;
        for (unsigned symbol = 0; symbol < SYMBOLS; symbol++) {
            if (lengths[symbol] != length)
                continue;
            sorted_symbols[index++] = (uint16_t)symbol;
            count[length]++;
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

PyDoc_STRVAR(decode_doc, "Return the string; None if the padding is not that of RFC 7541, or EOS occurs.");

static PyObject *
decode(PyObject *module, PyObject *given)
{
    Py_buffer data;
    PyObject *result = NULL;
    char *out;
    Py_ssize_t used = 0, position = 0;
    uint64_t bits = 0; /* the next `held` bits, at the low end */
    unsigned held = 0;

    (void)module;
    if (PyObject_GetBuffer(given, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    /* The shortest code has 5 bits. */
    out = PyMem_Malloc((size_t)(data.len * 8 / 5 + 1));
    if (out == NULL) {
        PyBuffer_Release(&data);
        return PyErr_NoMemory();
    }
    for (;;) {
        unsigned length, symbol = EOS;
        while (held <= 56 && position < data.len) {
            bits = (bits << 8) | ((const unsigned char *)data.buf)[position++];
            held += 8;
        }
        if (held >= FAST_BITS) {
            unsigned next = (unsigned)(bits >> (held - FAST_BITS)) & ((1u << FAST_BITS) - 1);
            length = fast_length[next];
            if (length) {
                out[used++] = (char)fast_symbol[next];
                held -= length;
                continue;
            }
        }
        for (length = 5; length <= MAX_BITS && length <= held; length++) {
            uint32_t code = (uint32_t)(bits >> (held - length)) & ((1u << length) - 1);
            if (code >= first_code[length] && code - first_code[length] < count[length]) {
                symbol = sorted_symbols[first_index[length] + code - first_code[length]];
                break;
            }
        }
        if (length > held) { /* what is left must be padding: at most 7 bits, all of them 1 */
            if (held <= 7 && (bits & ((1u << held) - 1)) == (1u << held) - 1)
                result = PyBytes_FromStringAndSize(out, used);
            else
                result = Py_NewRef(Py_None);
            break;
        }
        if (symbol == EOS) {
            result = Py_NewRef(Py_None);
            break;
        }
        out[used++] = (char)symbol;
        held -= length;
    }
    PyMem_Free(out);
    PyBuffer_Release(&data);
    return result;
}

PyDoc_STRVAR(encode_doc, "Return the coded string.");

static PyObject *
encode(PyObject *module, PyObject *given)
{
    Py_buffer data;
    PyObject *result;
    unsigned char *out;
    uint64_t bits = 0, total = 0;
    unsigned held = 0;

    (void)module;
    if (PyObject_GetBuffer(given, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    for (Py_ssize_t position = 0; position < data.len; position++)
        total += lengths[((const unsigned char *)data.buf)[position]];
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)((total + 7) / 8));
    if (result != NULL) {
        out = (unsigned char *)PyBytes_AS_STRING(result);
        for (Py_ssize_t position = 0; position < data.len; position++) {
            unsigned symbol = ((const unsigned char *)data.buf)[position];
            bits = (bits << lengths[symbol]) | codes[symbol];
            held += lengths[symbol];
            while (held >= 8) {
                held -= 8;
                *out++ = (unsigned char)(bits >> held);
            }
        }
        if (held)
            *out = (unsigned char)((bits << (8 - held)) | (0xffu >> held));
    }
    PyBuffer_Release(&data);
    return result;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_O, decode_doc},
    {"encode", encode, METH_O, encode_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_huffman", "Huffman coding of strings in HPACK.", -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__huffman(void)
{
    PyObject *table, *given;
    int failed;

    table = PyImport_ImportModule("ktcpvs.protocols.http2.hpack_table");
    if (table == NULL)
        return NULL;
    given = PyObject_GetAttrString(table, "CODE_LENGTHS");
    Py_DECREF(table);
    if (given == NULL)
        return NULL;
    failed = make_tables(given);
    Py_DECREF(given);
    return failed < 0 ? NULL : PyModule_Create(&definition);
}
